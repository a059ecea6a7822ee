"""Reproduce a result in a clean worktree at the commit that produced it, and compare it with the original."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.environment import CodeState, run_git
from pipeline.core.errors import UserError
from pipeline.core.io import read_json
from pipeline.evaluate.endpoints.send import REPLAY
from pipeline.results import provenance
from pipeline.results.comparison import Comparison, combine_comparisons, compare_artifact, locate_artifact
from pipeline.results.disk.responses import copy_responses
from pipeline.results.provenance import ResultRecord
from pipeline.results.reproduction.recorded_machine import (
    processor_notes,
    recorded_machine,
    recorded_settings,
    version_notes,
)
from pipeline.results.reproduction.request import ReproduceRequest, compute_metric, metrics_path
from pipeline.results.verify import verify
from pipeline.study.artifacts import Artifact

# Stages that --from-inputs copies instead of running.
INPUT_STAGES = ("fetch", "prompts", "audit", "base")
# Of an accuracy in [0, 1]: sums on a GPU depend on the batch and the kernel.
TOLERANCE = 0.02


@dataclass(frozen=True)
class ReproduceOptions:
    """How to reproduce.

    Attributes:
        from_inputs: copy data, prompts and bases that match their records, instead of producing them.
        data_root: folder of local dataset files.
        tolerance: of an accuracy in [0, 1], for results that a GPU produced or reproduces.
        device: "cpu", "cuda" or "mps"; empty: as recorded.
        worktree: folder to work in; it stays. Results of several commits add -1, -2 ... to its name. None: a temporary
            folder, which stays only if the run fails.
    """

    from_inputs: bool = False
    data_root: str = ""
    tolerance: float = TOLERANCE
    device: str = ""
    worktree: Path | None = None


@dataclass(frozen=True)
class ReproduceOutcome:
    """The outcome.

    Attributes:
        compared: the number of files and metrics that were compared.
        differences: a line for each.
        notes: what a reader should know, a line each.
        tolerance: of accuracies, if files were not compared byte for byte.
    """

    compared: int
    differences: tuple[str, ...]
    notes: tuple[str, ...]
    tolerance: float | None


@dataclass(frozen=True)
class _Reproduced:
    """Targets that were reproduced in one worktree."""

    comparison: Comparison
    tolerance: float | None
    scores: dict[Path, Any]


def reproduce(
    request: ReproduceRequest, options: ReproduceOptions | None = None, *, root: Path = Path()
) -> ReproduceOutcome:
    """Reproduce artifacts in an empty worktree; compare them, and all that they were produced from, with the originals.

    Args:
        request: what to reproduce.
        options: how; None: the defaults.
        root: the project's root.

    Raises:
        UserError: a result has no record, its code is not available, or the run failed.
    """
    options = options or ReproduceOptions()
    # The seeds behind a metric may come from several commits; each commit needs its own worktree.
    targets_by_code: dict[tuple[str | None, str | None], list[Artifact]] = {}
    records, comparisons = {}, []
    for target in request.targets:
        source, record = _record_with_commit(target, root)
        records[target.path] = record
        if source is not target:
            note = f"{target.path}: its record has no commit; using the commit of {source.path}"
            comparisons.append(Comparison(notes=(note,)))
        code = record["code"]
        targets_by_code.setdefault((code["commit"], code["diff_sha256"]), []).append(target)
    tolerance: float | None = None
    scores: dict[Path, Any] = {}
    for number, targets in enumerate(targets_by_code.values(), start=1):
        folder = options.worktree
        if folder and len(targets_by_code) > 1:
            folder = folder.with_name(f"{folder.name}-{number}")
        record = records[targets[0].path]
        reproduced = _reproduce_at_commit(targets, record, folder, options, request=request, root=root)
        comparisons.append(reproduced.comparison)
        tolerance = reproduced.tolerance if tolerance is None else tolerance
        scores |= reproduced.scores
    if request.metric:
        comparisons.append(_compare_metric(request, compute_metric(request, scores), tolerance))
    total = combine_comparisons(comparisons)
    return ReproduceOutcome(total.compared, total.differences, total.notes, tolerance)


def _reproduce_at_commit(
    targets: list[Artifact],
    record: ResultRecord,
    folder: Path | None,
    options: ReproduceOptions,
    *,
    request: ReproduceRequest,
    root: Path,
) -> _Reproduced:
    """Reproduce targets that the same code produced, in one worktree."""
    artifacts = list(
        {artifact.path: artifact for target in targets for artifact in _with_inputs(target)}.values()
    )
    copied = [
        artifact
        for artifact in artifacts
        if options.from_inputs and artifact.stage in INPUT_STAGES and artifact not in targets
    ]
    made = [artifact for artifact in artifacts if artifact not in copied]
    recorded_device, processes = recorded_machine(artifacts, root)
    settings, setting_notes = recorded_settings(made, root)
    device = options.device or recorded_device
    tolerance = None if recorded_device == device == "cpu" else options.tolerance
    with _worktree_at(record["code"], folder, root) as worktree:
        _copy_inputs(copied, worktree, root)
        replay_notes = copy_responses(artifacts, worktree, root)
        config: dict[str, bool | str | int] = {
            **settings,
            **{"study": record["study"], "device": device, "processes": processes},
        }
        # only a report depends on the number of seeds; another target may be recorded under another study
        if request.study.seed_count is not None and any(target.stage == "report" for target in targets):
            config["seeds"] = request.study.seed_count
        _run_snakemake(targets, worktree, {**config, "data_root": options.data_root})
        comparisons = [
            compare_artifact(artifact, worktree=worktree, root=root, tolerance=tolerance) for artifact in made
        ]
        scores = {target.path: read_json(worktree / target.path) for target in targets if request.metric}
    notes = Comparison(
        notes=(*setting_notes, *replay_notes, *version_notes(record), *processor_notes(made, root))
    )
    return _Reproduced(combine_comparisons([notes, *comparisons]), tolerance, scores)


def _record_with_commit(artifact: Artifact, root: Path) -> tuple[Artifact, ResultRecord]:
    """Return an artifact and its record; if that has no commit (it was adopted), the first of its inputs that has one."""
    for candidate in _with_inputs(artifact):
        record = provenance.read_record(candidate.record, root=root)
        if record is None:
            raise UserError(
                f"{candidate.path}: no record, so its commit is unknown; get the records: dvc pull"
            )
        if not provenance.is_intact(record):
            raise UserError(f"{candidate.record}: changed since it was written; restore it with dvc checkout")
        code = record["code"]
        if code["diff_sha256"] and code["diff"] is None:
            raise UserError(
                f"{candidate.path}: produced at commit {str(code['commit'])[:12]} with changes that are not recorded, "
                "so its code is not available"
            )
        if code["commit"]:
            return candidate, record
    raise UserError(f"{artifact.path}: its record has no commit, so its code is not available")


def _with_inputs(artifact: Artifact) -> Iterator[Artifact]:
    yield artifact
    for source in artifact.inputs.values():
        yield from _with_inputs(source)


@contextmanager
def _worktree_at(code: CodeState, folder: Path | None, root: Path) -> Iterator[Path]:
    """Yield the project's folder in a new worktree with the recorded code."""
    # the project may be a subfolder of the repository
    prefix = run_git("rev-parse", "--show-prefix", folder=root)
    commit = str(code["commit"])
    if prefix is None:
        raise UserError("reproduce: not a git checkout, so the recorded commit is not available")
    if run_git("cat-file", "-e", f"{commit}^{{commit}}", folder=root) is None:
        raise UserError(f"reproduce: commit {commit} is not in this repository; run git fetch")
    worktree = folder or Path(tempfile.mkdtemp(prefix="reproduce-"), "worktree")
    if worktree.exists():
        raise UserError(f"{worktree}: exists already; --worktree needs a new folder")
    if (
        run_git("worktree", "add", "--detach", "--quiet", str(worktree.resolve()), commit, folder=root)
        is None
    ):
        raise UserError(f"{worktree}: git could not create a worktree of {commit} here")
    if code["diff"]:
        _apply_changes(code["diff"], worktree)
    keep = folder is not None
    try:
        yield worktree / prefix.decode().strip()
    except UserError:
        # its log has the cause
        keep = True
        raise
    finally:
        if not keep:
            run_git("worktree", "remove", "--force", str(worktree.resolve()), folder=root)
            # the temporary folder around the worktree, since the user chose no folder
            shutil.rmtree(worktree.parent, ignore_errors=True)


