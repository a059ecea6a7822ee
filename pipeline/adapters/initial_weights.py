"""Initial weights of LoRA that are computed from training examples: EVA, CorDA and LoRA-GA.

- EVA (arXiv:2410.07170): A holds the main directions of each module's inputs, and modules with more of them get more rank.
- CorDA (arXiv:2406.05223): A and B are the part of the base's weights that matters most (``ipm``) or least (``kpm``) to the
  inputs; it is taken out of the base.
- LoRA-GA (arXiv:2407.05000): A and B follow the singular directions of the gradient, and their product is taken out of the base.

peft computes them. This module supplies the examples, and checks that each module got what the card says. The result depends only
on the seed and the batches.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from peft.tuners.lora import LoraLayer, LoraModel
from peft.tuners.lora.corda import preprocess_corda
from peft.tuners.lora.eva import get_eva_state_dict, initialize_lora_eva_weights
from peft.tuners.lora.loraga import get_target_modules, preprocess_loraga
from peft.tuners.tuners_utils import _maybe_include_all_linear_layers
from peft.utils.other import get_pattern_key
from torch import Tensor, nn

from pipeline.adapters.methods import MethodFields
from pipeline.core.errors import UserError
from pipeline.params.peft.values import DATA_DRIVEN

# input_ids, attention_mask and labels, each (examples, tokens), int64, padded on the right; a label of -100 bears no loss
Batch = Mapping[str, Tensor]
# EVA reads the batches again until its directions settle; without a bound this might never end
MOST_PASSES = 100


@dataclass(frozen=True)
class InitialBatches:
    """The training examples that initial weights are computed from.

    Attributes:
        steps: the micro-batches of each optimizer step, on the model's device.
        loss: returns the loss of a model on a micro-batch, summed over the tokens that bear loss: a scalar.
    """

    steps: Sequence[Sequence[Batch]]
    loss: Callable[[Any, Batch], Tensor]

    @property
    def micro_batches(self) -> list[Batch]:
        """The micro-batches of all steps."""
        return [batch for step in self.steps for batch in step]


class InitialWeights(TypedDict):
    """What initial weights were computed from, for the manifest of an adapter."""

    init_lora_weights: str
    # optimizer steps' worth of examples
    batches: int
    examples: int
    # real tokens, prompts included
    tokens: int


def is_data_driven(method: MethodFields) -> bool:
    """Return whether a method card asks for initial weights that are computed from examples."""
    return method.get("init_lora_weights") in DATA_DRIVEN


def describe_initial_weights(method: MethodFields, batches: InitialBatches) -> InitialWeights:
    """Return what the initial weights were computed from."""
    masks = [batch["attention_mask"] for batch in batches.micro_batches]
    return {
        "init_lora_weights": method["init_lora_weights"],
        "batches": len(batches.steps),
        "examples": sum(len(mask) for mask in masks),
        "tokens": int(sum(int(mask.sum()) for mask in masks)),
    }


def prepare_base(model: Any, config: Any, batches: InitialBatches) -> None:
    """Compute what CorDA and LoRA-GA need before the adapter is added; peft keeps it in the modules of ``model``.

    Args:
        model: the base.
        config: peft's LoraConfig; its target modules become a list of names.
        batches: the training examples to read.

    Raises:
        UserError: the rank is above what a module's width allows.
    """
    if config.init_lora_weights == "eva":
        return
    # get_peft_model resolves them too, but only later
    if config.target_modules is None:
        config.target_modules = LoraModel.target_module_mapping.get(model.config.model_type)
    _maybe_include_all_linear_layers(config, model)
    for name, module in get_target_modules(model, config):
        # LoRA-GA takes A and B from different directions
        width = min(module.weight.shape) // (2 if config.init_lora_weights == "lora_ga" else 1)
        rank = config.rank_pattern.get(get_pattern_key(config.rank_pattern.keys(), name), config.r)
        if rank > width:
            raise _rank_error(config, name, rank, width)
    if config.init_lora_weights == "corda":
        with torch.no_grad():
            preprocess_corda(model, config, run_model=lambda: _run_rows(model, batches))
    else:
        preprocess_loraga(model, config, train_step=lambda: _add_gradients(model, batches))


def _run_rows(model: nn.Module, batches: InitialBatches) -> None:
    """Run each example on its own, without padding: CorDA counts every position of what a module reads."""
    for batch in batches.micro_batches:
        for row, mask in enumerate(batch["attention_mask"]):
            length = int(mask.sum())
            batches.loss(model, {name: values[row : row + 1, :length] for name, values in batch.items()})


def _add_gradients(model: nn.Module, batches: InitialBatches) -> None:
    """Run backward for each micro-batch, so that peft's mean over micro-batches is the mean over steps.

    The loss of a step is the training's: the mean over its tokens that bear loss.
    """
    scale = len(batches.micro_batches) / len(batches.steps)
    for step in batches.steps:
        supervised = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in step)
        for batch in step:
            torch.autograd.backward(batches.loss(model, batch) * (scale / supervised))


def finish_adapter(adapted: Any, config: Any, batches: InitialBatches) -> None:
    """Compute EVA's weights once the adapter is there, and check that every module was initialised.

    Raises:
        UserError: too few tokens for the rank, directions that do not settle, or a module that stayed plain LoRA.
    """
    if config.init_lora_weights == "eva":
        _initialize_by_eva(adapted, config, batches)
    else:
        # what is saved is a plain LoRA, and peft warns of settings that a plain LoRA does not read
        setattr(config, DATA_DRIVEN[config.init_lora_weights], None)
    if config.init_lora_weights == "lora_ga":
        for name, layer in _lora_layers(adapted):
            weights = [*layer.lora_B.values(), *layer.lora_embedding_B.values()]
            if not all(bool(getattr(weight, "weight", weight).any()) for weight in weights):
                raise UserError(
                    f"init_lora_weights: lora_ga got no gradient for {name}; take it out of target_modules"
                )


def _initialize_by_eva(adapted: Any, config: Any, batches: InitialBatches) -> None:
    components = round(max([config.r, *config.rank_pattern.values()]) * config.eva_config.rho)
    counts = [_count_eva_tokens(batch, config.eva_config) for batch in batches.micro_batches]
    # peft skips the others, and would loop for ever if it skipped all
    usable = [
        batch for batch, count in zip(batches.micro_batches, counts, strict=True) if count >= components
    ]
    if not usable:
        raise UserError(
            f"init_lora_weights: eva looks for {components} directions (r times rho) in a micro-batch, but the largest has "
            f"{max(counts)} tokens; lower r or rho, or raise batch_size or micro_batch_tokens"
        )
    passes_left = MOST_PASSES * len(usable)

    def run(model: Any, batch: Batch) -> None:
        nonlocal passes_left
        passes_left -= 1
        if passes_left < 0:
            raise UserError(
                f"init_lora_weights: eva has not converged after {MOST_PASSES} passes over its batches; "
                f"lower eva_config.tau ({config.eva_config.tau}) or change init_batches"
            )
        batches.loss(model, batch)

    # every process reads all batches, so nothing is gathered
    weights = get_eva_state_dict(
        adapted, usable, forward_fn=run, gather_distributed_inputs=False, show_progress_bar=False
    )
    missing = [name for name, _ in _lora_layers(adapted) if name not in weights]
    if missing:
        raise UserError(
            f"init_lora_weights: eva cannot initialise {missing[0]}; take it out of target_modules"
        )
    initialize_lora_eva_weights(adapted, eva_state_dict=weights)


def _count_eva_tokens(batch: Batch, settings: Any) -> int:
    mask = batch["attention_mask"].bool()
    if settings.use_label_mask:
        mask = mask & (batch["labels"] != settings.label_mask_value)
    return int(mask.sum())


def _lora_layers(model: nn.Module) -> list[tuple[str, Any]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer)]


def check_ranks(adapted: nn.Module, config: Any) -> None:
    """Refuse an initialisation that gave a module a lower rank than the card says; peft does so silently.

    Singular value decompositions and QR yield no more directions than the module is wide.

    Raises:
        UserError: with the module and its width.
    """
    if not isinstance(getattr(config, "init_lora_weights", None), str):
        return
    for name, layer in _lora_layers(adapted):
        for adapter, down in layer.lora_A.items():
            if layer.r[adapter] != len(down.weight):
                raise _rank_error(config, name, layer.r[adapter], len(down.weight))


def _rank_error(config: Any, name: str, rank: int, width: int) -> UserError:
    return UserError(
        f"r: {rank} exceeds {width}, the highest rank that init_lora_weights: {config.init_lora_weights} allows for {name}"
    )
