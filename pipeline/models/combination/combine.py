"""Combine adapters into one directory like that of a trained adapter, on the CPU.

It takes seconds, but for combination types with ``svd``: they decompose the full change of each module, which takes hours for a
large base (docs/combining.md).
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.adapters import methods
from pipeline.adapters.combining import combine_adapters
from pipeline.core.environment import run_info
from pipeline.core.errors import UserError
from pipeline.core.hardware.devices import configure_torch
from pipeline.core.io import atomic_directory, read_json, write_json
from pipeline.models.base import find_weights


def combine(
    base: Path,
    members: Sequence[Path],
    *,
    combination: Mapping[str, Any],
    seed: int,
    output: Path,
    manifest: Mapping[str, object],
    portable: bool | None = None,
) -> None:
    """Write the combination of adapters: in peft's format, with manifest.json and run.json.

    Args:
        base: directory of the base model; its weights are not read.
        members: directories of the adapters.
        combination: as for ``pipeline.adapters.combining.combine_adapters``.
        seed: of random choices.
        output: directory to write.
        manifest: identity of the combination; counts and the tokenizer of its members are added to it.
        portable: the machine's setting, for run.json; None: not chosen. Its kernels are this process' already.

    Raises:
        UserError: a member was trained with another tokenizer, or the members do not fit each other.
    """
    started = time.time()
    configure_torch("cpu", threads=None, deterministic=None)
    tokenizers = {path: read_json(path / "manifest.json")["tokenizer"] for path in members}
    if len(set(tokenizers.values())) > 1:
        listed = ", ".join(f"{path}: {checksum}" for path, checksum in tokenizers.items())
        raise UserError(f"members: trained with several tokenizers ({listed}); train them on one base")
    model = combine_adapters(build_skeleton(base), members, combination, seed=seed)
    total = sum(parameter.numel() for parameter in model.parameters())
    own = sum(
        parameter.numel() for name, parameter in model.named_parameters() if model.base_model.prefix in name
    )
    counts = {"trainable_parameters": own, "all_parameters": total, "tokenizer": tokenizers[members[0]]}
    with atomic_directory(output) as folder:
        methods.save_trained(model, folder, tokenizer=None, initial_weights=None)
        write_json(folder / "manifest.json", {**manifest, **counts})
        machine = {} if portable is None else {"portable": portable}
        write_json(folder / "run.json", run_info(started=started, device="cpu", machine=machine))


def build_skeleton(base: Path) -> Any:
    """Return a base whose parameters have their shapes and take no memory: each is a single zero, seen many times."""
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = base if (base / "config.json").is_file() else find_weights(base)
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    # tied weights stay tied, so that they count once
    shared: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            zeros = nn.Parameter(torch.zeros(()).expand(parameter.shape), requires_grad=False)
            setattr(module, name, shared.setdefault(id(parameter), zeros))
    return model
