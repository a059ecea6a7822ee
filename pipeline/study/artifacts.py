"""Identity: what a result is made from decides its name, and a missing name is the only reason to run.

An artifact is a stage, its resolved params and the artifacts that it is made from. Its fingerprint is a short hash of
these and of the stage's code version; its path ends in the fingerprint. Rules, jobs, prune and report all take their
paths from here.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.core.io import canonical_json
from pipeline.study.stages import STAGES

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
            "version": STAGES[self.stage].version,
            "params": dict(self.params),
            "inputs": {name: artifact.fingerprint for name, artifact in self.inputs.items()},
        }

    @cached_property
    def path(self) -> Path:
        """Where the artifact lies, relative to the project's root."""
        stage = STAGES[self.stage]
        return Path(stage.folder, f"{self.label}{self.fingerprint}{stage.ending}")

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
    return RECORDS / stage / path.relative_to(STAGES[stage].folder).with_name(f"{path.stem}.json")


def recorded_path(stage: str, record: Path) -> Path:
    """Return where the artifact lies that a record at that path is of."""
    place = record.relative_to(RECORDS / stage).with_suffix(STAGES[stage].ending)
    return Path(STAGES[stage].folder, place)


def named_fingerprint(path: Path) -> str | None:
    """Return the fingerprint that an artifact's path ends in; None: it is no artifact's."""
    found = _NAMED.search(path.name)
    return found[1] if found else None


def stored(root: Path, stage: str) -> list[Path]:
    """Return the artifacts of a stage that lie under ``root``, as paths relative to it."""
    return _below(root, Path(STAGES[stage].folder))


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
