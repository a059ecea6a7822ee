"""Loading base models: from a directory of the project, or from the Hugging Face hub's cache at a pinned commit."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import UserError, one_line
from pipeline.core.io import read_json
from pipeline.models.bases.folder import list_model_files
from pipeline.models.bases.hub import find_snapshot, locate_snapshot
from pipeline.models.bases.local import find_local, locate_model
from pipeline.models.special_tokens import TOKENIZERS_OWN, check_embedded, set_special_tokens
from pipeline.params.architectures import LINEAR_MODULES
from pipeline.params.base import Quantization

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bfloat16", "float16")


def architecture_of(config: Any) -> str:
    """Return the architecture of a transformers config, as the model cards have it: "llama", "bloom", "gptj", ...

    Raises:
        UserError: an architecture that ``pipeline.params.architectures`` does not list.
    """
    if config.model_type not in LINEAR_MODULES:
        raise UserError(f"architecture: unknown '{config.model_type}' (choices: {', '.join(LINEAR_MODULES)})")
    return str(config.model_type)


def count_positions(config: Any) -> int | None:
    """Return how many tokens a model of a transformers config can read; None: any number, as BLOOM.

    GPT-2, OPT, GPT-Neo and GPT-J fail beyond them. The other architectures compute there, but were never trained there.
    """
    # BLOOM has distances between tokens, not positions
    if config.model_type == "bloom":
        return None
    positions = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    return None if positions is None else int(positions)


def find_weights(directory: Path) -> Path:
    """Return the folder with the weights that the manifest of a base's directory refers to.

    Raises:
        UserError: no manifest of a model of the hub or of a local folder, or its files are missing or changed.
    """
    manifest = read_json(directory / "manifest.json")
    return find_local(directory) if {"path", "files"} <= set(manifest) else find_snapshot(directory)


def list_weight_files(directory: Path) -> list[Path]:
    """Return the files of a base's weights, wherever they lie, without comparing them with its manifest.

    Args:
        directory: holds the weights, or only the manifest.json of a model whose weights are elsewhere.

    Raises:
        UserError: the folder below models_root, or the snapshot in the hub's cache, is not on this machine.
    """
    folder = directory
    if not (directory / "config.json").is_file():
        manifest = read_json(directory / "manifest.json")
        folder = locate_model(manifest["path"]) if "path" in manifest else locate_snapshot(manifest)
    return [path for path in list_model_files(folder) if path.suffix in (".safetensors", ".bin")]


def load_base(
    directory: Path,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    rounded_to: str | None = None,
    quantization: Quantization | None = None,
    cards: Sequence["torch.device"] = (),
) -> tuple[Any, Any]:
    """Load a base model in eval mode, and its tokenizer with right padding and the special tokens of its card.

    Args:
        directory: holds the weights, or only the manifest.json of a model whose weights are in the hub's cache or below
            models_root.
        dtype: of the weights in memory, whatever their dtype on disk: "float32", "bfloat16" or "float16".
        device: a torch device, such as "cpu" or "cuda:0".
        rounded_to: dtype that the weights are rounded to before they get ``dtype``; None: they are not rounded apart.
        quantization: "nf4" or "int8": how the weights of the linear modules are stored; None: in ``dtype``.
        cards: GPUs that the model is split over, instead of ``device``; fewer than two: it is on ``device``.

    Raises:
        UserError: unknown dtype, bitsandbytes missing for a quantized base, a missing directory or cached snapshot, damaged
            weights, or special tokens that the tokenizer or the model lacks; the message says what to do.
    """
    from transformers import AutoTokenizer

    if dtype not in DTYPES:
        raise UserError(f"dtype: unknown '{dtype}' (choices: {', '.join(DTYPES)})")
    has_weights = (directory / "config.json").is_file()
    weights = directory if has_weights else find_weights(directory)
    with _failure_explained(directory):
        model = _load_model(
            weights,
            dtype=dtype,
            device=device,
            rounded_to=rounded_to,
            quantization=quantization,
            cards=cards,
        )
        tokenizer = AutoTokenizer.from_pretrained(weights, local_files_only=True, trust_remote_code=False)
    rules: Mapping[str, str] = {}
    if not has_weights:
        # an adapter records its base by these: the hub's name and commit, not a folder on this machine
        manifest = read_json(directory / "manifest.json")
        name = manifest.get("repo_id") or manifest["path"]
        model.name_or_path, model.config._commit_hash = name, manifest.get("revision")
        tokenizer.name_or_path, rules = name, manifest.get("tokens", {})
    set_special_tokens(tokenizer, rules)
    check_embedded(model, tokenizer)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    if rules.get("eos", TOKENIZERS_OWN) != TOKENIZERS_OWN:
        model.generation_config.eos_token_id = tokenizer.eos_token_id
    return model.eval(), tokenizer


@contextmanager
def _failure_explained(directory: Path) -> Iterator[None]:
    """Report a failure to load the base in a directory as a user's error."""
    from safetensors import SafetensorError

    try:
        yield
    except UnpicklingError as error:
        raise UserError(
            f"{directory}: the base model cannot be loaded: its weights (.bin) hold more than tensors, which could run code; "
            "convert them to safetensors"
        ) from error
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        raise UserError(f"{directory}: the base model cannot be loaded: {one_line(error)}") from error


def _load_model(
    weights: Path,
    *,
    dtype: str,
    device: str,
    rounded_to: str | None,
    quantization: Quantization | None,
    cards: Sequence["torch.device"],
) -> Any:
    """Return the model of a folder on its device or cards, as transformers reads it."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    from pipeline.models.bases.placement import place_modules
    from pipeline.models.quantization import load_quantized

    if not sys.stderr.isatty():
        # the progress bar would fill log files
        logging.disable_progress_bar()
    stored_in = getattr(torch, rounded_to or dtype)
    is_spread = len(cards) > 1
    device_map = place_modules(weights, cards) if is_spread else {"": device}
    if quantization:
        return load_quantized(
            weights, quantization, stored_in=stored_in, dtype=getattr(torch, dtype), device_map=device_map
        )
    # Straight to a GPU: each process of a training would otherwise hold a copy in the host's memory.
    on_host = not is_spread and torch.device(device).type == "cpu"
    model = AutoModelForCausalLM.from_pretrained(
        weights,
        dtype=getattr(torch, dtype),
        local_files_only=True,
        trust_remote_code=False,
        device_map=None if on_host else device_map,
    )
    if rounded_to not in (None, dtype):
        # Weights only: buffers, such as the angles of rotary positions, are computed in float32 in 16-bit models too.
        for parameter in model.parameters():
            parameter.data = parameter.data.to(stored_in).to(parameter.dtype)
    return model if is_spread else model.to(device)
