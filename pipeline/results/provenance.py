"""The provenance record of an artifact: what produced it, from which inputs, and the checksum of every file.

Records have their own tree, ``results/records/STAGE/...``: equal runs produce equal artifacts but different records
(time, host, commit). A record moves to the store and back with its artifact, and DVC tracks it.
"""

import hashlib
import os
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict, TypeGuard, cast

from pipeline.core.environment import CodeState, RunInfo, code_state, run_info
from pipeline.core.errors import UserError
from pipeline.core.io import before_rename, canonical_json, read_json, sha256_file, write_json
from pipeline.study.artifacts import STORE, Artifact, ArtifactManifest
from pipeline.study.stages import STAGES

# These files differ between equal runs. A record lists their checksums, but they do not count when the artifact is the
# input of another one.
RUN_FILES = ("run.json", "timing.jsonl")


class InputRecord(TypedDict):
    """An input of an artifact: its path, and the combined checksum of its files when it was used."""

    path: str
    sum: str


class ArtifactRecord(TypedDict):
    """The part of a record that equal runs have in common."""

    artifact: ArtifactManifest
    path: str
    seed: int | None
    files: dict[str, str]
    inputs: dict[str, InputRecord]


class ResultRecord(ArtifactRecord):
    """A provenance record, as written to ``results/records``; ``sum`` is the checksum of all other keys."""

    study: str
    command: str | None
    code: CodeState
    run: RunInfo
    sum: str


def content_path(stage: str, path: Path) -> Path:
    """Return the file or folder with an artifact's content: for a report, the folder that contains its manifest."""
    return path.parent if stage == "report" else path


def artifact_files(stage: str, path: Path) -> dict[str, Path]:
    """Return the files of an artifact by their name inside it."""
    return _list_files(content_path(stage, path), path.name)


def file_checksums(stage: str, path: Path) -> dict[str, str]:
    """Return the sha256 (64 hex digits) of each file of an artifact."""
    return _checksums(artifact_files(stage, path))


def _checksums(files: Mapping[str, Path]) -> dict[str, str]:
    return {name: sha256_file(file) for name, file in files.items()}


def _list_files(content: Path, name: str) -> dict[str, Path]:
    if not content.is_dir():
        return {name: content}
    files = {}
    for folder, subfolders, filenames in os.walk(content):
        subfolders.sort()
        for filename in sorted(filenames):
            # Snakemake marks folders that it has made; .partial files are unfinished work
            if not filename.startswith(".snakemake") and not filename.endswith(".partial"):
                file = Path(folder, filename)
                files[file.relative_to(content).as_posix()] = file
    return files


def combined_checksum(checksums: Mapping[str, str]) -> str:
    """Return one checksum for an artifact as an input, over the files that equal runs leave equal."""
    return _sha256({name: checksum for name, checksum in checksums.items() if name not in RUN_FILES})


def seal_record(record: Mapping[str, Any]) -> ResultRecord:
    """Return a record with the checksum of its content under "sum"."""
    content = {key: value for key, value in record.items() if key != "sum"}
    return cast(ResultRecord, {**content, "sum": _sha256(content)})


def is_intact(record: object) -> TypeGuard[ResultRecord]:
    """Return whether a record is unchanged since it was written."""
    return isinstance(record, dict) and record == seal_record(record)


def read_record(path: Path, *, root: Path = Path()) -> ResultRecord | None:
    """Return a record by its path, from the project or else from the store; None if there is none.

    Its content is not checked: see ``is_intact``.

    Raises:
        UserError: the file is not JSON.
    """
    for folder in (root, root / STORE):
        if (folder / path).is_file():
            return cast(ResultRecord, read_json(folder / path))
    return None


