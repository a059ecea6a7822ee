"""AdamW, its learning rate schedule, and the scale of its gradients in float16."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from pipeline.params.base import Training


def build_optimizer(parameters: Iterable[Tensor], settings: Training) -> torch.optim.Optimizer:
    """Return AdamW over ``parameters`` with the settings of a training."""
    return torch.optim.AdamW(
        parameter_groups(parameters, weight_decay=settings.weight_decay),
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        eps=settings.adam_epsilon,
        # a single call updates all parameters; adapters have many small ones
        fused=True,
    )


def build_scaler(dtype: str, device: torch.device) -> torch.amp.GradScaler:
    """Return the scaler of a training's gradients: in float16 those of single tokens would underflow.

    After a step that overflows, the scale is halved; after 2,000 steps without one it is doubled. With another dtype
    the scaler does nothing, and the scale is 1.

    Source: Micikevicius et al. 2018, arXiv:1710.03740, section 3.2.
    """
    return torch.amp.GradScaler(device.type, enabled=dtype == "float16")


def parameter_groups(parameters: Iterable[Tensor], *, weight_decay: float) -> list[dict[str, Any]]:
    """Return the non-empty parameter groups of an optimizer.

    Vectors (biases, scales, norms) do not decay, as in transformers' Trainer.
    """
    matrices: list[Tensor] = []
    vectors: list[Tensor] = []
    for parameter in parameters:
        (matrices if parameter.dim() > 1 else vectors).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def learning_rate_at(step: int, *, total_steps: int, settings: Training) -> float:
    """Return the learning rate of a step: transformers' schedules, as a function of the step alone.

    It rises linearly from 0 for ``warmup_steps``; then it falls to 0 at ``total_steps`` in a straight line or half a
    cosine, or stays constant.

    Args:
        step: counted from 0.
        total_steps: optimizer steps of the training.
        settings: of the training.
    """
    peak, warmup = settings.learning_rate, settings.warmup_steps
    if step < warmup:
        return float(peak * step / warmup)
    progress = (step - warmup) / max(1, total_steps - warmup)
    shapes = {"linear": 1 - progress, "cosine": 0.5 * (1 + math.cos(math.pi * progress)), "constant": 1.0}
    return float(peak * max(0.0, shapes[settings.lr_scheduler]))
