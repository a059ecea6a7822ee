"""A training's last checkpoint: what its adapter, its optimizer and its records need to go on after a kill."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.core.io import atomic_file


def save(
    path: Path,
    parameters: list[Tensor],
    optimizer: torch.optim.Optimizer,
    *,
    identity: str,
    state: dict[str, Any],
    method: dict[str, Any],
) -> None:
    """Write a checkpoint in place of the last one.

    Args:
        path: of the file.
        parameters: those that are trained.
        optimizer: theirs.
        identity: of which training it is.
        state: its records, as JSON has them.
        method: what the method itself keeps from step to step: tensors and plain values.
    """
    content = {
        "identity": identity,
        "state": json.dumps(state),
        "method": method,
        "parameters": [parameter.detach() for parameter in parameters],
        "optimizer": optimizer.state_dict(),
    }
    with (
        atomic_file(path) as temporary,
        temporary.open("wb") as file,
    ):  # a full disk is an OSError of the file
        torch.save(content, file)


def resume(
    path: Path,
    parameters: list[Tensor],
    optimizer: torch.optim.Optimizer,
    *,
    identity: str,
    device: torch.device,
) -> dict[str, Any] | None:
    """Put a checkpoint into parameters and optimizer and return its state; None if there is none of this training.

    What the method itself keeps is under "method".
    """
    if not path.is_file():
        return None
    content = torch.load(path, map_location=device, weights_only=True)
    if content["identity"] != identity:
        print(f"{path}: of another training, left aside", file=sys.stderr)
        return None
    with torch.no_grad():
        for parameter, saved in zip(parameters, content["parameters"], strict=True):
            parameter.copy_(saved)
    optimizer.load_state_dict(content["optimizer"])
    return {**json.loads(content["state"]), "method": content.get("method", {})}
