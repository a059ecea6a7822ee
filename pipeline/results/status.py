"""The state of a study: what is up to date, what is stale and for which cause, and how long a rerun would take.

It reads only names and records, so it needs neither Snakemake nor DVC.
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from pipeline.core.io import read_json
from pipeline.core.text import open_console
from pipeline.results import provenance
from pipeline.results.causes import explain_changes
from pipeline.results.dvc.lock import cached_object, check_lock, read_lock
from pipeline.results.history import History, path_label
from pipeline.results.store import disk_size, stale_paths
from pipeline.study import Study, default_study
from pipeline.study.artifacts import STORE, Artifact, fingerprint_in_path, list_artifacts
from pipeline.study.costs.messages import describe_needs
from pipeline.study.find import command_options, snakemake_options
from pipeline.study.stages import STAGES

# More causes would not fit on a screen; --json has all of them.
MAX_CAUSES = 12


@dataclass(frozen=True)
class PlannedJob:
    """An artifact that Snakemake would produce, the causes, and how long its predecessor took.

    Attributes:
        artifact: that it produces.
        causes: why it would run.
        is_new: whether there is no earlier result with its name.
        previous_s: how long the most similar earlier result took, in seconds; None: unknown.
    """

    artifact: Artifact
    causes: tuple[str, ...]
    is_new: bool
    previous_s: float | None


@dataclass(frozen=True)
class StageStatus:
    """The artifacts of a stage.

    Attributes:
        total: artifacts of the study.
        present: those in the project's folders.
        in_store: those in the store only; Snakemake restores them when it starts.
        to_run: those that Snakemake would produce.
        last_s: how long the predecessors of ``to_run`` took, in seconds.
        untimed: how many of ``to_run`` have no predecessor with a known time.
        new: how many of ``to_run`` have no predecessor.
    """

    total: int
    present: int
    in_store: int
    to_run: int
    last_s: float
    untimed: int
    new: int


@dataclass(frozen=True)
class StoreStatus:
    """How many results are in the store, and their size."""

    results: int
    bytes: int


@dataclass(frozen=True)
class StudyStatus:
    """What ``status --json`` prints.

    Attributes:
        study: its name.
        stages: the state of each stage.
        to_run: the paths of the artifacts that Snakemake would produce.
        causes: for each cause, the paths that it makes stale.
        stale: number of results on disk that the study does not refer to.
        store: what the store holds.
        in_dvc_lock: whether dvc.lock lists the results on disk; None: unknown without DVC's cache.
        dvc_lock_error: what is wrong with dvc.lock, if it cannot be read.
    """

    study: str
    stages: dict[str, StageStatus]
    to_run: list[str]
    causes: dict[str, list[str]]
    stale: int
    store: StoreStatus
    in_dvc_lock: bool | None
    dvc_lock_error: str | None


def plan_artifacts(study: Study, *, root: Path = Path()) -> list[Artifact]:
    """Return what Snakemake would produce for the report, inputs first.

    What is in the store counts as present: Snakemake restores it when it starts.
    """
    planned: dict[Path, Artifact] = {}

    def visit(artifact: Artifact) -> None:
        # The inputs of a present artifact are not visited: Snakemake does not need them either.
        if artifact.path in planned or _is_present(artifact, root):
            return
        for source in artifact.inputs.values():
            visit(source)
        planned[artifact.path] = artifact

    visit(study.report)
    return list(planned.values())


def _is_present(artifact: Artifact, root: Path) -> bool:
    return (root / artifact.path).exists() or (root / STORE / artifact.path).exists()


def plan_jobs(study: Study, *, root: Path = Path()) -> list[PlannedJob]:
    """Return what Snakemake would produce, the causes, and how long it took last time."""
    history, current_paths = History(root), {artifact.path for artifact in study.named()}
    jobs = []
    for artifact in plan_artifacts(study, root=root):
        predecessor, causes = _find_predecessor(study, artifact, history, current_paths)
        seconds = history.seconds(artifact.stage, predecessor) if predecessor else None
        jobs.append(PlannedJob(artifact, causes, predecessor is None, seconds))
    return jobs


def _find_predecessor(
    study: Study, artifact: Artifact, history: History, current_paths: set[Path]
) -> tuple[Path | None, tuple[str, ...]]:
    """Return the stale artifact with the same label that differs least, and the causes of the difference."""
    paths = history.paths_by_label.get((artifact.stage, path_label(artifact.path)), [])
    candidates: list[tuple[Path, tuple[str, ...]]] = []
    # a path may be in the project and in the store
    for path in dict.fromkeys(path for path in paths if path not in current_paths):
        previous = history.identity(artifact.stage, path)
        if previous is None:
            candidates.append((path, (f"differs from {path}, which has no record of its params",)))
        else:
            causes = explain_changes(study, artifact, previous, history.find_identity)
            rows = (f"the choice or the order of rows ({study.where})",)
            candidates.append((path, tuple(dict.fromkeys(causes)) or rows))
    if candidates:
        return min(candidates, key=lambda candidate: len(candidate[1]))
    return None, ("new: no earlier result with this name",)


def compare_lock(*, root: Path = Path()) -> bool | None:
    """Return whether dvc.lock lists the results on disk; None: unknown without DVC's cache.

    It compares names, which depend on what a result was produced from; ``dvc status`` compares every byte.

    Raises:
        UserError: dvc.lock is not valid.
    """
    checksums = {output.path: output.md5 for output in read_lock(root)}
    for name, stage in STAGES.items():
        # the folder of a report has the same name whatever it was built from
        if name == "report":
            continue
        if stage.folder not in checksums:
            if list_artifacts(root, name):
                return False
            # a stage that no earlier study needed
            continue
        listing = cached_object(checksums[stage.folder], root)
        if not listing.is_file():
            return None
        files = (Path(stage.folder, entry["relpath"]) for entry in read_json(listing))
        locked = {path for path in map(_containing_artifact, files) if path}
        if {str(path) for path in list_artifacts(root, name)} != locked:
            return False
    return True


def _containing_artifact(file: Path) -> str | None:
    """Return the artifact that a file is, or belongs to."""
    parents = (Path(*file.parts[: count + 1]) for count in range(len(file.parts)))
    return next((str(path) for path in parents if fingerprint_in_path(path)), None)


def remind_of_commit(study: Study, *, root: Path = Path()) -> None:
    """Print a line on stderr, after a run of the default study, if dvc.lock does not list its results.

    Within ``dvc repro`` it prints nothing: DVC records them itself.
    """
    if "DVC_STAGE" in os.environ or study.name != default_study() or not (root / ".dvc").is_dir():
        return
    # a problem with dvc.lock was printed when Snakemake started
    if check_lock(root) is None and compare_lock(root=root) is False:
        print(f"dvc.lock does not match the results on disk; {_commit_hint(study)}", file=sys.stderr)


def _commit_hint(study: Study) -> str:
    # dvc.yaml has the report of the default study
    options = command_options(study) if study.name == default_study() else ""
    return f"record them: python -m pipeline commit{options}"


def summarize_study(study: Study, *, root: Path = Path()) -> StudyStatus:
    """Return the state of a study."""
    jobs = plan_jobs(study, root=root)
    causes: dict[str, list[str]] = {}
    for job in jobs:
        for cause in job.causes:
            causes.setdefault(cause, []).append(str(job.artifact.path))
    parked = [path for stage in STAGES for path in list_artifacts(root / STORE, stage)]
    lock_error = check_lock(root)
    return StudyStatus(
        study=study.name,
        stages={
            stage: _summarize_stage(artifacts, [job for job in jobs if job.artifact.stage == stage], root)
            for stage, artifacts in study.artifacts.items()
        },
        to_run=[str(job.artifact.path) for job in jobs],
        causes=causes,
        stale=len(stale_paths(study.named(), study.artifacts, root=root)),
        store=StoreStatus(len(parked), disk_size(root / STORE) if parked else 0),
        in_dvc_lock=None if lock_error else compare_lock(root=root),
        dvc_lock_error=lock_error,
    )


def _summarize_stage(artifacts: list[Artifact], jobs: list[PlannedJob], root: Path) -> StageStatus:
    unique = {artifact.path: artifact for artifact in artifacts}
    present = {path for path in unique if (root / path).exists()}
    return StageStatus(
        total=len(unique),
        present=len(present),
        in_store=sum(path not in present and (root / STORE / path).exists() for path in unique),
        to_run=len(jobs),
        last_s=sum(job.previous_s or 0.0 for job in jobs),
        untimed=sum(job.previous_s is None for job in jobs),
        new=sum(job.is_new for job in jobs),
    )


def print_status(study: Study, *, as_json: bool, root: Path = Path()) -> None:
    """Print the state of a study on one screen, or as JSON."""
    status = summarize_study(study, root=root)
    if as_json:
        print(json.dumps(asdict(status), indent=1, ensure_ascii=False))
        return
    console = open_console()
    console.print(
        f"study {study.name} ({study.where}): "
        + (f"{len(status.to_run)} to run" if status.to_run else "up to date")
    )
    console.print(_stage_table(status.stages))
    if status.causes:
        console.print(_cause_table(status.causes))
    for line in [*_status_notes(study, status), *describe_needs(study)]:
        # rich would take brackets in a path for markup
        console.print(line, markup=False)


def _stage_table(stages: Mapping[str, StageStatus]) -> Table:
    table = Table("stage", box=None, pad_edge=False)
    for title in ("total", "present", "in store", "to run", "last time"):
        table.add_column(title, justify="right")
    for name, stage in stages.items():
        counts = (stage.total, stage.present, stage.in_store, stage.to_run)
        table.add_row(
            name,
            *(str(count or "-") for count in counts),
            describe_last_time(stage) if stage.to_run else "",
        )
    return table


def describe_last_time(stage: StageStatus) -> str:
    """Return how long the jobs of a stage that would run took last time, and how many have no such time."""
    if stage.new == stage.to_run:
        return "never run"
    parts = [
        f"{stage.last_s:.0f} s" if stage.untimed < stage.to_run else "",
        f"{stage.new} new" if stage.new else "",
        f"{stage.untimed - stage.new} unknown" if stage.untimed > stage.new else "",
    ]
    return "unknown" if stage.untimed == stage.to_run and not stage.new else " + ".join(filter(None, parts))


def _cause_table(causes: Mapping[str, list[str]]) -> Table:
    table = Table("cause", "jobs", box=None, pad_edge=False)
    by_count = sorted(causes.items(), key=lambda item: -len(item[1]))
    for cause, paths in by_count[:MAX_CAUSES]:
        stages = Counter(provenance.find_stage(Path(path)) for path in paths)
        table.add_row(Text(cause), ", ".join(f"{count} {stage}" for stage, count in stages.items()))
    if len(by_count) > MAX_CAUSES:
        table.add_row(f"and {len(by_count) - MAX_CAUSES} more: see --json", "")
    return table


def _status_notes(study: Study, status: StudyStatus) -> Iterator[str]:
    if status.to_run:
        timed = len(status.to_run) - sum(stage.untimed for stage in status.stages.values())
        seconds = sum(stage.last_s for stage in status.stages.values())
        if timed:
            last = f"{timed} of these took {seconds:.0f} s, one after another"
        elif all(stage.new == stage.to_run for stage in status.stages.values()):
            last = "none, all of these are new"
        else:
            last = "unknown"
        yield f"last time: {last}; run: snakemake{snakemake_options(study)}"
    if status.stale:
        yield f"stale results: {status.stale}; move them to the store: python -m pipeline prune{command_options(study)}"
    if status.store.results:
        size = decimal(status.store.bytes)
        yield f"store: {status.store.results} results, {size}; list them: python -m pipeline prune --store"
    else:
        yield "store: empty"
    if status.dvc_lock_error:
        yield status.dvc_lock_error
    elif status.in_dvc_lock is None:
        yield "dvc.lock: DVC's cache of this checkout does not have its contents; compare with dvc status"
    elif status.in_dvc_lock:
        yield "dvc.lock: up to date"
    else:
        yield f"dvc.lock: does not match the results on disk; {_commit_hint(study)}"
