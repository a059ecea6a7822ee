"""What single methods need in training, saving and loading beyond what peft does for all of them.

- AdaLoRA: a schedule by the training's length, a penalty on the loss, and an allocation of ranks after each step.
- PiSSA and others that take their first weights out of the base: saved as plain LoRA, so that the base stays as it is.
- Full fine-tuning: no adapter; the whole model is saved.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from pipeline.core.errors import UserError

# values of LoraConfig.init_lora_weights with which peft replaces the base's weights by what is left of them
TAKEN_FROM_THE_BASE = ("pissa", "corda", "olora")

ALLOCATOR_STATE = ("ipt", "exp_avg_ipt", "exp_avg_unc")
# peft's warnings of what is meant here: a module that AdaLoRA left no rank, and first weights beside the trained ones
MEANT = (r".*LoRA tensor\(s\) have invalid shape", "PiSSA changes the base weights")


def scheduled(method: Mapping[str, Any], *, steps: int) -> dict[str, Any]:
    """Return ``method`` with what depends on the training's length filled in, where the card leaves it open.

    AdaLoRA (arXiv:2303.10512) prunes from ``tinit`` steps after the start to ``tfinal`` steps before the end. The paper
    chooses both by the data set; here they are a tenth and a half of all steps, unless given.

    Raises:
        UserError: AdaLoRA has no step in which to weigh the ranks before it must have chosen them.
    """
    if method.get("peft_type") != "ADALORA":
        return dict(method)
    given = {key: value for key, value in method.items() if value is not None}
    schedule = {"total_step": steps, "tinit": steps // 10, "tfinal": steps // 2, **given}
    if schedule["total_step"] - schedule["tfinal"] < 2:
        raise UserError(
            f"total_step: ADALORA cannot choose ranks in {schedule['total_step']} steps with the last "
            f"{schedule['tfinal']} (tfinal) kept from it; train 3 steps or more, or lower tfinal"
        )
    return schedule


def penalty(model: Any) -> Tensor | None:
    """Return what the method adds to the loss of a step, a scalar; None: nothing.

    AdaLoRA keeps the rows of A and the columns of B near orthogonal: the mean of ||P P^T - I|| over all A and B, times
    ``orth_reg_weight``. peft adds it to the loss that transformers computes; ours is computed from the logits.
    """
    if _allocator(model) is None:
        return None
    weight: float = float(model.active_peft_config.orth_reg_weight)
    terms = [_from_orthogonal(p, name) for name, p in model.named_parameters() if _is_factor(name)]
    return torch.stack(terms).mean() * weight if weight and terms else None


def _is_factor(name: str) -> bool:
    return "lora_A" in name or "lora_B" in name


def _from_orthogonal(factor: Tensor, name: str) -> Tensor:
    product = factor @ factor.T if "lora_A" in name else factor.T @ factor
    identity = torch.eye(len(product), dtype=product.dtype, device=product.device)
    distance: Tensor = torch.linalg.matrix_norm(product - identity)
    return distance


def after_step(model: Any, step: int) -> None:
    """Do what the method does after an optimizer's step and before the gradients are cleared; ``step`` counts from 1."""
    if _allocator(model) is not None:
        model.base_model.update_and_allocate(step)


def state_of(model: Any) -> dict[str, Any]:
    """Return what the method keeps from step to step beside its weights: tensors and plain values for a checkpoint."""
    allocator = _allocator(model)
    if allocator is None:
        return {}
    kept = {name: getattr(allocator, name) for name in ALLOCATOR_STATE}
    return {**kept, "rank_pattern": allocator.peft_config.rank_pattern}


def restore(model: Any, state: Mapping[str, Any]) -> None:
    """Put back what ``state_of`` returned."""
    allocator = _allocator(model)
    if allocator is not None and state:
        allocator.peft_config.rank_pattern = state["rank_pattern"]
        for name in ALLOCATOR_STATE:
            setattr(allocator, name, dict(state[name]))


def _allocator(model: Any) -> Any:
    return getattr(model.base_model, "rankallocator", None) if isinstance(model, PeftModel) else None


def takes_from_base(model: Any) -> bool:
    """Tell whether the method replaced the base's weights by what its first weights left of them."""
    if not isinstance(model, PeftModel):
        return False
    first = str(getattr(model.active_peft_config, "init_lora_weights", "")).lower()
    return first.startswith(TAKEN_FROM_THE_BASE)


def save(model: Any, directory: Path, *, tokenizer: Any, first: Path | None) -> None:
    """Write an adapter in peft's format, or a fully trained model with its tokenizer in transformers'.

    Args:
        model: trained.
        directory: that exists.
        tokenizer: of the base.
        first: folder that has the adapter's first weights, for a method that ``takes_from_base``: what is saved is then
            the difference, a LoRA of twice the rank on the untouched base.
    """
    if not isinstance(model, PeftModel):
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        return
    convert = {"path_initial_model_for_weight_conversion": str(first)} if first else {}
    with warnings.catch_warnings():
        for meant in MEANT:
            warnings.filterwarnings("ignore", message=meant)
        model.save_pretrained(directory, save_embedding_layers=False, **convert)
    (directory / "README.md").unlink(missing_ok=True)  # peft's model card: a form with nothing filled in


def counts(model: Any) -> tuple[int, int]:
    """Return how many parameters are trained, and how many there are."""
    if isinstance(model, PeftModel):
        trained, everything = model.get_nb_trainable_parameters()
        return int(trained), int(everything)
    every = sum(parameter.numel() for parameter in model.parameters())
    return every, every
