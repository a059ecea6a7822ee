"""Identity: what a result is made from decides its name, and a missing name is the only reason to run.

An artifact is a stage, its resolved params and the artifacts that it is made from. Its fingerprint is a short hash of
these and of the stage's code version; its path ends in the fingerprint. Rules, jobs, prune and report all take their
paths from here.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.io import canonical_json

# Raise a stage's number when its code changes results; all that is made from it then gets a new name.
STAGE_VERSIONS = {
    "fetch": 1,
    "prompts": 1,
    "audit": 2,
    "base": 1,
    "train": 2,
    "generate": 1,
    "score": 2,
    "report": 4,
}

STAGE_FOLDERS = {
    "fetch": "data/raw",
    "prompts": "data/prompts",
    "audit": "results/audit",
    "base": "results/bases",
    "train": "results/adapters",
    "generate": "results/answers",
    "score": "results/scores",
    "report": "reports",
}

STAGE_ENDINGS = {
    "fetch": ".jsonl",
    "prompts": ".parquet",
    "audit": ".json",
    "score": ".json",
    "report": ".json",
}

STORE = Path(".store")
RECORDS = Path("results/records")  # what made each result (pipeline/provenance.py); moves with it
_NAMED = re.compile(r"(?:^|-)([0-9a-f]{12})(?:\.[a-z]+)?$")


def fingerprint_of(value: Any) -> str:
    """Return 12 hex digits (48 bits) of the sha256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Artifact:
    """A result by what it is made from.

    ``label`` (folders for people, such as model/method) only makes the path; it is no part of the identity.
    """

    stage: str
    label: str
    params: Mapping[str, Any]
    inputs: Mapping[str, "Artifact"] = field(default_factory=dict)

    @cached_property
    def fingerprint(self) -> str:
        """The short hash of stage, code version, params and inputs."""
        return fingerprint_of(self.identity)

    @property
    def identity(self) -> dict[str, Any]:
        """What the fingerprint is taken of; also what a manifest says of its artifact."""
        return {
            "stage": self.stage,
            "version": STAGE_VERSIONS[self.stage],
            "params": dict(self.params),
            "inputs": {name: artifact.fingerprint for name, artifact in self.inputs.items()},
        }

    @cached_property
    def path(self) -> Path:
        """Where the artifact lies, relative to the project's root."""
        return Path(
            STAGE_FOLDERS[self.stage], f"{self.label}{self.fingerprint}{STAGE_ENDINGS.get(self.stage, '')}"
        )

    @property
    def record(self) -> Path:
        """Where the record of its making lies."""
        return record_path(self.stage, self.path)

    @property
    def manifest(self) -> dict[str, Any]:
        """The identity with the fingerprint, as written into ``manifest.json``."""
        return {"fingerprint": self.fingerprint, **self.identity}


def record_path(stage: str, path: Path) -> Path:
    """Return where the record of a stage's artifact lies, both relative to the project's root."""
    return RECORDS / stage / path.relative_to(STAGE_FOLDERS[stage]).with_name(f"{path.stem}.json")


def recorded_path(stage: str, record: Path) -> Path:
    """Return where the artifact lies that a record at that path is of."""
    place = record.relative_to(RECORDS / stage).with_suffix(STAGE_ENDINGS.get(stage, ""))
    return Path(STAGE_FOLDERS[stage], place)


def named_fingerprint(path: Path) -> str | None:
    """Return the fingerprint that an artifact's path ends in; None: it is no artifact's."""
    found = _NAMED.search(path.name)
    return found[1] if found else None


def stored(root: Path, stage: str) -> list[Path]:
    """Return the artifacts of a stage that lie under ``root``, as paths relative to it."""
    return _below(root, Path(STAGE_FOLDERS[stage]))


def stored_records(root: Path, stage: str) -> list[Path]:
    """Return the records of a stage's artifacts that lie under ``root``, as paths relative to it."""
    return _below(root, RECORDS / stage)


def _below(root: Path, top: Path) -> list[Path]:
    found = []
    for folder, folders, files in os.walk(root / top):
        named = [name for name in (*folders, *files) if _NAMED.search(name) and not name.startswith(".")]
        found += [(Path(folder) / name).relative_to(root) for name in named]
        folders[:] = [name for name in folders if name not in named and not name.startswith(".")]
    return sorted(found)


def unnamed(artifacts: Iterable[Artifact], stages: Iterable[str], *, root: Path = Path()) -> list[Path]:
    """Return what the stages have on disk and ``artifacts`` do not name.

    Of reports there is none: theirs is a folder that keeps its name.
    """
    named = {artifact.path for artifact in artifacts}
    return [
        path for stage in stages if stage != "report" for path in stored(root, stage) if path not in named
    ]


def set_aside(artifacts: Iterable[Artifact], stages: Iterable[str], *, root: Path = Path()) -> list[Path]:
    """Move what the stages have on disk and ``artifacts`` do not name into the store, records too.

    Returns:
        The artifacts that were moved.
    """
    artifacts, stages = list(artifacts), list(stages)
    moved = unnamed(artifacts, stages, root=root)
    kept = {artifact.record for artifact in artifacts}
    records = [path for stage in stages for path in stored_records(root, stage) if path not in kept]
    for path in [*moved, *records]:
        _move(root / path, root / STORE / path)
        _remove_empty(root, (root / path).parent)
    return moved


def take_back(artifacts: Iterable[Artifact], *, root: Path = Path()) -> list[Path]:
    """Move what ``artifacts`` name, is missing and lies in the store back to its place; return what was moved."""
    artifacts, moved = list(artifacts), set()
    if not (root / STORE).is_dir():
        return []
    for artifact in artifacts:
        for path in (artifact.path, artifact.record):
            if (root / STORE / path).exists() and not (root / path).exists():
                _move(root / STORE / path, root / path)
                moved.add(path)
    return sorted(moved - {artifact.record for artifact in artifacts})


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        shutil.rmtree(target)
    try:
        os.replace(source, target)
    except FileNotFoundError:
        if source.exists():
            raise  # else: another job of the same study took it back first


def _remove_empty(root: Path, folder: Path) -> None:
    while folder != root and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent
