"""What single methods need in training, saving and loading beyond what peft does for all of them.

- AdaLoRA: a schedule that depends on the length of the training, a penalty on the loss, and a new allocation of ranks
  after each step.
- PiSSA and others that take their initial weights out of the base: saved as plain LoRA, so that the base is unchanged.
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
from pipeline.params.peft.values import TAKEN_FROM_THE_BASE

# the resolved fields of a method card: "kind" and the fields of its peft config, which differ from method to method
MethodFields = Mapping[str, Any]
# tensors and plain values that a checkpoint stores for a method, by name
MethodState = dict[str, Any]

ALLOCATOR_STATE = ("ipt", "exp_avg_ipt", "exp_avg_unc")
# peft warns of two things that are intended: a module that AdaLoRA left without rank, and saving initial weights
INTENDED_WARNINGS = (r".*LoRA tensor\(s\) have invalid shape", "PiSSA changes the base weights")


def fill_schedule(method: MethodFields, *, steps: int) -> MethodFields:
    """Return ``method`` with the fields filled in that depend on the length of the training and that the card leaves open.

    AdaLoRA (arXiv:2303.10512) prunes from step ``tinit`` until ``tfinal`` steps before the end. The paper chooses both
    for each data set; here they default to a tenth and a half of all steps.

    Raises:
        UserError: AdaLoRA has no step to measure the importance of the ranks in before it must choose them.
    """
    if method.get("peft_type") != "ADALORA":
        return dict(method)
    card = {key: value for key, value in method.items() if value is not None}
    schedule = {"total_step": steps, "tinit": steps // 10, "tfinal": steps // 2, **card}
    if schedule["total_step"] - schedule["tfinal"] < 2:
        raise UserError(
            f"total_step: ADALORA cannot choose ranks in {schedule['total_step']} steps if the last "
            f"{schedule['tfinal']} (tfinal) are excluded; train for 3 steps or more, or lower tfinal"
        )
    return schedule


def count_virtual_tokens(method: MethodFields) -> int:
    """Return how many positions of the model a method's soft prompt or prefix takes."""
    return int(method.get("num_virtual_tokens") or len(method.get("cpt_token_ids") or ()))


def loss_penalty(model: Any) -> Tensor | None:
    """Return what the method adds to the loss of a step, a scalar, or None.

    AdaLoRA keeps the rows of A and the columns of B nearly orthogonal: it adds the mean of ||P P^T - I|| over all A and
    B, times ``orth_reg_weight``. peft adds it to the loss that transformers computes; ours is computed from the logits.
    """
    if _rank_allocator(model) is None:
        return None
    weight: float = float(model.active_peft_config.orth_reg_weight)
    terms = [
        _orthogonality_error(factor, name)
        for name, factor in model.named_parameters()
        if "lora_A" in name or "lora_B" in name
    ]
    return torch.stack(terms).mean() * weight if weight and terms else None


def _orthogonality_error(factor: Tensor, name: str) -> Tensor:
    product = factor @ factor.T if "lora_A" in name else factor.T @ factor
    identity = torch.eye(len(product), dtype=product.dtype, device=product.device)
    distance: Tensor = torch.linalg.matrix_norm(product - identity)
    return distance


def finish_step(model: Any, step: int) -> None:
    """Do what the method does between an optimizer step and the reset of the gradients; ``step`` counts from 1."""
    if _rank_allocator(model) is not None:
        model.base_model.update_and_allocate(step)


def method_state(model: Any) -> MethodState:
    """Return what the method carries from step to step besides its weights."""
    allocator = _rank_allocator(model)
    if allocator is None:
        return {}
    averages = {name: getattr(allocator, name) for name in ALLOCATOR_STATE}
    return {**averages, "rank_pattern": allocator.peft_config.rank_pattern}


def restore_method_state(model: Any, state: MethodState) -> None:
    """Put back what ``method_state`` returned."""
    allocator = _rank_allocator(model)
    if allocator is not None and state:
        allocator.peft_config.rank_pattern = state["rank_pattern"]
        for name in ALLOCATOR_STATE:
            # a checkpoint is read on the host
            averages = {key: average.to(model.device) for key, average in state[name].items()}
            setattr(allocator, name, averages)


def _rank_allocator(model: Any) -> Any:
    return getattr(model.base_model, "rankallocator", None) if isinstance(model, PeftModel) else None


def takes_weights_from_base(model: Any) -> bool:
    """Return whether the method took its initial weights out of the base, which holds the residual now."""
    if not isinstance(model, PeftModel):
        return False
    rule = str(getattr(model.active_peft_config, "init_lora_weights", "")).lower()
    return rule.startswith(TAKEN_FROM_THE_BASE)


def save_trained(model: Any, directory: Path, *, tokenizer: Any, initial_weights: Path | None) -> None:
    """Write an adapter in peft's format, or a fully fine-tuned model with its tokenizer in transformers' format.

    Args:
        model: the trained model.
        directory: an existing directory.
        tokenizer: of the base; an adapter does not need it.
        initial_weights: directory of the adapter's initial weights, for a method that ``takes_weights_from_base``. What is
            saved is then the difference: a LoRA of twice the rank on the unchanged base.
    """
    if not isinstance(model, PeftModel):
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        return
    conversion = {"path_initial_model_for_weight_conversion": str(initial_weights)} if initial_weights else {}
    with warnings.catch_warnings():
        for message in INTENDED_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        model.save_pretrained(directory, save_embedding_layers=False, **conversion)
    # peft's model card is a form that nobody has filled in
    (directory / "README.md").unlink(missing_ok=True)


def count_parameters(model: Any) -> tuple[int, int]:
    """Return the number of trainable parameters and of all parameters."""
    if isinstance(model, PeftModel):
        trainable, total = model.get_nb_trainable_parameters()
        return int(trainable), int(total)
    total = sum(parameter.numel() for parameter in model.parameters())
    return total, total
