"""The last checkpoint of a training: what its adapter, its optimizer and its logs need to resume after a kill."""

import dataclasses
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.amp import GradScaler

from pipeline.adapters.methods import MethodState
from pipeline.core.io import atomic_file
from pipeline.models.training_job import LogWindow, TrainingState


class Restored(NamedTuple):
    """What a checkpoint holds besides the weights and the optimizer."""

    state: TrainingState
    method_state: MethodState
    # the best weights so far and the state of the method at that step; empty: none are kept
    best: dict[str, Any]


def save_checkpoint(
    path: Path,
    parameters: list[Tensor],
    optimizer: torch.optim.Optimizer,
    *,
    scaler: GradScaler,
    identity: str,
    state: TrainingState,
    method_state: MethodState,
    best: Mapping[str, Any],
) -> None:
    """Write a checkpoint in place of the last one.

    Args:
        path: the file.
        parameters: the trainable parameters.
        optimizer: the optimizer of those parameters.
        scaler: the scale of their gradients.
        identity: distinguishes the checkpoints of this training from those of any other.
        state: how far the training is.
        method_state: what the method carries from step to step besides its weights.
        best: what ``BestWeights.content`` returns.
    """
    content = {
        "identity": identity,
        "state": json.dumps(dataclasses.asdict(state)),
        "method": method_state,
        "parameters": [parameter.detach() for parameter in parameters],
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict(),
        "best": dict(best),
    }
    # given an open file, torch reports a full disk as an OSError
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        torch.save(content, file)


def restore_checkpoint(
    path: Path,
    parameters: list[Tensor],
    optimizer: torch.optim.Optimizer,
    *,
    scaler: GradScaler,
    identity: str,
) -> Restored | None:
    """Load a checkpoint into parameters, optimizer and scaler; return the rest, or None without one of this training."""
    if not path.is_file():
        return None
    # Loads tensors and plain values; other pickled objects could run code. On the host, since a second copy of weights and
    # moments may not fit the device; each is copied to the device of what it restores.
    content = torch.load(path, map_location="cpu", weights_only=True)
    if content["identity"] != identity:
        print(f"{path}: checkpoint of another training, ignored", file=sys.stderr)
        return None
    with torch.no_grad():
        for parameter, saved in zip(parameters, content["parameters"], strict=True):
            parameter.copy_(saved)
    optimizer.load_state_dict(content["optimizer"])
    if scaler.is_enabled():
        scaler.load_state_dict(content["scaler"])
    state = json.loads(content["state"])
    window = LogWindow(**state.pop("window"))
    return Restored(TrainingState(**state, window=window), content.get("method", {}), content.get("best", {}))