def _apply_changes(diff: str, worktree: Path) -> None:
    command = ["git", "-C", str(worktree), "apply", "-"]
    done = subprocess.run(command, input=diff.encode(), capture_output=True, check=False)
    if done.returncode:
        cause = " ".join(done.stderr.decode(errors="replace").split())
        raise UserError(f"{worktree}: the recorded changes do not apply to their commit ({cause})")


def _copy_inputs(artifacts: Iterable[Artifact], worktree: Path, root: Path) -> None:
    for artifact in artifacts:
        content = locate_artifact(artifact, root)
        if content is None:
            raise UserError(f"{artifact.path}: missing, so it cannot be copied; omit --from-inputs")
        # `verify` checks the project's folders only, so an artifact in the store counts as unchecked
        if content != root / artifact.path or not verify(paths=[artifact.path], root=root).passed:
            raise UserError(
                f"{artifact.path}: does not match its record, so it is not copied; run python -m pipeline verify"
            )
        (worktree / artifact.path).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if content.is_dir() else shutil.copy2
        copy(content, worktree / artifact.path)


def _run_snakemake(targets: Iterable[Artifact], worktree: Path, config: dict[str, bool | str | int]) -> None:
    """Run Snakemake in the worktree for the targets only."""
    settings = [f"{name}={value}" for name, value in config.items() if value or value is False]
    paths = [str(target.path) for target in targets]
    # "--" ends the list of values that --config takes
    command = [sys.executable, "-m", "snakemake", "--cores", "all", "--config", *settings, "--", *paths]
    # a reproduced run is not a new run of the study: MLflow records it in the worktree
    environment = {**os.environ, "MLFLOW_TRACKING_URI": "sqlite:///mlflow.db", REPLAY: "1"}
    log = worktree / "reproduce.log"
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(
            command, cwd=worktree, env=environment, stdout=file, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode:
        error = re.search(r"^error: (.*)", log.read_text(encoding="utf-8", errors="replace"), re.M)
        cause = f" ({error[1]})" if error else ""
        # the job's own message does not know that a result is being reproduced
        if "no usable GPU" in cause:
            cause = " (a GPU produced the result, and this machine has none: use one with a GPU, or add --device cpu)"
        raise UserError(
            f"reproduce: the run failed{cause}; see {log} (afterwards: git worktree remove --force {worktree})"
        )


def _compare_metric(request: ReproduceRequest, reproduced: float, tolerance: float | None) -> Comparison:
    value = read_json(metrics_path(request.study))
    for key in request.metric:
        value = value[key]
    line = f"{'/'.join(request.metric)}: {value} in the report, {reproduced:.6f} reproduced"
    # metrics.json has six decimals
    if abs(float(value) - round(reproduced, 6)) > (tolerance or 0.0):
        return Comparison(1, (line,))
    return Comparison(1, notes=(line,))


def print_reproduce_outcome(outcome: ReproduceOutcome) -> None:
    """Print notes and differences, a line each, and the verdict."""
    for note in outcome.notes:
        print(note)
    for difference in outcome.differences:
        print(f"differs: {difference}")
    precision = "" if outcome.tolerance is None else f", accuracies to within {outcome.tolerance:g}"
    count = len(outcome.differences)
    verdict = f"{count} differ" if count else f"reproduced{precision}"
    print(f"compared {outcome.compared} files and metrics: {verdict}")
