"""A result made again from nothing, in a clean worktree at the commit that made it, and compared with what is here."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline.core.environment import run_git
from pipeline.core.errors import UserError
from pipeline.core.io import read_json, sha256_file
from pipeline.params.studies import Arm
from pipeline.results import provenance
from pipeline.results.differences import difference
from pipeline.results.verify import verify
from pipeline.study import Study, load_study
from pipeline.study import find as names
from pipeline.study.artifacts import STORE, Artifact
from pipeline.study.run import Run

INPUTS = ("fetch", "prompts", "audit", "base")  # what --from-inputs takes over
OF_REPORT = ("metrics.json", "plots/")  # of a report, what holds no seconds
TOLERANCE = 0.02  # of an accuracy in [0, 1], where a GPU made the result: its sums round by batch and kernel


@dataclass(frozen=True)
class Asked:
    """What is to be made again: the study, its artifacts, and the number of the report if one was named."""

    study: Study
    targets: tuple[Artifact, ...]
    number: tuple[str, ...] = ()
    runs: tuple[Run, ...] = ()


@dataclass
class Outcome:
    """What was compared, and how it differs, a line each."""

    compared: int = 0
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tolerance: float | None = None  # of accuracies, where bytes were not held to each other


def find(named: str, study: str | None) -> Asked:
    """Return what people name: a result's path, a number of a report by its key in metrics.json, or a run.

    Args:
        named: the path of any result; PROTOCOL/MODEL/METHOD/TASK (or with dots, as ``dvc metrics show`` has it), TASK
            also "average ARM"; or a run as ``names.find_run`` takes it: its adapter, answers and scores.
        study: of a file in params/study/; None: the default study or, for a run, any that has it.

    Raises:
        UserError: nothing, or several things, are called so.
    """
    chosen = load_study(study)
    path = os.path.normpath(named)
    for artifact in chosen.named():
        if path == str(artifact.path):
            return Asked(chosen, (artifact,))
    number = _number(named, chosen)
    if number:
        runs = tuple(_runs_of(number, chosen))
        return Asked(chosen, tuple(chosen.scores(run) for run in runs), number, runs)
    try:
        chosen, run = names.find_run(named, study)
    except UserError as error:
        raise UserError(f"{error}; {_no_number(chosen)}") from None
    return Asked(chosen, (chosen.scores(run),), (), (run,))


def _no_number(study: Study) -> str:
    """Say that the report has no number of the name that was given."""
    path = study.report.path.with_name("metrics.json")
    if not path.is_file():
        return f"and {path}, whose numbers could be named too, is not here"
    example = next(iter(_leaves(read_json(path))), None)
    return f"nor is it a number of {path}" + (f", such as {'/'.join(example)}" if example else "")


def _number(named: str, study: Study) -> tuple[str, ...]:
    """Return the key of a number in the report's metrics, () if it is none."""
    path = study.report.path.with_name("metrics.json")
    keys = list(_leaves(read_json(path))) if path.is_file() else []
    return next((key for key in keys if named in ("/".join(key), ".".join(key))), ())


