"""The record of a result: what made it, of what, with the sums of every file.

Records lie in a tree of their own, ``results/records/STAGE/...``, because equal runs leave equal results and unequal
records (when, where, with which commit). They move into the store and back with their results, and DVC carries them.
"""

import hashlib
import os
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.core.environment import code_state, run_info
from pipeline.core.errors import UserError
from pipeline.core.io import before_renaming, canonical_json, read_json, sha256_file, write_json
from pipeline.study.artifacts import STORE, Artifact
from pipeline.study.stages import STAGES

Record = dict[str, Any]

# What differs between equal runs: in a record's sums, but not in the sum by which a result is an input of another.
UNEQUAL = ("run.json", "timing.jsonl")


def top_of(stage: str, path: Path) -> Path:
    """Return the file or folder that an artifact's files are: of a report, the folder that its manifest lies in."""
    return path.parent if stage == "report" else path


def files_of(stage: str, path: Path) -> dict[str, Path]:
    """Return the files of an artifact by name within it."""
    return _files(top_of(stage, path), path.name)


def sums(stage: str, path: Path) -> dict[str, str]:
    """Return the sha256 (64 hex digits) of each file of an artifact."""
    return {name: sha256_file(file) for name, file in files_of(stage, path).items()}


def _files(top: Path, name: str) -> dict[str, Path]:
    if not top.is_dir():
        return {name: top}
    found = {}
    for folder, folders, names in os.walk(top):
        folders.sort()
        for one in sorted(names):
            if not one.startswith(".snakemake") and not one.endswith(".partial"):
                file = Path(folder, one)
                found[file.relative_to(top).as_posix()] = file
    return found


def sum_of(files: Mapping[str, str]) -> str:
    """Return the one sum of an artifact by which others name it as an input: over all that equal runs leave equal."""
    return _sha256({name: one for name, one in files.items() if name not in UNEQUAL})


def sealed(record: Mapping[str, Any]) -> Record:
    """Return a record with the sum of itself under "sum"."""
    told = {key: value for key, value in record.items() if key != "sum"}
    return {**told, "sum": _sha256(told)}


def is_whole(record: Any) -> bool:
    """Return whether a record is as it was written."""
    return isinstance(record, dict) and record == sealed(record)


def read(path: Path, *, root: Path = Path()) -> Any:
    """Return a record by its path, from its place or else from the store; None: there is none.

    Raises:
        UserError: it is no JSON.
    """
    for place in (root / path, root / STORE / path):
        if place.is_file():
            return read_json(place)
    return None


@contextmanager
def recorded(artifact: Artifact, *, study: str, command: Sequence[str]) -> Iterator[None]:
    """Run the block that makes ``artifact``, in the project's root, and write its record just ahead of its name.

    So a result that a kill leaves has its record. Where the same bytes of the same inputs are recorded already, that
    record stays: it says when they were first made.
    """
    started, top = time.time(), top_of(artifact.stage, artifact.path)
    inputs, done = _inputs(artifact), []

    def write(source: Path, target: Path) -> None:
        if target != top:
            return
        files = {name: sha256_file(file) for name, file in _files(source, artifact.path.name).items()}
        made = _described(artifact, files, inputs)
        if not _is_told(artifact.record, made):
            run = _run(source) or run_info(started=started, device="cpu")
            told = {"study": study, "command": shlex.join(command), "code": code_state(), "run": run}
            write_json(artifact.record, sealed({**made, **told}))
        done.append(target)

    with before_renaming(write):
        yield
    if not done:  # other processes made it
        write(top, top)


def adopt(artifact: Artifact, *, study: str) -> None:
    """Write a record of a result that has none, as it lies there now; who made it is known from its run.json alone."""
    run = _run(artifact.path)
    changes = "not recorded" if run.get("git_dirty") else None
    code = {"commit": run.get("git_commit"), "diff_sha256": changes, "diff": None}
    told = {"study": study, "command": None, "code": code, "run": run}
    made = _described(artifact, sums(artifact.stage, artifact.path), _inputs(artifact))
    write_json(artifact.record, sealed({**made, **told}))


def _inputs(artifact: Artifact) -> Record:
    return {
        name: {"path": str(one.path), "sum": _undamaged(one)}
        for name, one in artifact.inputs.items()
        if one.path.exists()  # else the stage says better what is missing
    }


def _undamaged(artifact: Artifact) -> str:
    """Return the sum of a result that others are made from.

    Raises:
        UserError: its files are not what its record says, so that nothing is to be made from them.
    """
    now, record = sums(artifact.stage, artifact.path), read(artifact.record)
    then = record["files"] if is_whole(record) else now
    if sum_of(now) != sum_of(then):
        differing = min(
            name for name in {*now, *then} if now.get(name) != then.get(name) and name not in UNEQUAL
        )
        place = (
            top_of(artifact.stage, artifact.path) / differing
            if differing != artifact.path.name
            else artifact.path
        )
        raise UserError(
            f"{place}: damaged or changed since it was made (its sum is not the recorded one); put it back (dvc checkout), "
            f"or delete {artifact.path} and start again"
        )
    return sum_of(now)


def _described(artifact: Artifact, files: Mapping[str, str], inputs: Record) -> Record:
    """Return what a record says of an artifact itself."""
    return {
        "artifact": artifact.manifest,
        "path": str(artifact.path),
        "seed": _seed(artifact.params),
        "files": dict(files),
        "inputs": inputs,
    }


def _is_told(path: Path, made: Record) -> bool:
    try:
        record: Any = read_json(path) if path.is_file() else None
    except UserError:
        return False
    return is_whole(record) and all(record.get(key) == value for key, value in made.items())


def _run(path: Path) -> Record:
    found: Record = read_json(path / "run.json") if (path / "run.json").is_file() else {}
    return found


def _seed(params: Mapping[str, Any]) -> int | None:
    given = {**params.get("pretraining", {}), **params}
    return given.get("seed", given.get("sample_seed"))


def _sha256(value: Any) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def stage_of(path: Path) -> str | None:
    """Return the stage whose folder a path, relative to the project's root, lies in."""
    return next((stage for stage, row in STAGES.items() if path.is_relative_to(row.folder)), None)
