"""Check the artifacts on disk: every file against the checksum in its record, every record against its inputs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError
from pipeline.core.io import read_json, sha256_file
from pipeline.results import provenance
from pipeline.results.provenance import ResultRecord
from pipeline.study import Study
from pipeline.study.artifacts import (
    STORE,
    Artifact,
    artifact_path,
    compute_fingerprint,
    fingerprint_in_path,
    list_artifacts,
    list_records,
    record_path,
)
from pipeline.study.stages import FILE_MANIFESTS, STAGES


@dataclass(frozen=True)
class VerifyOutcome:
    """The outcome of a check.

    Attributes:
        faults: a line for each.
        unrecorded: artifacts without a record, which cannot be checked.
        artifacts: how many there are.
        files: how many were compared with their recorded checksums.
        links: how many inputs were compared with what the artifact recorded of them.
        unchecked_links: inputs that are missing, with their records.
    """

    faults: tuple[str, ...] = ()
    unrecorded: tuple[Path, ...] = ()
    artifacts: int = 0
    files: int = 0
    links: int = 0
    unchecked_links: int = 0

    @property
    def passed(self) -> bool:
        """Whether every artifact has a record and matches it."""
        return not self.faults and not self.unrecorded


def verify(
    *, paths: Sequence[Path] = (), artifacts: Iterable[Artifact] | None = None, root: Path = Path()
) -> VerifyOutcome:
    """Check artifacts and their records.

    Args:
        paths: check only artifacts at, below or above these paths, which are relative to the root; empty: all.
        artifacts: check only these artifacts; None: all on disk.
        root: the project's root.

    Raises:
        UserError: there is no artifact to check.
    """
    selected = None if artifacts is None else {artifact.path for artifact in artifacts}
    present = {
        stage: {path for path in list_artifacts(root, stage) if _is_selected(stage, path, paths, selected)}
        for stage in STAGES
    }
    missing = list(_missing_artifacts(present, paths, selected, root))
    if not missing and not any(present.values()):
        if paths:
            raise UserError(f"verify: no artifact at or below {', '.join(map(str, paths))}")
        raise UserError("verify: no artifacts in this checkout; get them with dvc pull or run snakemake")
    faults = [
        f"{path}: missing, but it has a record; get it with dvc pull or run snakemake" for path in missing
    ]
    outcomes = [
        _check_artifact(stage, path, root)
        for stage, present_paths in present.items()
        for path in sorted(present_paths)
    ]
    return _combine_outcomes([VerifyOutcome(faults=tuple(faults)), *outcomes])


def _combine_outcomes(outcomes: Sequence[VerifyOutcome]) -> VerifyOutcome:
    return VerifyOutcome(
        faults=tuple(fault for outcome in outcomes for fault in outcome.faults),
        unrecorded=tuple(path for outcome in outcomes for path in outcome.unrecorded),
        artifacts=sum(outcome.artifacts for outcome in outcomes),
        files=sum(outcome.files for outcome in outcomes),
        links=sum(outcome.links for outcome in outcomes),
        unchecked_links=sum(outcome.unchecked_links for outcome in outcomes),
    )


def _is_selected(stage: str, path: Path, paths: Sequence[Path], selected: set[Path] | None) -> bool:
    if selected is not None and path not in selected:
        return False
    content = provenance.content_path(stage, path)
    return not paths or any(
        content.is_relative_to(chosen) or chosen.is_relative_to(content) for chosen in paths
    )


def _missing_artifacts(
    present: Mapping[str, set[Path]], paths: Sequence[Path], selected: set[Path] | None, root: Path
) -> Iterator[Path]:
    """Yield the artifacts that have a record but are missing."""
    for stage, present_paths in present.items():
        for record in list_records(root, stage):
            path = artifact_path(stage, record)
            if path not in present_paths and _is_selected(stage, path, paths, selected):
                yield path


def _check_artifact(stage: str, path: Path, root: Path) -> VerifyOutcome:
    record_file = record_path(stage, path)
    try:
        record = provenance.read_record(record_file, root=root)
    except UserError as error:
        return VerifyOutcome(faults=(str(error),), artifacts=1)
    if record is None:
        faults = tuple(_manifest_faults(stage, root / path, path))
        return VerifyOutcome(faults=faults, unrecorded=(path,), artifacts=1)
    if not provenance.is_intact(record):
        fault = f"{record_file}: changed since it was written (its own checksum does not match)"
        return VerifyOutcome(faults=(fault,), artifacts=1)
    faults = (*_identity_faults(stage, path, record), *_file_faults(stage, path, record["files"], root))
    files = VerifyOutcome(faults=faults, artifacts=1, files=len(record["files"]))
    return _combine_outcomes([files, *_check_links(path, record, root)])


def _identity(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the fingerprint of a manifest is computed from (``Artifact.identity``)."""
    return {key: manifest[key] for key in ("stage", "version", "params", "inputs")}


