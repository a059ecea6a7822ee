"""The artifacts that earlier runs left on disk, in the project and in the store, with what their records say."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import cast

from pipeline.core.errors import UserError
from pipeline.core.io import read_json
from pipeline.results import provenance
from pipeline.study.artifacts import STORE, ArtifactIdentity, fingerprint_in_path, list_artifacts, record_path
from pipeline.study.stages import FILE_MANIFESTS, STAGES


@dataclass
class History:
    """All artifacts on disk. Records are read when they are needed: there may be thousands."""

    root: Path = Path()
    _identities: dict[Path, ArtifactIdentity | None] = field(default_factory=dict)

    @cached_property
    def paths_by_label(self) -> dict[tuple[str, str], list[Path]]:
        """The paths of artifacts by stage and label, relative to the project or the store."""
        paths: dict[tuple[str, str], list[Path]] = {}
        for stage in STAGES:
            for root in (self.root, self.root / STORE):
                for path in list_artifacts(root, stage):
                    paths.setdefault((stage, path_label(path)), []).append(path)
        # a new report overwrites the previous one, of which only the record moves to the store
        records = (self.root / STORE / record_path("report", Path("reports/x"))).parent
        for record in records.glob("*/*.json"):
            path = Path(STAGES["report"].folder, record.parent.name, record.name)
            paths.setdefault(("report", path_label(path)), []).append(path)
        return paths

    @cached_property
    def _path_by_fingerprint(self) -> dict[tuple[str, str], Path]:
        return {
            (stage, str(fingerprint_in_path(path))): path
            for (stage, _), paths in self.paths_by_label.items()
            for path in paths
        }

    def identity(self, stage: str, path: Path) -> ArtifactIdentity | None:
        """Return the identity of an artifact, from its record or else its manifest; None if it has neither."""
        if path not in self._identities:
            self._identities[path] = self._read_identity(stage, path)
        return self._identities[path]

    def _read_identity(self, stage: str, path: Path) -> ArtifactIdentity | None:
        try:
            record = provenance.read_record(record_path(stage, path), root=self.root)
            if record is not None:
                return record["artifact"]
            content = self._locate(path)
            manifest = content if stage in FILE_MANIFESTS else content / "manifest.json"
            identity = read_json(manifest) if manifest.is_file() else {}
            return cast(
                ArtifactIdentity, {key: identity[key] for key in ("stage", "version", "params", "inputs")}
            )
        # Without an identity the cause of a change is not explained; that must not stop `status`.
        except (UserError, KeyError, TypeError):
            return None

    def find_identity(self, stage: str, fingerprint: str) -> ArtifactIdentity | None:
        """Return the identity of the artifact with a fingerprint; None if it is not on disk."""
        path = self._path_by_fingerprint.get((stage, fingerprint))
        return self.identity(stage, path) if path else None

    def seconds(self, stage: str, path: Path) -> float | None:
        """Return how long an artifact took, from its record or else its run.json; None if unknown."""
        try:
            record = provenance.read_record(record_path(stage, path), root=self.root)
            run = record["run"] if record else read_json(self._locate(path) / "run.json")
            return float(run["seconds"])
        # an artifact that is a single file has no run.json
        except (UserError, KeyError, TypeError, NotADirectoryError):
            return None

    def _locate(self, path: Path) -> Path:
        return self.root / path if (self.root / path).exists() else self.root / STORE / path


def path_label(path: Path) -> str:
    """Return an artifact's path without fingerprint and suffix: its folders, and the start of its name."""
    return str(path.parent / path.stem[:-12])
