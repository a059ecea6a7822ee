"""The output layer and the cross entropy, in pieces where the logits of all tokens would need too much memory."""

from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax, nll_loss
from torch.utils.checkpoint import checkpoint

from pipeline.adapters.precision import compute_in
from pipeline.core.hardware.accelerators import fork_generators
from pipeline.models.bases.placement import devices_of

# Most logits that exist at once: 128 MiB in float32, of which a backward pass holds about four copies. A base of a few
# thousand words with the default budget stays below it.
LOGITS = 2**25
# whether the logits of a model are the output of its head, without a factor or a cap after it
_ends_with_head: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def needs_pieces(base: Any, tokens: int, *, dtype: str = "float32", most: int = LOGITS) -> bool:
    """Return whether the loss of a causal language model on so many supervised tokens is computed in pieces.

    On a CPU a head that is trained, alone or tied to a trained embedding, is not cut: the gradient of its weights is a sum
    over tokens, which pieces round differently, and results there keep their bytes.

    Args:
        base: a causal language model; its modules may have adapters.
        tokens: supervised tokens.
        dtype: that the model computes in.
        most: logits, tokens times words, up to which there is a single piece.
    """
    head = base.get_output_embeddings()
    if tokens * base.config.get_text_config().vocab_size <= most:
        return False
    keeps_bytes = base.device.type == "cpu" and any(
        parameter.requires_grad for parameter in head.parameters()
    )
    return not keeps_bytes and _head_is_last(base, head, dtype)


def _head_is_last(base: Any, head: nn.Module, dtype: str) -> bool:
    """Return whether a model's logits are what its head returns. Some models scale or cap them afterwards."""
    if base not in _ends_with_head:
        outputs: list[Tensor] = []
        hook = head.register_forward_hook(lambda _, inputs, output: outputs.append(output))
        try:
            with (
                fork_generators(devices_of(base, base.device)),
                torch.no_grad(),
                compute_in(dtype, base.device),
            ):
                ids = torch.zeros((1, 1), dtype=torch.int64, device=base.device)
                logits = base(input_ids=ids, use_cache=False).logits
        finally:
            hook.remove()
        _ends_with_head[base] = logits is outputs[0]
    return _ends_with_head[base]


def loss_of_hidden(
    head: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor, *, words: int, most: int = LOGITS
) -> Tensor:
    """Return the summed cross entropy of hidden states, in pieces whose logits the backward pass computes again.

    Loss and gradients of the hidden states have the bits of the undivided computation (float32 on a CPU). Those of a trained
    head differ by rounding. Under autocast its cache must be off (``compute_in``): otherwise pieces share a cast of the
    weights, and their gradients are summed in 16 bits.

    Args:
        head: returns logits (tokens, words).
        hidden: (tokens, width); the input of the head.
        targets: (tokens,), int64.
        words: size of the vocabulary.
        most: logits of a piece.
    """
    tokens = len(targets)
    pieces = min(tokens, -(-tokens * words // most))
    # of nearly equal size: a matrix product with very few rows may take another path, which rounds differently
    scores = [
        checkpoint(partial(_target_scores, head), part, goal, use_reentrant=False, preserve_rng_state=False)
        for part, goal in zip(hidden.tensor_split(pieces), targets.tensor_split(pieces), strict=True)
    ]
    # the same sum as in cross_entropy, whose order decides the last bits
    chosen = torch.cat(scores)
    return nll_loss(chosen, torch.zeros_like(targets, device=chosen.device), reduction="sum")


def _target_scores(head: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor) -> Tensor:
    """Return the log probabilities of targets, (tokens, 1), in float32."""
    scores = log_softmax(head(hidden).float(), -1)
    return scores.gather(-1, targets[:, None].to(scores.device))


def loss_of_logits(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the summed cross entropy of logits (tokens, words), in float32."""
    return cross_entropy(logits.float(), targets, reduction="sum")
