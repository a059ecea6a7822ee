"""What a report reads of a finished study: its description, its scores and what its runs cost."""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.audit.rows import AuditFile
from pipeline.core.environment import RunInfo
from pipeline.core.io import read_json
from pipeline.core.text import format_percent
from pipeline.evaluate import stats
from pipeline.evaluate.clusters import read_clusters, select_clusters
from pipeline.evaluate.pooling import SeedPool
from pipeline.evaluate.scoring.metrics import ACCURACY, Metric, ScoredTask
from pipeline.evaluate.scoring.rows import ScoreFile, TaskScore
from pipeline.evaluate.stats import Difference, Estimate
from pipeline.report.data.cells import Cell, Section, Selection, list_sections, score_key
from pipeline.report.tables import MACRO, MICRO
from pipeline.report.titles import shorten_titles
from pipeline.study.description import (
    MethodDescription,
    RunDescription,
    StudyDescription,
    TaskDescription,
)
from pipeline.study.run import BARE


@dataclass(frozen=True)
class ReportData:
    """A study with the content of its result files.

    Attributes:
        study: its description.
        scores: by score file.
        costs: time and memory of a training or generation, by folder of the adapter or answers.
        audits: by audit file, in the order of the study.
        notes: what the titles of all "models" and of all "tasks" end with, left out of the study's titles here.
    """

    study: StudyDescription
    scores: Mapping[Path, ScoreFile]
    costs: Mapping[Path, RunInfo]
    audits: Mapping[Path, AuditFile]
    notes: Mapping[str, str] = field(default_factory=dict)
    _estimates: dict[tuple[Cell, Selection], Estimate] = field(
        default_factory=dict, repr=False, compare=False
    )
    _differences: dict[tuple[Cell, Cell, Selection], Difference] = field(
        default_factory=dict, repr=False, compare=False
    )
    _pools: dict[tuple[str, str, Selection], dict[str, SeedPool | None]] = field(
        default_factory=dict, repr=False, compare=False
    )
    _clusters: dict[str, Mapping[str, Hashable] | None] = field(
        default_factory=dict, repr=False, compare=False
    )

    @property
    def sections(self) -> list[Section]:
        """The sections of the report: each arm under each protocol of the headline tables."""
        # a study of nothing but comparison protocols has no headline
        return list_sections(self.study, self.study.headline or self.study.protocols)

    @property
    def has_bare(self) -> bool:
        """Whether the study evaluates the bare bases."""
        return any(run.method == BARE for run in self.study.runs)

    def is_combined(self, adapter: Path) -> bool:
        """Whether an adapter is a combination of others, for which nothing was trained."""
        return any(run.adapter == adapter and run.combined_sets for run in self.study.runs)

    def methods_of(self, model: str) -> list[MethodDescription]:
        """Return the methods of a model, in the order of the study; a method may be limited to some models."""
        trained = {run.method for run in self.study.runs if run.model == model}
        return [method for method in self.study.methods if method.name in trained]

    def method_titles(self, model: str) -> dict[str, str]:
        """Return the titles of a model's rows by method, in their order: the bare base first, if it is evaluated."""
        bare = {BARE: "no adapter"} if self.has_bare else {}
        return bare | {method.name: method.title for method in self.methods_of(model)}

    @property
    def trains_nothing(self) -> bool:
        """Whether the study has bare bases alone, each of which has a single run and no seed."""
        return not self.study.seeds

    @property
    def has_one_seed(self) -> bool:
        """Whether each adapter is the only one of its method, so that its numbers are about this run alone.

        Nothing is starred then: another seed may differ by more than the examples explain. A bare base has no seed, and
        its one run is all that there is of it.
        """
        return len(self.study.seeds) == 1

    def find_runs(self, model: str, method: str, arm: str | None = None) -> list[RunDescription]:
        """Return the runs of a model and method, of one arm or of all; a bare base belongs to every arm."""
        return [
            run
            for run in self.study.runs
            if run.model == model and run.method == method and (method == BARE or arm in (None, run.arm))
        ]

    def find_evaluated(self, arm: str) -> list[RunDescription]:
        """Return the runs of an arm and the bare bases; of the runs that share an adapter, the first."""
        return keep_first_of_shared([run for run in self.study.runs if run.arm in (None, arm)])

    def list_audits(self, arm: str) -> dict[Path, AuditFile]:
        """Return the audits of all training sets behind the runs of an arm, by file: its own, and those of combinations."""
        runs = [run for run in self.study.runs if run.arm == arm]
        return self._select_audits(
            [self._find_own_audit(arm), *(path for run in runs for path in run.combined_audits)]
        )

    def find_audits(self, cell: Cell) -> dict[Path, AuditFile]:
        """Return the audits of the training sets behind the runs of a cell, by file; for a bare base, that of the arm."""
        combined = [path for run in self.find_runs(*cell)[:1] for path in run.combined_audits]
        return self._select_audits(combined or [self._find_own_audit(cell.arm)])

    def find_own_audits(self, arm: str) -> dict[Path, AuditFile]:
        """Return the audit of an arm's own training set, by file; empty where nothing is trained."""
        return self._select_audits([self._find_own_audit(arm)])

    def _find_own_audit(self, arm: str) -> Path:
        return next(other.audit for other in self.study.arms if other.name == arm)

    def _select_audits(self, paths: Iterable[Path]) -> dict[Path, AuditFile]:
        return {path: self.audits[path] for path in paths if path in self.audits}

    def describe_training_set(self, audit: Path) -> str:
        """Return the training set of an audit: TRAINSET@ARM where other arms train on another part of the set."""
        arms = [arm for arm in self.study.arms if arm.audit == audit]
        is_divided = any(
            arm.training_set == arms[0].training_set and arm.audit != audit for arm in self.study.arms
        )
        names = ", ".join(arm.name for arm in arms)
        return f"{arms[0].training_set}@{names}" if is_divided else arms[0].training_set

    def describe_task(self, task: TaskDescription, arm: str) -> str:
        """Return the title of a task, with the arm where several have the task."""
        holders = [other for other in self.study.arms if task.name in [part.name for part in other.tasks]]
        return f"{task.title} ({arm})" if len(holders) > 1 else task.title

    def get_task_score(self, run: RunDescription, key: str) -> TaskScore:
        """Return a run's score of a task; ``key`` is TASK-PROTOCOL."""
        return self.scores[run.scores]["tasks"][key]

    def get_correctness(self, cell: Cell, key: str) -> list[list[float]]:
        """Return which answers are correct (1) or not (0), shape (seeds, examples)."""
        return self.get_metric_values(ACCURACY, cell, key)

    def get_metric_values(self, metric: Metric, cell: Cell, key: str) -> list[list[float]]:
        """Return a metric's values, shape (seeds, examples); (seeds, 1) if it has a single value for a task.

        That value is nan where the metric does not apply to the task.
        """
        return [self.get_run_values(metric, run, key) for run in self.find_runs(*cell)]

    def get_run_values(self, metric: Metric, run: RunDescription, key: str) -> list[float]:
        """Return a metric's values of one run on a task, shape (examples,); (1,) if it has a single value, which may be nan."""
        score = self.get_task_score(run, key)
        if not metric.applies_to(score):
            return [math.nan]
        return metric.values(ScoredTask(score, self.answers_file(run, key)))

    def answers_file(self, run: RunDescription, key: str) -> Path:
        """Return the file of a run's answers to a task; ``key`` is TASK-PROTOCOL."""
        folder = run.answers
        if run.second_answers:
            card = self.study.protocol_cards[self.get_task_score(run, key)["protocol"]]
            folder = run.second_answers if card.first_stage else folder
        return folder / f"{key}.jsonl"

    def get_first_score(self, section: Section, key: str) -> TaskScore:
        """Return the score of a section's first run, for what all runs of the section share."""
        model = self.study.models[0].name
        cell = Cell(model, next(iter(self.method_titles(model))), section.arm.name)
        return self.get_task_score(self.find_runs(*cell)[0], key)

    def list_averages(self, section: Section) -> dict[str, bool]:
        """Return the averages of a section by title, each with whether it is the micro average.

        The micro average is left out where it equals the macro average: all tasks have as many examples.
        """
        sizes = {self.get_first_score(section, key)["n"] for key in section.keys}
        return {MACRO: False} | ({MICRO: True} if len(sizes) > 1 else {})

    def list_seed_accuracies(
        self, cell: Cell, keys: Sequence[str], *, micro: bool = False
    ) -> dict[int | None, float]:
        """Return the accuracy of each single run of a cell by seed: over the tasks, the average that is asked for."""
        tables = [self.get_correctness(cell, key) for key in keys]
        accuracies = {}
        for number, run in enumerate(self.find_runs(*cell)):
            values = [table[number] for table in tables]
            shares = (
                [item for task in values for item in task] if micro else [np.mean(task) for task in values]
            )
            accuracies[run.seed] = float(np.mean(shares))
        return accuracies

    def describe_seeds(self, cell: Cell, keys: Sequence[str], *, micro: bool = False) -> str:
        """Return the accuracies of a cell's seeds in percent as a text; "" for a single run."""
        accuracies = self.list_seed_accuracies(cell, keys, micro=micro)
        if len(accuracies) < 2:
            return ""
        return ", ".join(f"seed {seed}: {format_percent(value)}" for seed, value in accuracies.items())

    def has_metric(self, metric: Metric, section: Section) -> bool:
        """Whether a metric is defined for any task of a section."""
        return any(metric.applies_to(self.get_first_score(section, key)) for key in section.keys)

    def estimate_accuracy(self, cell: Cell, key: str) -> Estimate:
        """Return a cell's accuracy on a task, with its interval."""
        return self.estimate(cell, Selection((key,)))

    def average_accuracy(self, cell: Cell, keys: Sequence[str], *, micro: bool = False) -> Estimate:
        """Return the macro or micro average of a cell's accuracies over tasks, with its interval."""
        return self.estimate(cell, Selection(tuple(keys), micro))

    def estimate(self, cell: Cell, selection: Selection) -> Estimate:
        """Return a proportion of a cell's answers with its interval: one way for every table and figure."""
        # tables and figures need the same numbers, and the bootstrap is slow
        if (cell, selection) not in self._estimates:
            self._estimates[cell, selection] = stats.estimate_mean_accuracy(
                self._select_values(cell, selection),
                micro=selection.micro,
                clusters=self.list_clusters(selection),
                pool=self.find_pool(cell, selection),
            )
        return self._estimates[cell, selection]

    def estimate_run(self, run: RunDescription, selection: Selection) -> Estimate:
        """Return a proportion of one run's answers with its interval, over examples alone."""
        return stats.estimate_mean_accuracy(
            self._select_run_values([run], selection),
            micro=selection.micro,
            clusters=self.list_clusters(selection),
        )

    def compare(self, first: Cell, second: Cell, selection: Selection) -> Difference:
        """Return by how much a proportion of one cell exceeds that of another, paired on examples."""
        # tables and the headline need the same differences
        if (first, second, selection) not in self._differences:
            self._differences[first, second, selection] = self._compare(first, second, selection)
        return self._differences[first, second, selection]

    def _compare(self, first: Cell, second: Cell, selection: Selection) -> Difference:
        sides = [self._select_values(cell, selection) for cell in (first, second)]
        clusters = self.list_clusters(selection)
        pools = self.find_pool(first, selection), self.find_pool(second, selection)
        if len(selection.keys) == 1:
            keys = clusters[0] if clusters else None
            return stats.estimate_difference(sides[0][0], sides[1][0], clusters=keys, pools=pools)
        pairs = list(zip(*sides, strict=True))
        return stats.estimate_mean_difference(pairs, micro=selection.micro, clusters=clusters, pools=pools)

    def find_pool(self, cell: Cell, selection: Selection) -> SeedPool | None:
        """Return the variance between seeds that a cell shares with the other methods of its model.

        None where the study takes each method's own, and for a bare base or a model's only method.
        """
        if self.study.seed_variance == "own" or cell.method == BARE:
            return None
        key = (cell.model, cell.arm, selection)
        if key not in self._pools:
            self._pools[key] = self._pool_methods(cell.model, cell.arm, selection)
        return self._pools[key][cell.method]

    def _pool_methods(self, model: str, arm: str, selection: Selection) -> dict[str, SeedPool | None]:
        # methods that share their adapters are one method under several names
        names: dict[tuple[Path, ...], list[str]] = {}
        for method in self.methods_of(model):
            runs = self.find_runs(model, method.name, arm)
            if runs:
                names.setdefault(tuple(run.scores for run in runs), []).append(method.name)
        tables = [self._select_values(Cell(model, group[0], arm), selection) for group in names.values()]
        pools = stats.pool_seeds(tables, micro=selection.micro, clusters=self.list_clusters(selection))
        return {name: pool for group, pool in zip(names.values(), pools, strict=True) for name in group}

    def _select_values(self, cell: Cell, selection: Selection) -> list[list[list[float]]]:
        """Return the values of a selection, for each task of shape (seeds, examples)."""
        return self._select_run_values(self.find_runs(*cell), selection)

    def _select_run_values(
        self, runs: Sequence[RunDescription], selection: Selection
    ) -> list[list[list[float]]]:
        tables = []
        for key in selection.keys:
            values = [self.get_run_values(selection.metric, run, key) for run in runs]
            if selection.excluded:
                ids = self._list_ids(key)
                values = [
                    [value for value, id in zip(run, ids, strict=True) if id not in selection.excluded]
                    for run in values
                ]
            tables.append(values)
        return tables

    def _list_ids(self, key: str) -> list[str]:
        """Return the ids of a task's examples, which all runs share."""
        scores = (score["tasks"] for score in self.scores.values())
        return [item["id"] for item in next(tasks[key] for tasks in scores if key in tasks)["items"]]

    def list_clusters(self, selection: Selection) -> list[list[Hashable] | None] | None:
        """Return for each task of a selection the clusters of its examples; None where none has any."""
        clusters: list[list[Hashable] | None] = []
        for key in selection.keys:
            by_id = self.find_clusters(key)
            ids = [id for id in self._list_ids(key) if id not in selection.excluded] if by_id else []
            clusters.append(select_clusters(by_id, ids))
        return clusters if any(clusters) else None

    def find_clusters(self, key: str) -> Mapping[str, Hashable] | None:
        """Return the cluster of each example of a task, by id; None where its card names none, or all are in one."""
        if key not in self._clusters:
            self._clusters[key] = self._read_clusters(key)
        return self._clusters[key]

    def _read_clusters(self, key: str) -> Mapping[str, Hashable] | None:
        for arm in self.study.arms:
            for task in arm.tasks:
                for protocol, path in task.prompts.items():
                    if score_key(task, protocol) == key and task.clusters:
                        return read_clusters(task.clusters, task=task.name, prompts=path, raw=task.raw)
        return None


def read_report_data(study: StudyDescription) -> ReportData:
    """Read the result files of a study."""
    study, notes = shorten_titles(study)
    folders = [
        path
        for run in study.runs
        for path in (run.adapter, run.answers, run.second_answers, run.text_likelihoods)
        if path
    ]
    return ReportData(
        study=study,
        scores={run.scores: read_json(run.scores) for run in study.runs},
        costs={folder: read_json(folder / "run.json") for folder in folders},
        audits={path: read_json(path) for path in study.audits},
        notes=notes,
    )


def keep_first_of_shared(runs: Sequence[RunDescription]) -> list[RunDescription]:
    """Return runs without those whose scores are of the same adapter as an earlier run's."""
    return list({run.scores: run for run in reversed(runs)}.values())[::-1]