@contextmanager
def record_result(artifact: Artifact, *, study: str, command: Sequence[str]) -> Iterator[None]:
    """Run the block that produces ``artifact``, in the project's root, and write its record just before the final rename.

    So an artifact exists only with its record, even after a kill. If the record of an earlier run has the same files and
    inputs, it stays: it says when the artifact was first produced.
    """
    started, content = time.time(), content_path(artifact.stage, artifact.path)
    inputs, written = _record_inputs(artifact), False

    def write(source: Path, target: Path) -> None:
        nonlocal written
        # the callback sees every atomic write of the block, such as a checkpoint's
        if target != content:
            return
        described = _describe_artifact(artifact, _checksums(_list_files(source, artifact.path.name)), inputs)
        if not _is_recorded(artifact.record, described):
            # stages that may use a GPU write a run.json with their device; all others run on the CPU
            run = _read_run_info(source) or run_info(started=started, device="cpu")
            origin = {"study": study, "command": shlex.join(command), "code": code_state(), "run": run}
            write_json(artifact.record, seal_record({**described, **origin}))
        written = True

    with before_rename(write):
        yield
    # the renaming happened in another process, such as the first of several that train together
    if not written:
        write(content, content)


def adopt_result(artifact: Artifact, *, study: str) -> None:
    """Write a record for an artifact that has none, from its current files; only its run.json says what produced it."""
    run = _read_run_info(artifact.path)
    # a difference without its patch makes `reproduce` refuse the result, since its code is unknown
    changes = "not recorded" if run.get("git_dirty") else None
    code = {"commit": run.get("git_commit"), "diff_sha256": changes, "diff": None}
    origin = {"study": study, "command": None, "code": code, "run": run}
    checksums = file_checksums(artifact.stage, artifact.path)
    described = _describe_artifact(artifact, checksums, _record_inputs(artifact))
    write_json(artifact.record, seal_record({**described, **origin}))


def _record_inputs(artifact: Artifact) -> dict[str, InputRecord]:
    # a missing input is the stage's to report: its message is better than one from here
    return {
        name: {"path": str(source.path), "sum": _checksum_of_undamaged(source)}
        for name, source in artifact.inputs.items()
        if source.path.exists()
    }


def _checksum_of_undamaged(artifact: Artifact) -> str:
    """Return the combined checksum of an artifact that is used as an input.

    Raises:
        UserError: its files do not match its record, so nothing may be produced from it.
    """
    current, record = file_checksums(artifact.stage, artifact.path), read_record(artifact.record)
    # a missing or damaged record proves nothing against the files; `verify` reports it
    recorded = record["files"] if is_intact(record) else current
    if combined_checksum(current) != combined_checksum(recorded):
        names = {*current, *recorded} - {*RUN_FILES}
        changed = min(name for name in names if current.get(name) != recorded.get(name))
        content = content_path(artifact.stage, artifact.path)
        file = artifact.path if changed == artifact.path.name else content / changed
        raise UserError(
            f"{file}: damaged or changed (its checksum differs from the record); restore it with dvc checkout, "
            f"or delete {artifact.path} and rerun"
        )
    return combined_checksum(current)


def _describe_artifact(
    artifact: Artifact, checksums: Mapping[str, str], inputs: dict[str, InputRecord]
) -> ArtifactRecord:
    return {
        "artifact": artifact.manifest,
        "path": str(artifact.path),
        "seed": _seed(artifact.params),
        "files": dict(checksums),
        "inputs": inputs,
    }


def _is_recorded(path: Path, described: ArtifactRecord) -> bool:
    try:
        record = read_json(path) if path.is_file() else None
    # a damaged record is replaced
    except UserError:
        return False
    return is_intact(record) and all(record.get(key) == value for key, value in described.items())


def _read_run_info(path: Path) -> RunInfo:
    """Return the content of an artifact's run.json; empty if it has none."""
    file = path / "run.json"
    return cast(RunInfo, read_json(file) if file.is_file() else {})


def _seed(params: Mapping[str, Any]) -> int | None:
    # a pretrained base has its seed among the settings of its pretraining
    merged = {**params.get("pretraining", {}), **params}
    return merged.get("seed", merged.get("sample_seed"))


def _sha256(value: Any) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def find_stage(path: Path) -> str | None:
    """Return the stage whose folder contains a path, which is relative to the project's root."""
    return next((name for name, stage in STAGES.items() if path.is_relative_to(stage.folder)), None)
