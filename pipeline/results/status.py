"""What of a study is current, what is stale and why, and what it would take: from names and records alone."""

import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.core.errors import UserError
from pipeline.core.io import read_json
from pipeline.results import provenance
from pipeline.results.causes import Identity, causes
from pipeline.results.dvc import remotes
from pipeline.results.store import size_of, told_size, unnamed
from pipeline.study import Study, default_study
from pipeline.study.artifacts import STORE, Artifact, named_fingerprint, record_path, stored
from pipeline.study.stages import STAGES

SHOWN_CAUSES = 12  # a screen


@dataclass(frozen=True)
class Job:
    """An artifact that is to be made: why, and what its predecessor took."""

    artifact: Artifact
    why: tuple[str, ...]
    seconds: float | None


@dataclass
class Past:
    """What was made before: every artifact on disk and in the store, read when it is asked for."""

    root: Path = Path()
    _read: dict[Path, Identity | None] = field(default_factory=dict)

    @cached_property
    def by_label(self) -> dict[tuple[str, str], list[Path]]:
        """The paths of a stage and label, without their place."""
        found: dict[tuple[str, str], list[Path]] = {}
        for stage in STAGES:
            for root in (self.root, self.root / STORE):
                for path in stored(root, stage):
                    found.setdefault((stage, label_of(path)), []).append(path)
        for record in (self.root / STORE / record_path("report", Path("reports/x"))).parent.glob("*/*.json"):
            path = Path(STAGES["report"].folder, record.parent.name, record.name)
            found.setdefault(("report", label_of(path)), []).append(path)
        return found

    @cached_property
    def by_fingerprint(self) -> dict[tuple[str, str], Path]:
        """The paths by stage and fingerprint."""
        every = ((stage, path) for (stage, _), paths in self.by_label.items() for path in paths)
        return {(stage, str(named_fingerprint(path))): path for stage, path in every}

    def identity(self, stage: str, path: Path) -> Identity | None:
        """Return what a result was made of: of its record, else of the manifest in it; None: neither is there."""
        if path not in self._read:
            self._read[path] = self._identity(stage, path)
        return self._read[path]

    def _identity(self, stage: str, path: Path) -> Identity | None:
        try:
            record = provenance.read_record(record_path(stage, path), root=self.root)
            if record is not None:
                return dict(record["artifact"])
            place = self._place(path)
            inside = place if stage == "score" else place / "manifest.json"
            told = read_json(inside) if inside.is_file() else {}
            return {key: told[key] for key in ("version", "params", "inputs")}
        except (UserError, KeyError, TypeError):
            return None

    def known(self, stage: str, fingerprint: str) -> Identity | None:
        """Return what the result of that fingerprint was made of."""
        path = self.by_fingerprint.get((stage, fingerprint))
        return self.identity(stage, path) if path else None

    def seconds(self, stage: str, path: Path) -> float | None:
        """Return how long a result took to make, by its record, else by its run.json."""
        try:
            record = provenance.read_record(record_path(stage, path), root=self.root)
            run = record["run"] if record else read_json(self._place(path) / "run.json")
            return float(run["seconds"])
        except (UserError, KeyError, TypeError, NotADirectoryError):
            return None

    def _place(self, path: Path) -> Path:
        return self.root / path if (self.root / path).exists() else self.root / STORE / path


def label_of(path: Path) -> str:
    """Return an artifact's path without its fingerprint and ending: its folders, and the start of its name."""
    return str(path.parent / path.stem[:-12])


def planned(study: Study, *, root: Path = Path()) -> list[Artifact]:
    """Return what Snakemake would make for the report, what others are made from first.

    What is in the store counts as there: it is taken back when Snakemake starts.
    """
    found: dict[Path, Artifact] = {}

    def visit(artifact: Artifact) -> None:
        if artifact.path in found or _is_there(artifact, root):
            return
        for one in artifact.inputs.values():
            visit(one)
        found[artifact.path] = artifact

    visit(study.report)
    return list(found.values())


def _is_there(artifact: Artifact, root: Path) -> bool:
    return (root / artifact.path).exists() or (root / STORE / artifact.path).exists()


def jobs(study: Study, *, root: Path = Path()) -> list[Job]:
    """Return what would be made, why, and what it took last time."""
    past, named = Past(root), {artifact.path for artifact in study.named()}
    made = []
    for artifact in planned(study, root=root):
        old, why = _predecessor(study, artifact, past, named)
        made.append(Job(artifact, why, past.seconds(artifact.stage, old) if old else None))
    return made


def _predecessor(
    study: Study, artifact: Artifact, past: Past, named: set[Path]
) -> tuple[Path | None, tuple[str, ...]]:
    """Return the result of the same label that differs least, of those that the study does not name, and how it differs."""
    paths = past.by_label.get((artifact.stage, label_of(artifact.path)), [])
    told: list[tuple[Path, tuple[str, ...]]] = []
    for path in dict.fromkeys(path for path in paths if path not in named):
        old = past.identity(artifact.stage, path)
        if old is None:
            told.append((path, (f"differs from {path}, which has no record of its params",)))
        else:
            told.append((path, tuple(dict.fromkeys(causes(study, artifact, old, past.known)))))
    if told:
        return min(told, key=lambda one: len(one[1]))
    return None, ("new: none of that name was made before",)


