"""Artifacts: results whose paths are decided by what they are made from. A job runs only if its path is missing.

An artifact is a stage, its resolved params and the artifacts that it is made from. Its fingerprint is a short hash of
these and of the stage's code version; its path ends in the fingerprint. Rules, jobs, prune and report all take their
paths from here.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

from pipeline.core.io import canonical_json
from pipeline.study.stages import STAGES

# where stale artifacts are parked
STORE = Path(".store")
# the provenance records of artifacts (pipeline/results/provenance.py), which move with them
RECORDS = Path("results/records")
_FINGERPRINT_IN_NAME = re.compile(r"(?:^|-)([0-9a-f]{12})(?:\.[a-z]+)?$")


def compute_fingerprint(value: Any) -> str:
    """Return 12 hex digits (48 bits) of the sha256 of a value's canonical JSON."""
    # 48 bits: among a million artifacts, two share a fingerprint with a probability of 0.2 %
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:12]


class ArtifactIdentity(TypedDict):
    """What the fingerprint of an artifact is computed from; inputs are fingerprints by name."""

    stage: str
    version: int
    params: dict[str, Any]
    inputs: dict[str, str]


class ArtifactManifest(ArtifactIdentity):
    """The identity of an artifact with its fingerprint, as ``manifest.json`` has them."""

    fingerprint: str


@dataclass(frozen=True)
class Artifact:
    """A result, identified by what it is made from.

    ``label`` is the readable part of the path, such as "MODEL/METHOD/"; it is not part of the identity.
    """

    stage: str
    label: str
    params: Mapping[str, Any]
    inputs: Mapping[str, "Artifact"] = field(default_factory=dict)

    # cached_property writes to __dict__ directly, so it works on a frozen dataclass
    @cached_property
    def fingerprint(self) -> str:
        """The short hash of stage, code version, params and inputs."""
        return compute_fingerprint(self.identity)

    @property
    def identity(self) -> ArtifactIdentity:
        """What the fingerprint is computed from."""
        return {
            "stage": self.stage,
            "version": STAGES[self.stage].version,
            "params": dict(self.params),
            "inputs": {name: artifact.fingerprint for name, artifact in self.inputs.items()},
        }

    @cached_property
    def path(self) -> Path:
        """The path of the artifact, relative to the project's root."""
        stage = STAGES[self.stage]
        return Path(stage.folder, f"{self.label}{self.fingerprint}{stage.ending}")

    @property
    def record(self) -> Path:
        """The path of the artifact's provenance record, relative to the project's root."""
        return record_path(self.stage, self.path)

    @property
    def manifest(self) -> ArtifactManifest:
        """The identity with the fingerprint, as written into ``manifest.json``."""
        return {"fingerprint": self.fingerprint, **self.identity}


def list_with_inputs(targets: Iterable[Artifact]) -> list[Artifact]:
    """Return artifacts and all that they are made from, each path once."""
    by_path: dict[Path, Artifact] = {}

    def add(artifact: Artifact) -> None:
        if artifact.path not in by_path:
            by_path[artifact.path] = artifact
            for source in artifact.inputs.values():
                add(source)

    for target in targets:
        add(target)
    return list(by_path.values())


def record_path(stage: str, path: Path) -> Path:
    """Return the path of an artifact's provenance record; both paths are relative to the project's root."""
    return RECORDS / stage / path.relative_to(STAGES[stage].folder).with_name(f"{path.stem}.json")


def artifact_path(stage: str, record: Path) -> Path:
    """Return the path of the artifact that a provenance record belongs to, the inverse of ``record_path``."""
    relative = record.relative_to(RECORDS / stage).with_suffix(STAGES[stage].ending)
    return Path(STAGES[stage].folder, relative)


def fingerprint_in_path(path: Path) -> str | None:
    """Return the fingerprint that the path of an artifact ends in; None if it is not the path of an artifact."""
    match = _FINGERPRINT_IN_NAME.search(path.name)
    return match[1] if match else None


def list_artifacts(root: Path, stage: str) -> list[Path]:
    """Return the artifacts of a stage that exist under ``root``, as paths relative to it."""
    return _list_fingerprinted(root, Path(STAGES[stage].folder), STAGES[stage].ending)


def list_records(root: Path, stage: str) -> list[Path]:
    """Return the provenance records of a stage that exist under ``root``, as paths relative to it."""
    return _list_fingerprinted(root, RECORDS / stage, ".json")


def _list_fingerprinted(root: Path, top: Path, ending: str) -> list[Path]:
    paths = []
    for folder, folders, files in os.walk(root / top):
        # names with a dot in front are unfinished work
        visible = [name for name in (*folders, *files) if not name.startswith(".")]
        # a report has files of single runs, which end in another way
        artifacts = [name for name in visible if _FINGERPRINT_IN_NAME.search(name) and name.endswith(ending)]
        paths += [(Path(folder) / name).relative_to(root) for name in artifacts]
        # an artifact is not searched for others
        folders[:] = [name for name in folders if name in visible and name not in artifacts]
    return sorted(paths)
