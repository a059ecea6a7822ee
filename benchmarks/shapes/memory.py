"""Memory of training, by part, in bytes."""

from typing import Any, NamedTuple

from torch import nn

from benchmarks.shapes.counts import Counts, adapt_on_meta, count_trainable
from benchmarks.shapes.models import Shape, build_on_meta
from pipeline.models.head import LOGITS

# bits of a weight in nf4 with double quantization: a scale of 8 bits for 64 weights, and a float32 for 256 scales
# (arXiv:2305.14314, section 3)
NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)
# Bytes for each logit at the peak, in the backward pass of the cross entropy: log probabilities, their gradient and that
# of the logits, all in float32.
LOGIT_BYTES = 4 + 4 + 4
# The same in pieces, whose logits are computed again: four copies, as pipeline.models.head states.
PIECE_BYTES = 4 * 4


class Weights(NamedTuple):
    """Parameters of a base: those of the decoder layers' linear maps, which quantization replaces, and all others."""

    linear: int
    rest: int
    # rows of the linear maps, each of which has a float32 scale in int8
    rows: int

    def size(self, form: str) -> float:
        """Return the bytes of the weights in bfloat16 ("bf16"), "nf4" or "int8"."""
        linear = {"bf16": 2.0 * self.linear, "int8": self.linear + 4.0 * self.rows}
        return 2.0 * self.rest + linear.get(form, self.linear * NF4_BITS / 8)


def count_weights(model: Any) -> Weights:
    """Count the parameters of a base, tied ones once. The head is not quantized."""
    head = model.get_output_embeddings()
    maps = [module for module in model.modules() if isinstance(module, nn.Linear) and module is not head]
    linear = sum(module.weight.numel() for module in maps)
    total = sum(parameter.numel() for parameter in model.parameters())
    return Weights(linear, total - linear, sum(module.out_features for module in maps))


class Parts(NamedTuple):
    """Bytes of a training by part.

    Attributes:
        weights: of the frozen base; 0 if all weights are trained.
        trained: trained tensors, their gradients and AdamW's two moments, all float32.
        kept: activations that are kept for the backward pass.
        logits: logits and their gradients.
    """

    weights: float
    trained: float
    kept: float
    logits: float

    @property
    def total(self) -> float:
        """Bytes of all parts."""
        return sum(self)


class Footprint(NamedTuple):
    """What the memory of a training follows from, whatever its form."""

    weights: Weights
    trainable: int
    full: bool
    # whether the loss can be computed in pieces: not with a trained head, or a cap on the logits
    divisible: bool
    hidden: int
    vocabulary: int
    tokens: int
    counts: Counts

    def parts(self, form: str, *, pieces: bool, checkpointing: bool) -> Parts:
        """Return the memory by part.

        Args:
            form: of the frozen weights: "bf16", "nf4" or "int8".
            pieces: head and loss are computed in pieces, if the model allows it.
            checkpointing: a layer keeps its input only, and computes its activations again in the backward pass.
        """
        kept = self.counts.kept()
        if checkpointing:
            inputs = 2.0 * self.tokens * self.hidden * self.counts.layers
            kept += inputs - self.counts.kept_by_layer() * (self.counts.layers - 1)
        logits = self.tokens * self.vocabulary
        in_pieces = pieces and self.divisible and logits > LOGITS
        return Parts(
            weights=0.0 if self.full else self.weights.size(form),
            trained=16.0 * self.trainable,
            kept=kept,
            logits=float(PIECE_BYTES * LOGITS if in_pieces else LOGIT_BYTES * logits),
        )


def measure_footprint(shape: Shape, method: str, counts: Counts, *, tokens: int) -> Footprint:
    """Build the whole model on the meta device, add the adapter and count both."""
    base = build_on_meta(shape)
    return Footprint(
        weights=count_weights(base),
        trainable=count_trainable(adapt_on_meta(shape, method)),
        full=method == "full",
        divisible=method != "full" and getattr(base.config, "final_logit_softcapping", None) is None,
        hidden=int(base.config.hidden_size),
        vocabulary=int(base.config.vocab_size),
        tokens=tokens,
        counts=counts,
    )


def cache_bytes(config: Any) -> float:
    """Return the bytes of the keys and values of a token, in bfloat16."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2.0 * 2 * int(config.num_hidden_layers) * int(heads) * int(size)
