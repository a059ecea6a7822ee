"""Models of the hub in plain folders below models_root, and what proves which commit a folder holds.

`hf download --local-dir` records, beside the files, the commit and the hub's checksum of each file. These, or the sums that
params/lock.yaml recorded at the first download, prove that a folder holds a commit of a repository. A name alone proves
nothing.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from pipeline.core.errors import UserError
from pipeline.core.io import sha256_file
from pipeline.models.bases.folder import check_files, compare_names, compare_sums, list_model_files
from pipeline.models.bases.local import MODELS_ROOT

# of the hub's client, in a folder that it has downloaded into
METADATA = Path(".cache/huggingface/download")
CHUNK = 2**24


def models_root() -> Path | None:
    """Return the folder that models may lie below; None: not set."""
    root = os.environ.get(MODELS_ROOT)
    return Path(root) if root else None


def find_hub_folder(repo_id: str) -> Path | None:
    """Return the folder below models_root that is named as a repository of the hub; None: there is none.

    Names are ORGANISATION/NAME, ORGANISATION--NAME or NAME.
    """
    root, name = models_root(), repo_id.rpartition("/")[2]
    if root is None:
        return None
    folders = [root / repo_id, root / repo_id.replace("/", "--"), root / name]
    return next((folder for folder in folders if (folder / "config.json").is_file()), None)


def claimed_commit(
    folder: Path, repo_id: str, revision: str | None, *, recorded: Mapping[str, str] | None
) -> str:
    """Return the commit that a folder says it holds, from its names and records, without reading its weights.

    Args:
        folder: as ``find_hub_folder`` returns it.
        repo_id: its repository.
        revision: a commit; None: any.
        recorded: name -> sha256 of that commit's files in params/lock.yaml; None: no record.

    Raises:
        UserError: a file is missing, or it holds another commit, or nothing says which.
    """
    check_files(folder)
    names = [path.name for path in list_model_files(folder)]
    if recorded is not None and revision is not None:
        compare_names(dict.fromkeys(names, ""), recorded, folder=folder)
        return revision
    wanted = "its commit" if revision is None else f"commit {revision}"
    commits = {name: _hub_metadata(folder, name)[0] for name in names}
    for name, commit in commits.items():
        if not commit:
            raise UserError(
                f"{folder}: nothing proves that {name} is from {wanted} of {repo_id}; download it with `hf download {repo_id} "
                f"--local-dir DIR`, put a copy of the hub's cache into models_root, or use a card of the kind 'local'"
            )
        if commit != (revision or commits[names[0]]):
            raise UserError(
                f"{folder / name}: is from commit {commit} of {repo_id}, not {revision or commits[names[0]]}; download a single commit"
            )
    return commits[names[0]]


def prove_folder(folder: Path, repo_id: str, *, recorded: Mapping[str, str] | None) -> dict[str, str]:
    """Return the sums of a folder's files, name -> sha256, after comparing them with the record, or with the hub's checksums.

    Args:
        folder: one with the right ``claimed_commit``.
        repo_id: its repository.
        recorded: as for ``claimed_commit``.

    Raises:
        UserError: the content of a file differs.
    """
    paths = list_model_files(folder)
    files = {path.name: sha256_file(path) for path in paths}
    if recorded is not None:
        compare_sums(files, recorded, folder=folder, where="params/lock.yaml")
        return files
    for path in paths:
        checksum = _hub_metadata(folder, path.name)[1]
        # the hub has the sha256 of large files, and git's checksum of small ones
        present = files[path.name] if len(checksum) == 64 else _git_checksum(path)
        if checksum != present:
            raise UserError(
                f"{path}: changed, its checksum is {present}, but {repo_id} has {checksum}; download it again"
            )
    return files


def _hub_metadata(folder: Path, name: str) -> tuple[str, str]:
    """Return the commit and the checksum that the hub's client wrote for a file; both empty: it wrote none."""
    record = folder / METADATA / f"{name}.metadata"
    lines = record.read_text(encoding="utf-8", errors="replace").split("\n") if record.is_file() else []
    if len(lines) < 2 or not re.fullmatch("[0-9a-f]{40}", lines[0]):
        return "", ""
    return (lines[0], lines[1]) if re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", lines[1]) else ("", "")


def _git_checksum(path: Path) -> str:
    """Return the name of a file's content in git."""
    # git's hash of a blob; the hub has no stronger checksum of small files
    sha1 = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            sha1.update(chunk)
    return sha1.hexdigest()
