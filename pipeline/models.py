"""Base models: our own directories, and models of the Hugging Face hub at a pinned commit."""

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.architectures import LINEAR_MODULES
from pipeline.errors import UserError
from pipeline.io import atomic_directory, read_json, sha256_file, write_json
from pipeline.lock import hold, locked

CONFIG_FILES = ["config.json", "generation_config.json"]
TOKENIZER_FILES = [
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
]
SAFETENSORS_FILES = ["model*.safetensors", "model.safetensors.index.json"]
BIN_FILES = ["pytorch_model*.bin", "pytorch_model.bin.index.json"]
TOKENIZERS_OWN = "tokenizer"  # in a card's rules for special tokens
DTYPES = ("float32", "bfloat16", "float16")


def architecture_of(config: Any) -> str:
    """Return the architecture of a transformers config, as the cards name it: "llama", "bloom", "gptj", ...

    Raises:
        UserError: if there is no such architecture in ``pipeline.architectures``.
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
        raise UserError(f"{directory}: the base model cannot be loaded: {_one_line(error)}") from error
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


def set_special_tokens(tokenizer: Any, rules: Mapping[str, str]) -> None:
    """Make a tokenizer's start, end and pad token those of a model card's ``tokens``; padding goes on the right.

    Without a rule the tokenizer's own hold, and one without a pad token pads with its unknown or else its end token.
    LLaMA's unknown token is number 0, the pad token of the published commands. Padding is always masked, so the choice
    of the pad token changes no result. What is set here is saved with the tokenizer.

    Args:
        tokenizer: of transformers.
        rules: "bos", "eos" and "pad", each optional, with the values of ``pipeline.model_cards.Tokens``.

    Raises:
        UserError: the tokenizer has no such token, or puts another start token ahead whatever it is told.

    Source of the pad token: AGI-Edgerunners/LLM-Adapters at commit 8166572, finetune.py (tokenizer.pad_token_id = 0).
    """
    tokenizer.padding_side = "right"
    if (end := rules.get("eos", TOKENIZERS_OWN)) != TOKENIZERS_OWN:
        tokenizer.eos_token = _known_token(tokenizer, end, "eos")
    if (start := rules.get("bos", TOKENIZERS_OWN)) != TOKENIZERS_OWN:
        _set_start(tokenizer, None if start == "none" else _known_token(tokenizer, start, "bos"))
    named = {"unk": tokenizer.unk_token, "eos": tokenizer.eos_token}
    pad = rules.get("pad", TOKENIZERS_OWN)
    if pad != TOKENIZERS_OWN:
        tokenizer.pad_token = _known_token(tokenizer, named.get(pad, pad), "pad", rule=pad)
    elif tokenizer.pad_token_id is None:
        tokenizer.pad_token = named["unk"] or named["eos"]


def _set_start(tokenizer: Any, token: str | None) -> None:
    """Put a token ahead of every text, or none."""
    if token is not None:
        tokenizer.bos_token = token
    tokenizer.add_bos_token = token is not None
    found = tokenizer("")["input_ids"][:1]
    if found != ([] if token is None else [tokenizer.bos_token_id]):
        raise UserError(
            f"tokens.bos: the tokenizer of {tokenizer.name_or_path} puts {tokenizer.convert_ids_to_tokens(found)} ahead "
            "of a text whatever it is told; leave the rule out"
        )


def _known_token(tokenizer: Any, token: str | None, field: str, *, rule: str | None = None) -> str:
    if token is None or token not in tokenizer.get_vocab():
        raise UserError(f"tokens.{field}: the tokenizer of {tokenizer.name_or_path} has no '{rule or token}'")
    return token


def fetch_base(
    repo_id: str,
    *,
    revision: str | None,
    output: Path,
    lock: Path | None = None,
    tokens: Mapping[str, str] | None = None,
) -> None:
    """Bring a hub model into the hub's cache, if it is not there, and write its manifest.json into ``output``.

    The manifest is {"repo_id", "revision": the resolved commit, "files": {name: sha256}} and, if there are any, "tokens";
    the weights stay in the cache.

    Args:
        repo_id: "organisation/name".
        revision: commit, tag or branch; None is the commit that ``lock`` has, else the main branch's of today.
        output: directory to write.
        lock: file that records commit and sums at the first download and holds later ones to them; None: no record.
        tokens: what the model's card sets for special tokens, for ``set_special_tokens`` when it is loaded.

    Raises:
        UserError: if the model is neither in the cache nor to be had, or is not what the lock file recorded.
    """
    name = f"model {repo_id}@{revision or 'main'}"
    revision = (locked(lock, name) or {}).get("revision", revision)
    snapshot = _cached_snapshot(repo_id, revision)
    if snapshot is None:
        snapshot = _download(repo_id, revision)
        missing = missing_files(snapshot)
        if missing:
            raise UserError(
                f"{repo_id}: the hub's repository has no {missing[0]}; name a repository of a transformers model"
            )
    files = {path.relative_to(snapshot).as_posix(): _sha256(path) for path in _model_files(snapshot)}
    hold(lock, name, {"revision": snapshot.name, "files": files})
    manifest: dict[str, Any] = {"repo_id": repo_id, "revision": snapshot.name, "files": files}
    if tokens:
        manifest["tokens"] = dict(tokens)
    with atomic_directory(output) as temporary:
        write_json(temporary / "manifest.json", manifest)


def missing_files(snapshot: Path) -> list[str]:
    """Return what a snapshot lacks to be loaded: config, weights (every shard that its index names), tokenizer."""
    missing = [] if (snapshot / "config.json").is_file() else ["config.json"]
    for single, index in (
        ("model.safetensors", "model.safetensors.index.json"),
        ("pytorch_model.bin", "pytorch_model.bin.index.json"),
    ):
        if (snapshot / single).is_file():
            break
        if (snapshot / index).is_file():
            shards = sorted(set(read_json(snapshot / index)["weight_map"].values()))
            missing += [shard for shard in shards if not (snapshot / shard).is_file()]
            break
    else:
        missing.append("model.safetensors")
    if not any((snapshot / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        missing.append("tokenizer.json")
    return missing


def _snapshot_of(directory: Path) -> Path:
    """Return the cached snapshot that a manifest names."""
    manifest = read_json(directory / "manifest.json")
    if not {"repo_id", "revision", "files"} <= set(manifest):
        raise UserError(
            f"{directory}: holds neither config.json nor a manifest of a hub model (repo_id, revision, files)"
        )
    repo_id, revision = manifest["repo_id"], manifest["revision"]
    snapshot = _cached_snapshot(repo_id, revision)
    if snapshot is None:
        raise UserError(
            f"{repo_id}: commit {revision} is not whole in the hub's cache {_cache()}; {_what_to_do(repo_id, revision)}"
        )
    return snapshot


def _cached_snapshot(repo_id: str, revision: str | None) -> Path | None:
    """Return the snapshot in the hub's cache, or None if it is not there or not whole."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        snapshot = Path(snapshot_download(repo_id, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise UserError(
            f"repo_id: '{repo_id}' is no name of a hub repository ({_one_line(error)})"
        ) from error
    return None if missing_files(snapshot) else snapshot