def _identity_faults(stage: str, path: Path, record: ResultRecord) -> Iterator[str]:
    recorded = record["artifact"]
    if not compute_fingerprint(_identity(recorded)) == recorded["fingerprint"] == fingerprint_in_path(path):
        yield f"{record_path(stage, path)}: its params and inputs do not have the fingerprint in the path {path}"


def _manifest_faults(stage: str, content: Path, path: Path) -> Iterator[str]:
    """Yield the fault of the manifest inside an artifact, if it has one."""
    file = content if stage in FILE_MANIFESTS else content / "manifest.json"
    if not file.is_file():
        return
    try:
        manifest = read_json(file)
        fingerprint = compute_fingerprint(_identity(manifest))
    except UserError as error:
        yield str(error)
    except (KeyError, TypeError):
        # a base from the hub has a manifest.json of another kind
        if stage != "base":
            yield f"{file}: not a manifest"
    else:
        if not fingerprint == manifest.get("fingerprint") == fingerprint_in_path(path):
            yield f"{file}: its params and inputs do not have the fingerprint in the path"


def _file_faults(stage: str, path: Path, recorded: Mapping[str, str], root: Path) -> Iterator[str]:
    folder = path if (root / path).is_dir() else path.parent
    present = provenance.artifact_files(stage, root / path)
    for name, checksum in recorded.items():
        if name not in present:
            yield f"{folder / name}: missing"
        elif (current := sha256_file(present[name])) != checksum:
            yield f"{folder / name}: changed (sha256 {checksum[:12]}... recorded, {current[:12]}... now)"
    for name in sorted(set(present) - set(recorded)):
        yield f"{folder / name}: not in the record; it was added later"


def _check_links(path: Path, record: ResultRecord, root: Path) -> Iterator[VerifyOutcome]:
    """Yield the outcome for each input: whether it still is what the artifact was produced from."""
    for name, fingerprint in record["artifact"]["inputs"].items():
        source = record["inputs"].get(name)
        current = _current_checksum(Path(source["path"]), root) if source else None
        if source is None or current is None:
            yield VerifyOutcome(unchecked_links=1)
            continue
        faults = []
        if fingerprint_in_path(Path(source["path"])) != fingerprint:
            faults.append(f"{path}: its input '{name}' has another fingerprint in its path, {source['path']}")
        elif current != source["sum"]:
            faults.append(
                f"{path}: produced from other content of {source['path']} than is recorded now; rerun it"
            )
        yield VerifyOutcome(faults=tuple(faults), links=1)


def _current_checksum(path: Path, root: Path) -> str | None:
    """Return the combined checksum of an input, from its record or else its files.

    None: the input is missing, or its record is damaged.
    """
    stage = provenance.find_stage(path)
    if stage is None:
        return None
    try:
        record = provenance.read_record(record_path(stage, path), root=root)
    except UserError:
        return None
    # The record is enough: the input's own check compares it with the files. Hashing a base of many GB again for
    # each of its adapters would take minutes.
    if record is not None:
        return provenance.combined_checksum(record["files"]) if provenance.is_intact(record) else None
    content = next((folder / path for folder in (root, root / STORE) if (folder / path).exists()), None)
    return provenance.combined_checksum(provenance.file_checksums(stage, content)) if content else None


def adopt_study(study: Study) -> None:
    """Record the artifacts of a study that have no record, as they are now; earlier changes cannot be detected."""
    for artifact in study.named():
        if artifact.path.exists() and not artifact.record.exists():
            provenance.adopt_result(artifact, study=study.name)
            print(f"recorded as it is: {artifact.path}")


def print_verify_outcome(outcome: VerifyOutcome) -> None:
    """Print the faults, a line each, and how much was checked."""
    for fault in outcome.faults:
        print(fault)
    for path in outcome.unrecorded:
        print(f"{path}: no record, so it cannot be checked")
    recorded = outcome.artifacts - len(outcome.unrecorded)
    checked = f"{recorded} results, {outcome.files} files, {outcome.links} links"
    if outcome.unchecked_links:
        checked += f" ({outcome.unchecked_links} links not checked: their inputs are not in this checkout)"
    counts = [f"{len(outcome.faults)} faults"] if outcome.faults else []
    counts += [f"{len(outcome.unrecorded)} without a record"] if outcome.unrecorded else []
    print(f"checked {checked}: {', '.join(counts) or 'all match their records'}")
