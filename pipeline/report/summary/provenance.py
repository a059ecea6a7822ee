"""Where the numbers of a report come from: code, software, machine and time of its runs, and the sources of models and data."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from pipeline.core.environment import RunInfo
from pipeline.report.data import ReportData
from pipeline.report.tables import Table

# characters of a commit that tell it apart
SHORT_COMMIT = 12
PAPER = "arXiv:2304.01933"


@dataclass(frozen=True)
class Fact:
    """A line of the provenance section.

    Attributes:
        name: what it is.
        values: one or more, most frequent first.
        is_command: whether the values are commands for a shell.
    """

    name: str
    values: tuple[str, ...]
    is_command: bool = False


@dataclass(frozen=True)
class Newest:
    """The run of a report that ended last; empty: not recorded.

    Attributes:
        date: day in UTC, YYYY-MM-DD.
        commit: the first digits.
        is_dirty: whether the checkout had uncommitted changes; None: not recorded.
        machine: its device, processor and cores.
    """

    date: str
    commit: str
    is_dirty: bool | None
    machine: str


def find_newest(data: ReportData) -> Newest:
    """Return date, commit and machine of the training or generation that ended last."""
    recorded = [info for info in data.costs.values() if info.get("ended")]
    if not recorded:
        return Newest("", "", None, "")
    info = max(recorded, key=lambda info: info["ended"])
    commit = (info.get("git_commit") or "")[:SHORT_COMMIT]
    return Newest(info["ended"][:10], commit, info.get("git_dirty"), _describe_machine(info))


def list_facts(data: ReportData) -> list[Fact]:
    """Return the lines of the provenance section; what no run records is left out."""
    infos = list(data.costs.values())
    facts = [
        Fact("Commit", _count_values(map(_describe_commit, infos), total=len(infos))),
        Fact("Machine", _count_values(map(_describe_machine, infos), total=len(infos))),
        Fact("System", _count_values(map(_describe_system, infos), total=len(infos))),
        Fact("Packages", _describe_packages(infos)),
        Fact("Time", _describe_time(data, infos)),
        *_list_commands(data),
        Fact("Cite", (f"this software as in CITATION.cff, at the root of the project, and {PAPER}",)),
    ]
    return [fact for fact in facts if fact.values]


def _describe_commit(info: RunInfo) -> str:
    commit = info.get("git_commit")
    if not commit:
        return ""
    state = {True: ", with uncommitted changes", False: ", clean", None: ""}[info.get("git_dirty")]
    return commit + state


def _describe_machine(info: RunInfo) -> str:
    parts = [info.get("device") or "", info.get("processor") or ""]
    cores = info.get("cores")
    parts.append(f"{cores} cores" if cores else "")
    return ", ".join(part for part in parts if part)


def _describe_system(info: RunInfo) -> str:
    parts = [info.get("platform") or "", f"Python {info['python']}" if info.get("python") else ""]
    return ", ".join(part for part in parts if part)


def _count_values(values: Iterable[str], *, total: int) -> tuple[str, ...]:
    """Return the distinct values, the most frequent first; with the number of jobs of each where they differ."""
    counts: dict[str, int] = {}
    for value in values:
        if value:
            counts[value] = counts.get(value, 0) + 1
    if len(counts) == 1 and sum(counts.values()) == total:
        return tuple(counts)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(f"{value} ({count} of {total} jobs)" for value, count in ordered)


def _describe_packages(infos: Sequence[RunInfo]) -> tuple[str, ...]:
    """Return the packages, each with its version, or with all its versions where jobs differ."""
    versions: dict[str, set[str]] = {}
    for info in infos:
        for name, version in info.get("packages", {}).items():
            versions.setdefault(name, set()).add(version)
    text = ", ".join(f"{name} {' / '.join(sorted(versions[name]))}" for name in sorted(versions))
    return (text,) if text else ()


def _describe_time(data: ReportData, infos: Sequence[RunInfo]) -> tuple[str, ...]:
    ended = sorted(info["ended"] for info in infos if info.get("ended"))
    if not ended:
        return ()
    adapters = {run.adapter for run in data.study.runs if run.adapter and not run.combined_sets}
    combinations = {run.adapter for run in data.study.runs if run.combined_sets}
    training = sum(data.costs[adapter]["seconds"] for adapter in adapters)
    generation = sum(
        info["seconds"] for folder, info in data.costs.items() if folder not in adapters | combinations
    )
    days = ended[0][:10] if ended[0][:10] == ended[-1][:10] else f"{ended[0][:10]} to {ended[-1][:10]}"
    return (
        f"{len(adapters)} trainings {_format_time(training)}",
        f"evaluation {_format_time(generation)}",
        f"ended {days}",
    )


def _format_time(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def _list_commands(data: ReportData) -> list[Fact]:
    """Return the commands that rebuild and check the report, and repeat one of its runs."""
    study = data.study
    commits = {(info.get("git_commit"), info.get("git_dirty")) for info in data.costs.values()}
    # with fewer seeds than the study's file has, other commands would make another report
    count = study.seed_count
    rebuild = f"snakemake --cores all --config study={study.name}" + (f" seeds={count}" if count else "")
    options = f"--study {study.name}" + (f" --seeds {count}" if count else "")
    if len(commits) == 1:
        ((commit, is_dirty),) = commits
        # uncommitted changes are in the records alone, which the command reproduce applies
        rebuild = f"git checkout {commit} && {rebuild}" if commit and is_dirty is False else rebuild
    facts = [
        Fact("Rebuild", (rebuild,), is_command=True),
        Fact("Verify", (f"python -m pipeline verify {options}",), is_command=True),
    ]
    adapter = next((run.adapter for run in study.runs if run.adapter), None)
    if adapter:
        command = f"python -m pipeline reproduce {options} {adapter}"
        facts.append(Fact("Reproduce a run", (command,), is_command=True))
    return facts


def build_source_tables(data: ReportData) -> dict[str, Table]:
    """Build the table of the sources of models and data, by file name; empty without sources."""
    if not data.study.sources:
        return {}
    rows = [
        {
            "Source": source.title,
            "Card": source.name,
            "Role": source.role,
            "Licence": source.licence or ("made here" if source.made_here else "not stated"),
            "Reference": source.citation,
        }
        for source in data.study.sources
    ]
    caption = "Models and data, with the licences that their cards state."
    return {"sources": Table(caption, pd.DataFrame(rows))}