def recorded_in_lock(*, root: Path = Path()) -> bool | None:
    """Return whether dvc.lock names the results that are there; None: it cannot be told without DVC's cache.

    By names alone, which say what a result is made of; ``dvc status`` compares every byte.
    """
    lock = root / "dvc.lock"
    if not lock.is_file():
        return False
    outs = dict(
        re.findall(r"- path: (\S+)\n\s+hash: md5\n\s+md5: (\w+)\.dir", lock.read_text(encoding="utf-8"))
    )
    for stage, folder in ((name, row.folder) for name, row in STAGES.items()):
        if stage == "report":
            continue  # its folder is the same whatever study made it
        here = {str(path) for path in stored(root, stage)}
        if folder not in outs:
            return False
        listing = remotes.cached(f"{outs[folder]}.dir", root)
        if not listing.is_file():
            return None
        files = (Path(folder, one["relpath"]) for one in read_json(listing))
        if here != {name for name in map(_artifact_of, files) if name}:
            return False
    return True


def remind(study: Study, *, root: Path = Path()) -> None:
    """Say after a run of the default study, on stderr, that dvc.lock does not name its results; within DVC say nothing."""
    told = "DVC_STAGE" in os.environ or study.name != default_study() or not (root / ".dvc").is_dir()
    if not told and recorded_in_lock(root=root) is False:
        print(
            "dvc.lock names other results than are here now; record these: python -m pipeline commit",
            file=sys.stderr,
        )


def _artifact_of(file: Path) -> str | None:
    """Return the artifact that a file is or lies in."""
    parts = (Path(*file.parts[: count + 1]) for count in range(len(file.parts)))
    return next((str(path) for path in parts if named_fingerprint(path)), None)


def summary(study: Study, *, root: Path = Path()) -> dict[str, Any]:
    """Return what ``status`` tells, as plain values."""
    making = jobs(study, root=root)
    to_make = [job.artifact for job in making]
    stages = {}
    for stage, named in study.artifacts.items():
        past = [job.seconds for job in making if job.artifact.stage == stage]
        every = list({artifact.path: artifact for artifact in named}.values())
        stages[stage] = {
            "named": len(every),
            "here": sum((root / one.path).exists() for one in every),
            "in_store": sum(not (root / one.path).exists() and _is_there(one, root) for one in every),
            "to_make": sum(one.stage == stage for one in to_make),
            "last_s": sum(one for one in past if one is not None),
            "never_timed": sum(one is None for one in past),
        }
    why: dict[str, list[str]] = {}
    for job in making:
        for cause in job.why:
            why.setdefault(cause, []).append(str(job.artifact.path))
    kept = [path for stage in STAGES for path in stored(root / STORE, stage)]
    return {
        "study": study.name,
        "stages": stages,
        "to_make": [str(one.path) for one in to_make],
        "why": why,
        "unnamed": len(unnamed(study.named(), study.artifacts, root=root)),
        "store": {"results": len(kept), "bytes": size_of(root / STORE) if kept else 0},
        "in_dvc_lock": recorded_in_lock(root=root),
    }


def show(study: Study, *, as_json: bool, root: Path = Path()) -> None:
    """Print the state of a study on one screen, or as JSON."""
    told = summary(study, root=root)
    if as_json:
        print(json.dumps(told, indent=1, ensure_ascii=False))
        return
    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    total = len(told["to_make"])
    console.print(
        f"study {study.name} ({study.where}): " + (f"{total} to make" if total else "all is current")
    )
    console.print(_stage_table(told["stages"]))
    if told["why"]:
        console.print(_why_table(told["why"]))
    for line in _notes(study, told):
        console.print(line, markup=False)


def _stage_table(stages: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table("stage", box=None, pad_edge=False)
    for title in ("named", "here", "in the store", "to make", "last time"):
        table.add_column(title, justify="right")
    for stage, one in stages.items():
        counts = [str(one[key] or "-") for key in ("named", "here", "in_store", "to_make")]
        table.add_row(stage, *counts, _took(one) if one["to_make"] else "")
    return table


def _took(one: Mapping[str, Any]) -> str:
    if one["never_timed"] == one["to_make"]:
        return "not known"
    return f"{one['last_s']:.0f} s" + (f" + {one['never_timed']} not known" if one["never_timed"] else "")


def _why_table(why: Mapping[str, Sequence[str]]) -> Table:
    table = Table("why", "makes anew", box=None, pad_edge=False)
    every = sorted(why.items(), key=lambda one: -len(one[1]))
    for cause, paths in every[:SHOWN_CAUSES]:
        stages = Counter(provenance.find_stage(Path(path)) for path in paths)
        table.add_row(Text(cause), ", ".join(f"{count} {stage}" for stage, count in stages.items()))
    if len(every) > SHOWN_CAUSES:
        table.add_row(f"and {len(every) - SHOWN_CAUSES} more: --json has all", "")
    return table


def _notes(study: Study, told: Mapping[str, Any]) -> Iterator[str]:
    stages, kept = told["stages"].values(), told["store"]
    if told["to_make"]:
        known = len(told["to_make"]) - sum(one["never_timed"] for one in stages)
        seconds = sum(one["last_s"] for one in stages)
        took = f"{known} of these took {seconds:.0f} s, one after another" if known else "not known"
        which = "" if study.name == default_study() else f" --config study={study.name}"
        yield f"last time: {took}; make them: snakemake{which}"
    if told["unnamed"]:
        yield f"{told['unnamed']} results here that the study does not name: python -m pipeline prune moves them to the store"
    if kept["results"]:
        yield f"store: {kept['results']} results, {told_size(kept['bytes'])}; python -m pipeline prune --store shows them"
    else:
        yield "store: empty"
    if told["in_dvc_lock"] is None:
        yield "dvc.lock: not in this checkout's cache; dvc status compares"
    elif not told["in_dvc_lock"]:
        yield "dvc.lock: names other results than are here; record these: python -m pipeline commit"
    else:
        yield "dvc.lock: names the results that are here"
