"""Whether results are what was made: every file against its record's sums, every record against its inputs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError
from pipeline.core.io import read_json, sha256_file
from pipeline.results import provenance
from pipeline.study import Study
from pipeline.study.artifacts import (
    STORE,
    Artifact,
    fingerprint_of,
    named_fingerprint,
    record_path,
    recorded_path,
    stored,
    stored_records,
)
from pipeline.study.stages import STAGES

# The keys of which a fingerprint is taken (artifacts.Artifact.identity).
IDENTITY = ("stage", "version", "params", "inputs")


@dataclass
class Found:
    """What a check found: faults, a line each; results without record; counts of what was looked at."""

    faults: list[str] = field(default_factory=list)
    without: list[Path] = field(default_factory=list)
    results: int = 0
    files: int = 0
    links: int = 0
    unlinked: int = 0


def verify(
    *, paths: Sequence[Path] = (), named: Iterable[Artifact] | None = None, root: Path = Path()
) -> Found:
    """Check results and their records.

    Args:
        paths: only what is one of these, lies below one or holds one, relative to the root; none: everything.
        named: only these artifacts; None: all on disk.
        root: the project's.

    Raises:
        UserError: a path under which there is no result, or nowhere any.
    """
    found = Found()
    only = None if named is None else {artifact.path for artifact in named}
    present = {
        stage: {path for path in stored(root, stage) if _asked(stage, path, paths, only)} for stage in STAGES
    }
    lost = list(_lost(present, paths, only, root))
    if paths and not lost and not any(present.values()):
        raise UserError(f"verify: no result lies at or below {', '.join(map(str, paths))}")
    if not lost and not any(present.values()):
        raise UserError("verify: no result is here; get them with dvc pull, or make them with snakemake")
    for path in lost:
        found.faults.append(f"{path}: missing, but recorded as made; pull it with dvc, or make it again")
    for stage, some in present.items():
        for path in sorted(some):
            found.results += 1
            _check(stage, path, found, root)
    return found


def _asked(stage: str, path: Path, paths: Sequence[Path], only: set[Path] | None) -> bool:
    if only is not None and path not in only:
        return False
    top = path.parent if stage == "report" else path
    return not paths or any(top.is_relative_to(one) or one.is_relative_to(top) for one in paths)


def _lost(
    present: dict[str, set[Path]], paths: Sequence[Path], only: set[Path] | None, root: Path
) -> Iterator[Path]:
    """Yield what has a record and is not there."""
    for stage, some in present.items():
        for record in stored_records(root, stage):
            path = recorded_path(stage, record)
            if path not in some and _asked(stage, path, paths, only):
                yield path


def _check(stage: str, path: Path, found: Found, root: Path) -> None:
    place = record_path(stage, path)
    try:
        record = provenance.read(place, root=root)
    except UserError as error:
        found.faults.append(str(error))
        return
    if record is None:
        found.without.append(path)
        found.faults += _wrong_manifest(stage, root / path, path)
        return
    if not provenance.is_whole(record):
        found.faults.append(f"{place}: changed since it was written (its own sum does not hold)")
        return
    identity = {key: record["artifact"][key] for key in IDENTITY}
    if not fingerprint_of(identity) == record["artifact"]["fingerprint"] == named_fingerprint(path):
        found.faults.append(
            f"{place}: what it says of params and inputs does not have the fingerprint of {path}"
        )
    found.faults += _wrong_files(stage, path, record["files"], found, root)
    found.faults += _wrong_links(path, record, found, root)


def _wrong_manifest(stage: str, place: Path, path: Path) -> Iterator[str]:
    """Yield the fault of the manifest that lies in a result, where there is one."""
    inside = place if stage == "score" else place / "manifest.json"
    if not inside.is_file():
        return
    try:
        told = read_json(inside)
        identity = {key: told[key] for key in IDENTITY}
    except UserError as error:
        yield str(error)
    except (KeyError, TypeError):
        if stage != "base":  # a base from the hub has no manifest of ours
            yield f"{inside}: no manifest"
    else:
        if not fingerprint_of(identity) == told.get("fingerprint") == named_fingerprint(path):
            yield f"{inside}: params and inputs do not have the fingerprint in the path"


def _wrong_files(stage: str, path: Path, told: Mapping[str, str], found: Found, root: Path) -> Iterator[str]:
    top = path if (root / path).is_dir() else path.parent
    present = provenance.files_of(stage, root / path)
    found.files += len(told)
    for name, known in told.items():
        if name not in present:
            yield f"{top / name}: missing"
        elif (now := sha256_file(present[name])) != known:
            yield f"{top / name}: changed since it was made (sha256 {known[:12]}... then, {now[:12]}... now)"
    for name in sorted(set(present) - set(told)):
        yield f"{top / name}: was not there when it was made"


def _wrong_links(path: Path, record: Mapping[str, Any], found: Found, root: Path) -> Iterator[str]:
    for name, fingerprint in record["artifact"]["inputs"].items():
        told = record["inputs"].get(name)
        now = told and _sum_now(Path(told["path"]), root)
        if not now:
            found.unlinked += 1
            continue
        found.links += 1
        if named_fingerprint(Path(told["path"])) != fingerprint:
            yield f"{path}: its input '{name}' is recorded under another name, {told['path']}"
        elif now != told["sum"]:
            yield f"{path}: made from other bytes of {told['path']} than are recorded now; make it again"


def _sum_now(path: Path, root: Path) -> str | None:
    """Return the sum of an input: by its record, else of its files; None: neither is to be had, or its record is broken."""
    stage = provenance.stage_of(path)
    if stage is None:
        return None
    try:
        record = provenance.read(record_path(stage, path), root=root)
    except UserError:
        return None
    if record is not None:
        return provenance.sum_of(record["files"]) if provenance.is_whole(record) else None
    place = next((place for place in (root / path, root / STORE / path) if place.exists()), None)
    return provenance.sum_of(provenance.sums(stage, place)) if place else None


def adopt(study: Study) -> None:
    """Record what of a study has no record, as it lies there now: later changes are found, earlier ones are not."""
    for artifact in study.named():
        if artifact.path.exists() and not artifact.record.exists():
            provenance.adopt(artifact, study=study.name)
            print(f"recorded as it is: {artifact.path}")


def show(found: Found) -> None:
    """Print faults, a line each, then what was looked at."""
    for line in found.faults:
        print(line)
    for path in found.without:
        print(f"{path}: no record of its making, so nothing to check it against")
    checked = f"{found.results - len(found.without)} results, {found.files} files, {found.links} links"
    if found.unlinked:
        checked += f" ({found.unlinked} links lead to results that are not here)"
    outcome = [f"{len(found.faults)} at fault"] if found.faults else []
    outcome += [f"{len(found.without)} without a record"] if found.without else []
    print(f"checked {checked}: {', '.join(outcome) or 'all as recorded'}")