def _download(repo_id: str, revision: str | None) -> Path:
    """Download config, tokenizer and one form of the weights; safetensors if the repository has them."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = HfApi().model_info(repo_id, revision=revision)
        names = [sibling.rfilename for sibling in info.siblings or []]
        weights = (
            SAFETENSORS_FILES
            if any(re.fullmatch(r"model.*\.safetensors", name) for name in names)
            else BIN_FILES
        )
        wanted = CONFIG_FILES + TOKENIZER_FILES + weights
        return Path(snapshot_download(repo_id, revision=info.sha, allow_patterns=wanted))
    except GatedRepoError as error:
        raise UserError(
            f"{repo_id}: gated; accept its licence at https://huggingface.co/{repo_id} and set HF_TOKEN"
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(
            f"{repo_id}: no revision '{revision}' on the hub; correct the model's card"
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"{repo_id}: no such model on the hub, or a private one; correct repo_id or set HF_TOKEN"
        ) from error
    except Exception as error:  # the classes of network errors differ between versions of the hub's client
        reason = f"not in the hub's cache {_cache()}, and the hub cannot be reached ({type(error).__name__})"
        raise UserError(f"{repo_id}: {reason}; {_what_to_do(repo_id, revision)}") from error


def _what_to_do(repo_id: str, revision: str | None) -> str:
    at = f" --revision {revision}" if revision else ""
    return f"set HF_HOME to a cache that has it, or run `hf download {repo_id}{at}` where there is network"


def _cache() -> str:
    from huggingface_hub import constants

    return str(constants.HF_HUB_CACHE)


def _model_files(snapshot: Path) -> list[Path]:
    """Return the files that loading uses, sorted; of two forms of the weights only safetensors."""
    weights = SAFETENSORS_FILES if any(snapshot.glob("model*.safetensors")) else BIN_FILES
    return sorted(
        {path for pattern in CONFIG_FILES + TOKENIZER_FILES + weights for path in snapshot.glob(pattern)}
    )


def _sha256(path: Path) -> str:
    """Return a file's sha256; large files of the hub's cache are links to blobs of that name already."""
    blob = os.path.basename(os.path.realpath(path))
    return blob if path.is_symlink() and re.fullmatch("[0-9a-f]{64}", blob) else sha256_file(path)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