def _leaves(value: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if not isinstance(value, Mapping):
        yield above
        return
    for key, one in value.items():
        yield from _leaves(one, (*above, key))


def _runs_of(number: tuple[str, ...], study: Study) -> Iterator[Run]:
    """Yield the runs, one a seed, whose answers a number of the report is the mean of; of arms that share a task the last."""
    protocol, model, method, task = number
    asked = [
        (run, arm)
        for run in study.runs
        for arm in run.arms
        if (run.model, run.method) == (model, method)
        and (task == f"average {arm.name}" or _is_asked(study, run, arm, f"{task}-{protocol}"))
    ]
    last = max((arm for _, arm in asked), key=study.card.arms.index, default=None)
    yield from (run for run, arm in asked if arm is last)


def _is_asked(study: Study, run: Run, arm: Arm, name: str) -> bool:
    return any(task.name == name and task.task in arm.tasks for task in study.tasks(run))


def value_of(asked: Asked, scores: Mapping[Path, Any]) -> float:
    """Return a number of the report from its runs' score files: the mean over seeds, then over tasks."""
    protocol, _, _, task = asked.number
    arm = next((arm for run in asked.runs for arm in run.arms if task == f"average {arm.name}"), None)
    means = []
    for one in arm.tasks if arm else [task]:
        tasks = [scores[target.path]["tasks"] for target in asked.targets]
        seeds = [told[f"{one}-{protocol}"]["accuracy"] for told in tasks if f"{one}-{protocol}" in told]
        if not seeds:
            continue  # a task that is asked under other protocols alone
        means.append(sum(seeds) / len(seeds))
    return float(sum(means) / len(means))


def reproduce(
    asked: Asked,
    *,
    from_inputs: bool = False,
    data_root: str = "",
    tolerance: float = TOLERANCE,
    device: str = "",
    worktree: Path | None = None,
    root: Path = Path(),
) -> Outcome:
    """Make results again where nothing is, and compare them, and all that they are made from, with those here.

    Args:
        asked: which.
        from_inputs: take data, prompts and bases over, if they are as recorded, instead of making them again.
        data_root: folder of local dataset files.
        tolerance: of an accuracy in [0, 1], where a GPU made the result, or makes it again.
        device: "cpu" or "cuda" to make it on; "": that of the record.
        worktree: folder to work in, and to leave, with -1, -2 ... where results were made by several codes; None: a
            temporary one, left only if the making fails.
        root: the project's.

    Raises:
        UserError: a result without record, or whose code cannot be had again; or the making fails.
    """
    found = Outcome()
    by_code: dict[str, list[Artifact]] = {}
    records = {target.path: _record(target, root, found.notes) for target in asked.targets}
    for target in asked.targets:
        code = records[target.path]["code"]
        by_code.setdefault(f"{code['commit']} {code['diff_sha256']}", []).append(target)
    scores: dict[Path, Any] = {}
    for number, targets in enumerate(by_code.values(), start=1):
        of = records[targets[0].path]
        found.notes += _other_versions(of)
        place = worktree.with_name(f"{worktree.name}-{number}") if worktree and len(by_code) > 1 else worktree
        with _worktree(of["code"], place, root) as folder:
            every = list({one.path: one for target in targets for one in _with_inputs(target)}.values())
            taken = [one for one in every if from_inputs and one.stage in INPUTS and one not in targets]
            _take_over(taken, folder, root)
            on_gpu, processes = machine_of(every, root)
            chosen = device or ("cuda" if on_gpu else "cpu")
            allowed = tolerance if on_gpu or chosen == "cuda" else None
            found.tolerance = allowed if found.tolerance is None else found.tolerance
            machine = {"device": chosen, "processes": processes}
            _make(targets, folder, {"study": of["study"], **machine, "data_root": data_root})
            for one in every:
                if one not in taken:
                    compare(one, folder, root, found, allowed)
            if asked.number:
                scores |= {target.path: read_json(folder / target.path) for target in targets}
    if asked.number:
        _compare_number(asked, value_of(asked, scores), found)
    return found


def _record(artifact: Artifact, root: Path, notes: list[str]) -> Any:
    """Return an artifact's record; where that names no commit (it was adopted), the first of its inputs' that does."""
    for one in _with_inputs(artifact):
        record = provenance.read_record(one.record, root=root)
        if record is None:
            raise UserError(
                f"{one.path}: no record of its making, so the commit that made it is not known; get the records: dvc pull"
            )
        if not provenance.is_intact(record):
            raise UserError(f"{one.record}: changed since it was written; it cannot say what made the result")
        code = record["code"]
        if code["diff_sha256"] and code["diff"] is None:
            raise UserError(
                f"{one.path}: was made at commit {str(code['commit'])[:12]} with changes that are not recorded, "
                "so its code cannot be had again"
            )
        if code["commit"]:
            if one is not artifact:
                notes.append(f"{artifact.path}: no commit in its record; taking that of {one.path}")
            return record
    raise UserError(f"{artifact.path}: no commit in its record, so its code cannot be had again")


def _other_versions(record: Mapping[str, Any]) -> list[str]:
    told = record["run"].get("packages", {}).items()
    now = {name: _version(name) for name, _ in told}
    return [f"made with {name} {then}; here it is {now[name]}" for name, then in told if then != now[name]]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _with_inputs(artifact: Artifact) -> Iterator[Artifact]:
    yield artifact
    for one in artifact.inputs.values():
        yield from _with_inputs(one)


def machine_of(artifacts: Iterable[Artifact], root: Path = Path()) -> tuple[bool, int]:
    """Return whether a GPU made any of these results, and the most processes that made one, by their records."""
    gpu, processes = False, 1
    for artifact in artifacts:
        record = provenance.read_record(artifact.record, root=root)
        device = str(record["run"].get("device", "cpu")) if record else "cpu"
        count, _, name = device.rpartition(" x ")  # as in "2 x NVIDIA H100"
        gpu, processes = gpu or name != "cpu", max(processes, int(count or 1))
    return gpu, processes


@contextmanager
def _worktree(code: Mapping[str, Any], given: Path | None, root: Path) -> Iterator[Path]:
    """Yield the project's folder in a new worktree with the recorded code."""
    prefix = run_git("rev-parse", "--show-prefix", folder=root)
    if prefix is None:
        raise UserError("reproduce: not a git checkout, so there is no commit to go back to")
    if run_git("cat-file", "-e", f"{code['commit']}^{{commit}}", folder=root) is None:
        raise UserError(f"reproduce: commit {code['commit']} is not in this repository; git fetch it first")
    folder = given or Path(tempfile.mkdtemp(prefix="reproduce-"), "worktree")
    if folder.exists():
        raise UserError(f"{folder}: is there already; --worktree wants a new folder")
    if (
        run_git("worktree", "add", "--detach", "--quiet", str(folder.resolve()), code["commit"], folder=root)
        is None
    ):
        raise UserError(f"{folder}: git could not make a worktree of {code['commit']} there")
    if code["diff"]:
        _apply(code["diff"], folder)
    kept = given is not None
    try:
        yield folder / prefix.decode().strip()
    except UserError:
        kept = True  # it holds what tells why
        raise
    finally:
        if not kept:
            run_git("worktree", "remove", "--force", str(folder.resolve()), folder=root)
            shutil.rmtree(folder.parent, ignore_errors=True)


def _apply(diff: str, folder: Path) -> None:
    """Apply recorded changes to the files of a worktree."""
    command = ["git", "-C", str(folder), "apply", "-"]
    done = subprocess.run(command, input=diff.encode(), capture_output=True, check=False)
    if done.returncode:
        reason = " ".join(done.stderr.decode(errors="replace").split())
        raise UserError(f"{folder}: the recorded changes do not fit its commit ({reason})")


def _place(artifact: Artifact, root: Path) -> Path | None:
    """Return where a result lies: in its place, or in the store."""
    places = (root / artifact.path, root / STORE / artifact.path)
    return next((place for place in places if place.exists()), None)


def _take_over(artifacts: Iterable[Artifact], folder: Path, root: Path) -> None:
    for one in artifacts:
        place = _place(one, root)
        if place is None:
            raise UserError(f"{one.path}: not here, so it cannot be taken over; leave --from-inputs out")
        checked = verify(paths=[one.path], root=root) if place == root / one.path else None
        if checked is None or not checked.passed:
            raise UserError(
                f"{one.path}: is not as recorded, so it cannot be taken over; python -m pipeline verify"
            )
        (folder / one.path).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if place.is_dir() else shutil.copy2
        copy(place, folder / one.path)


def _make(targets: Iterable[Artifact], folder: Path, config: Mapping[str, Any]) -> None:
    """Run Snakemake in the worktree for the targets alone."""
    given = [f"{name}={value}" for name, value in config.items() if value]
    command = [sys.executable, "-m", "snakemake", "--cores", "all", "--config", *given, "--"]
    # a run made again is not another run of the study: it is recorded beside itself
    environment = {**os.environ, "MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"}
    log = folder / "reproduce.log"
    with log.open("w", encoding="utf-8") as file:
        targets_of = [str(target.path) for target in targets]
        done = subprocess.run(
            [*command, *targets_of], cwd=folder, env=environment, stdout=file, stderr=subprocess.STDOUT
        )
    if done.returncode:
        told = re.search(r"^error: (.*)", log.read_text(encoding="utf-8", errors="replace"), re.M)
        reason = f" ({told[1]})" if told else ""
        if "no GPU here" in reason:
            reason = " (it was made on a GPU, and here is none: go where one is, or add --device cpu)"
        raise UserError(
            f"reproduce: making it again failed{reason}; see {log} (and then: git worktree remove --force {folder})"
        )


def compare(artifact: Artifact, folder: Path, root: Path, found: Outcome, tolerance: float | None) -> None:
    """Compare a result made again with the one here, file by file; ``tolerance``: None for byte by byte."""
    again = provenance.artifact_files(artifact.stage, folder / artifact.path)
    place, record = _place(artifact, root), provenance.read_record(artifact.record, root=root)
    here = provenance.artifact_files(artifact.stage, place) if place else {}
    known = record["files"] if record else {}
    if not here and not known:
        found.notes.append(f"{artifact.path}: neither it nor its record is here; nothing to compare it with")
        return
    top = artifact.path if (folder / artifact.path).is_dir() else artifact.path.parent
    for name in sorted({*again, *(here or known)} - set(provenance.RUN_FILES)):
        if artifact.stage == "report" and not name.startswith(OF_REPORT):
            continue
        found.compared += 1
        shown = top / name
        if name not in again:
            found.faults.append(f"{shown}: is here and was not made again")
        elif name not in here and name not in known:
            found.faults.append(f"{shown}: was made again and is not here")
        elif how := _how(here.get(name), again[name], known.get(name)):
            _judge(shown, how, again[name], here.get(name), found, tolerance)


def _how(here: Path | None, again: Path, known: str | None) -> str | None:
    """Return how a file made again differs from the one here or, where that is gone, from its sum."""
    if here is None:
        return None if sha256_file(again) == known else "has another sum than was recorded"
    how = difference(here, again)
    if how and known == sha256_file(again):
        return f"{how}; what was made again has the recorded sum, so the file here was changed since"
    return how


def _judge(
    shown: Path, how: str, again: Path, here: Path | None, found: Outcome, tolerance: float | None
) -> None:
    """File a difference: of a GPU's results only accuracies count, and those within the tolerance are no fault."""
    if tolerance is None:
        found.faults.append(f"{shown}: {how}")
        return
    apart = _accuracies_apart(here, again) if here and shown.parts[:2] == ("results", "scores") else None
    if apart is not None and apart > tolerance:
        found.faults.append(f"{shown}: accuracies {apart:.4f} apart, more than {tolerance:g}: {how}")
    else:
        found.notes.append(f"{shown}: {how} (on a GPU only accuracies are held to each other)")


def _accuracies_apart(here: Path, again: Path) -> float:
    one, other = read_json(here)["tasks"], read_json(again)["tasks"]
    return max(abs(float(one[name]["accuracy"]) - float(other[name]["accuracy"])) for name in one)


def _compare_number(asked: Asked, again: float, found: Outcome) -> None:
    value = read_json(asked.study.report.path.with_name("metrics.json"))
    for key in asked.number:
        value = value[key]
    told = f"{'/'.join(asked.number)}: {value} in the report, {again:.6f} made again"
    found.compared += 1
    apart = abs(float(value) - round(again, 6))
    (found.faults if apart > (found.tolerance or 0.0) else found.notes).append(told)


def show(found: Outcome) -> None:
    """Print notes and faults, a line each, and the outcome."""
    for line in found.notes:
        print(line)
    for line in found.faults:
        print(f"differs: {line}")
    wrong = len(found.faults)
    within = "" if found.tolerance is None else f", accuracies to within {found.tolerance:g}"
    print(
        f"compared {found.compared} files and numbers: "
        + (f"{wrong} differ" if wrong else f"reproduced{within}")
    )
