"""Compare reproduced artifacts with the originals: byte for byte on a CPU, by accuracy on a GPU."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.io import read_json, sha256_file
from pipeline.results import provenance
from pipeline.results.differences import describe_difference
from pipeline.study.artifacts import STORE, Artifact

# The rest of a report contains run times.
COMPARED_REPORT_FILES = ("metrics.json", "plots/")


@dataclass(frozen=True)
class Comparison:
    """How many files and metrics were compared, which differ (a line each), and notes on differences that do not count."""

    compared: int = 0
    differences: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def combine_comparisons(comparisons: Iterable[Comparison]) -> Comparison:
    """Return the sum of several comparisons."""
    total = Comparison()
    for comparison in comparisons:
        total = Comparison(
            total.compared + comparison.compared,
            total.differences + comparison.differences,
            total.notes + comparison.notes,
        )
    return total


def locate_artifact(artifact: Artifact, root: Path) -> Path | None:
    """Return where an artifact is: in the project or in the store; None if in neither."""
    paths = (root / artifact.path, root / STORE / artifact.path)
    return next((path for path in paths if path.exists()), None)


def compare_artifact(
    artifact: Artifact, *, worktree: Path, root: Path, tolerance: float | None
) -> Comparison:
    """Compare an artifact in the worktree with the original, file by file.

    Where an original file is missing, its recorded checksum takes its place.

    Args:
        artifact: what was reproduced.
        worktree: the project's folder in which it was reproduced.
        root: the project's root with the original.
        tolerance: of an accuracy in [0, 1]; None: compare byte for byte.
    """
    content, record = locate_artifact(artifact, root), provenance.read_record(artifact.record, root=root)
    originals = provenance.artifact_files(artifact.stage, content) if content else {}
    checksums = record["files"] if record else {}
    if not originals and not checksums:
        return Comparison(notes=(f"{artifact.path}: original and record are missing; not compared",))
    reproduced = provenance.artifact_files(artifact.stage, worktree / artifact.path)
    folder = artifact.path if (worktree / artifact.path).is_dir() else artifact.path.parent
    return combine_comparisons(
        _compare_file(
            folder / name, originals.get(name), reproduced.get(name), checksums.get(name), tolerance
        )
        # without the files that differ between equal runs (times, host)
        for name in sorted({*reproduced, *(originals or checksums)} - {*provenance.RUN_FILES})
        if artifact.stage != "report" or name.startswith(COMPARED_REPORT_FILES)
    )


def _compare_file(
    path: Path, original: Path | None, reproduced: Path | None, checksum: str | None, tolerance: float | None
) -> Comparison:
    if reproduced is None:
        return Comparison(1, (f"{path}: only in the original",))
    if original is None and checksum is None:
        return Comparison(1, (f"{path}: only in the reproduced result",))
    difference = _describe_file_difference(original, reproduced, checksum)
    if difference is None:
        return Comparison(1)
    if tolerance is None:
        return Comparison(1, (f"{path}: {difference}",))
    return _judge_gpu_difference(path, difference, original, reproduced, tolerance)


def _describe_file_difference(original: Path | None, reproduced: Path, checksum: str | None) -> str | None:
    if original is None:
        return None if sha256_file(reproduced) == checksum else "its checksum differs from the recorded one"
    difference = describe_difference(original, reproduced)
    # the record decides which of two different files is the damaged one
    if difference and checksum == sha256_file(reproduced):
        return (
            f"{difference}; the reproduced file has the recorded checksum, so the original was changed later"
        )
    return difference


def _judge_gpu_difference(
    path: Path, difference: str, original: Path | None, reproduced: Path, tolerance: float
) -> Comparison:
    """Return the verdict on a file that a GPU produced: only accuracies farther apart than the tolerance count."""
    if original and path.parts[:2] == ("results", "scores"):
        distance = _accuracy_distance(original, reproduced)
        if distance > tolerance:
            line = f"{path}: accuracies differ by {distance:.4f}, more than {tolerance:g}: {difference}"
            return Comparison(1, (line,))
    return Comparison(1, notes=(f"{path}: {difference} (on a GPU only accuracies are compared)",))


def _accuracy_distance(original: Path, reproduced: Path) -> float:
    before, after = read_json(original)["tasks"], read_json(reproduced)["tasks"]
    return max(abs(float(before[name]["accuracy"]) - float(after[name]["accuracy"])) for name in before)
