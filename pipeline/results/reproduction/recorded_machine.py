"""What records say about the machine that produced a result: to use the same settings again, and to name what differs."""

import platform
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline.core.hardware.processor import describe_processor
from pipeline.params.machine import TRAINING_KEYS
from pipeline.params.protocols import rows_per_prompt
from pipeline.results import provenance
from pipeline.results.provenance import ResultRecord
from pipeline.study.artifacts import Artifact

# stages whose results depend on the sums of a processor
COMPUTED_STAGES = ("base", "train", "combine", "distill", "generate")


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

    One run of Snakemake takes one value for a setting, so where they disagree it is the first.
    """
    settings: dict[str, bool | int | str] = {}
    # the second value of a setting, and the artifact that has it
    disagreements: dict[str, tuple[bool | int | str | None, Path]] = {}
    for stage in ("train", "distill", "generate"):
        chosen = [
            (artifact.path, _settings_of_record(artifact, root))
            for artifact in artifacts
            # a distilled set is made without a model
            if artifact.stage == stage and (stage != "distill" or "base" in artifact.inputs)
        ]
        for key in dict.fromkeys(key for _, values in chosen for key in values):
            # they take no effect on answers
            if stage != "train" and key in TRAINING_KEYS:
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


def _settings_of_record(artifact: Artifact, root: Path) -> dict[str, bool | int | str]:
    """Return the settings that a record names; empty for a result from before they were recorded."""
    record = provenance.read_record(artifact.record, root=root)
    run: Mapping[str, Any] = record["run"] if record else {}
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
    """Yield a line for each other processor that computed these artifacts; results of a GPU do not depend on it."""
    present = describe_processor()
    recorded: set[str] = set()
    for artifact in artifacts:
        record = (
            provenance.read_record(artifact.record, root=root) if artifact.stage in COMPUTED_STAGES else None
        )
        run: Mapping[str, Any] = record["run"] if record else {}
        # as in "2 x cpu"; older records have only the architecture of the processor
        is_cpu = str(run.get("device", "")).rpartition(" x ")[2] == "cpu"
        # limited to kernels that give the same bits on each processor that accepts the setting
        is_portable = run.get("machine", {}).get("portable", False)
        if is_cpu and not is_portable and run.get("processor", present) not in (present, platform.machine()):
            recorded.add(run["processor"])
    for processor in sorted(recorded):
        yield (
            f"processor: original used {processor}; this is {present}. Their sums differ in the last digits, which "
            "training amplifies: weights and accuracies may differ"
        )


def _installed_version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
