"""Read dvc.lock, in which DVC records the checksum of each results folder.

DVC writes the file in place, so a kill at the wrong moment cuts it off. For our few hundred lines the write takes some
hundredths of a second: rare enough to report the damage in one line and leave the repair, one command, to the user.
"""

import configparser
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.core.errors import UserError, one_line
from pipeline.study import Study

LOCK = Path("dvc.lock")
OBJECT_NAME = r"^[0-9a-f]{32}(\.dir)?$"
INVALID_LOCK = (
    "dvc.lock: cut off or not valid (killed dvc?); run: git checkout dvc.lock && python -m pipeline commit"
)


# A downloaded archive has no .git.
NO_GIT = (
    "no .git here, so code and results have no commit and DVC refuses to work; use a clone: git clone URL"
)


class _LockModel(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class LockedInput(_LockModel):
    """A dependency of a stage. Only files and folders have an ``md5``."""

    path: str
    hash: Literal["md5", ""] = ""
    md5: str = Field("", pattern=OBJECT_NAME)
    size: int = 0
    nfiles: int = 0

    @model_validator(mode="after")
    def _has_checksum(self) -> Self:
        if self.hash and not self.md5:
            raise ValueError(f"{self.path}: no md5")
        return self


class LockedOutput(LockedInput):
    """An output of a stage: its path, and the name of its object in DVC's cache."""

    md5: str = Field(pattern=OBJECT_NAME)
    size: int


class _LockedStage(_LockModel):
    cmd: str | list[str]
    deps: list[LockedInput] = []
    params: dict[str, dict[str, Any]] = {}
    outs: list[LockedOutput] = []


class _LockFile(_LockModel):
    schema_version: str = Field(alias="schema", pattern=r"^2\.0$")
    stages: dict[str, _LockedStage]


def read_lock(root: Path = Path()) -> list[LockedOutput]:
    """Return the outputs that dvc.lock lists; empty if there is no dvc.lock.

    Raises:
        UserError: the file is cut off or not valid.
    """
    file = root / LOCK
    if not file.is_file():
        return []
    # PyYAML's loader in C, where it was compiled, is many times as fast
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        lock = _LockFile.model_validate(yaml.load(file.read_text(encoding="utf-8"), loader))
    # ValueError: bytes that are not UTF-8
    except (yaml.YAMLError, ValidationError, ValueError):
        raise UserError(INVALID_LOCK) from None
    return [output for stage in lock.stages.values() for output in stage.outs]


def check_lock(root: Path = Path()) -> str | None:
    """Return what is wrong with dvc.lock, in one line; None if it is valid or missing."""
    try:
        read_lock(root)
    except UserError as error:
        return str(error)
    return None


def warn_of_invalid_lock(root: Path = Path()) -> None:
    """Print a line on stderr if dvc.lock is cut off or not valid."""
    problem = check_lock(root)
    if problem:
        print(f"warning: {problem}", file=sys.stderr)


def require_git(root: Path = Path()) -> None:
    """Refuse a checkout without git.

    Raises:
        UserError: there is no .git in the folder, where DVC looks for it.
    """
    if not (root / ".git").exists():
        raise UserError(f"{root.resolve()}: {NO_GIT}")


def missing_files(study: Study, root: Path = Path()) -> list[str]:
    """Return the files of the study's results that dvc.lock lists and that are missing: a commit would drop them."""
    artifacts = {artifact.path for artifact in study.named()}
    locked = (
        path for path in _locked_files(root) if path in artifacts or not artifacts.isdisjoint(path.parents)
    )
    return sorted(str(path) for path in locked if not (root / path).exists())


def _locked_files(root: Path) -> Iterator[Path]:
    """Yield the files in the folders that dvc.lock lists, as far as DVC's cache has their listings."""
    for output in read_lock(root):
        listing = cached_object(output.md5, root)
        if output.md5.endswith(".dir") and listing.is_file():
            yield from (Path(output.path, entry["relpath"]) for entry in json.loads(listing.read_bytes()))


def cached_object(md5: str, root: Path = Path()) -> Path:
    """Return the path of an object in DVC's cache, whether or not it exists."""
    return object_in(cache_folder(root), md5)


def object_in(cache: Path, md5: str) -> Path:
    """Return the path of an object in a cache."""
    return cache / md5[:2] / md5[2:]


def cache_folder(root: Path = Path()) -> Path:
    """Return the folder with the objects of DVC's cache, whether or not it exists."""
    folder = "cache"
    for _, config in read_configs(root):
        folder = config.get("cache", "dir", fallback=folder)
    # DVC 3's layout of a cache; its configured folder is relative to .dvc/
    return root / ".dvc" / folder / "files/md5"


def read_configs(root: Path) -> Iterator[tuple[str, configparser.ConfigParser]]:
    """Yield DVC's settings of a checkout: those in git ("repo"), then those of this checkout only ("local").

    Raises:
        UserError: a file is not valid.
    """
    for level, name in (("repo", "config"), ("local", "config.local")):
        # without interpolation, since a URL may contain "%"
        config = configparser.ConfigParser(interpolation=None)
        try:
            config.read(root / ".dvc" / name, encoding="utf-8")
        except configparser.Error as error:
            raise UserError(f".dvc/{name}: not valid ({one_line(error)})") from None
        yield level, config
