"""What records say about the machine that produced a result: to use the same settings again, and to name what differs."""

import platform
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline.core.hardware.processor import describe_processor, has_portable_kernels
from pipeline.params.machine import TRAINING_KEYS
from pipeline.params.protocols import rows_per_prompt
from pipeline.results import provenance
from pipeline.results.provenance import ResultRecord
from pipeline.study.artifacts import Artifact
from pipeline.study.run import is_computed

# ALL: in place of the name of a stage, all of them; COMMON: the setting that is compared across them
ALL, COMMON = "all", "portable"
# stages that did not always record it
LATE_STAGES = ("base", "combine")


def recorded_machine(artifacts: Iterable[Artifact], root: Path = Path()) -> tuple[str, int]:
    """Return the device that produced these artifacts, and the largest number of processes, from their records.

    It is "cuda" or "mps" if a GPU produced any of them, else "cpu".
    """
    used, processes = "cpu", 1
    for artifact in artifacts:
        record = provenance.read_record(artifact.record, root=root)
        device = str(record["run"].get("device", "cpu")) if record else "cpu"
        # as in "2 x NVIDIA H100"
        count, _, name = device.rpartition(" x ")
        if name != "cpu":
            used = "mps" if name == "mps" else "cuda"
        processes = max(processes, int(count or 1))
    return used, processes


def recorded_settings(
    artifacts: Iterable[Artifact], root: Path = Path()
) -> tuple[dict[str, bool | int | str], list[str]]:
    """Return the settings of the machine that artifacts were made with, and a note for each that they disagree on.

    One run of Snakemake takes one value for a setting, so where they disagree it is the first. ``portable`` is left out on a
    machine that would refuse it; ``processor_notes`` says so.
    """
    settings: dict[str, bool | int | str] = {}
    # the second value of a setting, and the artifact that has it
    disagreements: dict[str, tuple[bool | int | str | None, Path]] = {}
    recorded = [
        (artifact, run, _settings_of_run(artifact, run))
        for artifact in artifacts
        if (run := _computing_run(artifact, root)) and (artifact.stage not in LATE_STAGES or "machine" in run)
    ]
    for stage in ("train", "distill", "generate", ALL):
        chosen = [
            (artifact.path, values)
            for artifact, run, values in recorded
            # what all stages have in common takes no effect on a GPU
            if artifact.stage == stage or (stage == ALL and _is_on_cpu(run))
        ]
        for key in dict.fromkeys(key for _, values in chosen for key in values):
            if not _is_compared(key, stage):
                continue
            settings.setdefault(key, next(values[key] for _, values in chosen if key in values))
            for path, values in chosen:
                if values.get(key) != settings[key]:
                    disagreements.setdefault(key, (values.get(key), path))
    notes = [
        f"{key}: {settings[key]} is used, but {path} was made with {'the default' if value is None else value}; results may "
        "differ by rounding"
        for key, (value, path) in disagreements.items()
    ]
    return settings, notes


def _is_compared(key: str, stage: str) -> bool:
    """Return whether a setting takes effect on the results of a stage, and this machine accepts it."""
    if key == COMMON or stage == ALL:
        return key == COMMON and stage == ALL and has_portable_kernels()
    # those of a training take no effect on answers
    return stage == "train" or key not in TRAINING_KEYS


def _computing_run(artifact: Artifact, root: Path) -> Mapping[str, Any] | None:
    """Return what a record says about the run that computed an artifact's numbers; None: no such run is recorded.

    The job of a base may copy it from data/shipped.
    """
    record = provenance.read_record(artifact.record, root=root) if is_computed(artifact) else None
    run: Mapping[str, Any] | None = record["run"] if record else None
    return None if run is None or run.get("shipped") else run


def _is_on_cpu(run: Mapping[str, Any]) -> bool:
    # as in "2 x cpu"
    return str(run.get("device", "")).rpartition(" x ")[2] == "cpu"


def _settings_of_run(artifact: Artifact, run: Mapping[str, Any]) -> dict[str, bool | int | str]:
    """Return the settings that a run records; empty for a result from before they were recorded."""
    settings = dict(run.get("machine", {}))
    if artifact.stage != "train":
        if "batch_tokens" not in settings and (tokens := _tokens_by_memory(artifact, run)):
            settings["batch_tokens"] = tokens
        return settings
    budget = run.get("micro_batch_tokens")
    # the free memory of a GPU, or a lack of memory, may have chosen it
    if budget is not None and budget != artifact.params["training"]["micro_batch_tokens"]:
        settings["micro_batch_tokens"] = budget
    return settings


def _tokens_by_memory(answers: Artifact, run: Mapping[str, Any]) -> int | None:
    """Return the tokens of a batch that the free memory of a GPU chose, the least over the tasks; None: it chose none.

    A CPU chooses the same again.
    """
    if run.get("device", "cpu") == "cpu":
        return None
    choices = []
    for name, cost in run.get("tasks", {}).items():
        decoding = answers.params.get(name, {})
        # a protocol with batches of its own sets them again
        if "batch_tokens" in cost and "batch_tokens" not in decoding:
            # the beams or samples of a prompt share what was chosen; likelihoods have none
            choices.append(int(cost["batch_tokens"]) * (rows_per_prompt(decoding) or 1))
    return min(choices, default=None)


def version_notes(record: ResultRecord) -> Iterator[str]:
    """Yield a line for each package whose installed version is not the recorded one."""
    for package, recorded in record["run"].get("packages", {}).items():
        installed = _installed_version(package)
        if recorded != installed:
            yield f"{package}: original used {recorded}, installed is {installed}"


def processor_notes(artifacts: Iterable[Artifact], root: Path = Path()) -> Iterator[str]:
    """Yield a line for each other processor that computed these artifacts; results of a GPU do not depend on it.

    All processors with portable kernels share a line, and none where this one has them: they give the same bits.
    """
    present, has_kernels = describe_processor(), has_portable_kernels()
    plain: set[str] = set()
    portable: set[str] = set()
    for artifact in artifacts:
        run = _computing_run(artifact, root) or {}
        # older records have only the architecture of the processor
        if _is_on_cpu(run) and run.get("processor", present) not in (present, platform.machine()):
            processors = portable if run.get("machine", {}).get("portable") else plain
            processors.add(run["processor"])
    effect = (
        "Their sums differ in the last digits, which training amplifies: weights and accuracies may differ"
    )
    for processor in sorted(plain):
        yield f"processor: original used {processor}; this is {present}. {effect}"
    if portable and not has_kernels:
        yield (
            f"processor: original used {' and '.join(sorted(portable))} with portable=true, which needs Linux on an Intel processor "
            f"with AVX2; this is {present}, so the setting is left out. {effect}"
        )


def _installed_version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
