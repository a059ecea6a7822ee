"""Base models: our own directories, and models of the Hugging Face hub at a pinned commit."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError, one_line
from pipeline.core.io import read_json
from pipeline.models.hub import _snapshot_of
from pipeline.models.special_tokens import TOKENIZERS_OWN, set_special_tokens
from pipeline.params.architectures import LINEAR_MODULES

DTYPES = ("float32", "bfloat16", "float16")


def architecture_of(config: Any) -> str:
    """Return the architecture of a transformers config, as the cards name it: "llama", "bloom", "gptj", ...

    Raises:
        UserError: if there is no such architecture in ``pipeline.params.architectures``.
    """
    if config.model_type not in LINEAR_MODULES:
        raise UserError(f"architecture: unknown '{config.model_type}' (choices: {', '.join(LINEAR_MODULES)})")
    return str(config.model_type)


def load_base(directory: Path, *, dtype: str = "float32", device: str = "cpu") -> tuple[Any, Any]:
    """Load a base model, in eval mode, and its tokenizer (padding on the right, special tokens as its card has them).

    Args:
        directory: holds the weights, or only a manifest.json that names a hub model whose weights are in the hub's cache.
        dtype: of the weights in memory, whatever they are stored in: "float32", "bfloat16" or "float16".
        device: torch's name of it.

    Raises:
        UserError: if the directory, the cached snapshot or the dtype is not there; it says what to do.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    if dtype not in DTYPES:
        raise UserError(f"dtype: unknown '{dtype}' (choices: {', '.join(DTYPES)})")
    if not sys.stderr.isatty():
        logging.disable_progress_bar()  # it would fill log files
    own = (directory / "config.json").is_file()
    weights = directory if own else _snapshot_of(directory)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            weights, dtype=getattr(torch, dtype), local_files_only=True
        )
        tokenizer = AutoTokenizer.from_pretrained(weights, local_files_only=True)
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        raise UserError(f"{directory}: the base model cannot be loaded: {one_line(error)}") from error
    rules: Mapping[str, str] = {}
    if not own:  # adapters name their base by this: the hub's name and commit, not a folder of this machine
        manifest = read_json(directory / "manifest.json")
        model.name_or_path, model.config._commit_hash = manifest["repo_id"], manifest["revision"]
        tokenizer.name_or_path, rules = manifest["repo_id"], manifest.get("tokens", {})
    set_special_tokens(tokenizer, rules)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    if rules.get("eos", TOKENIZERS_OWN) != TOKENIZERS_OWN:
        model.generation_config.eos_token_id = tokenizer.eos_token_id
    return model.to(device).eval(), tokenizer
