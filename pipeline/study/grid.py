"""A study as artifacts: the grid of params/study/NAME.yaml, resolved into every artifact before any job runs.

Imports no torch and reads no dataset.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError
from pipeline.params.base import TrainingOverlay
from pipeline.params.models import identity_keys
from pipeline.params.protocols import Protocol
from pipeline.params.reading import PARAMS, read_card
from pipeline.params.resolve import answer_form_of
from pipeline.params.studies import Arm, Entry, StudyCard
from pipeline.study.artifacts import Artifact, list_with_inputs
from pipeline.study.combination.resolve import is_combined, resolve_combined
from pipeline.study.datasets import (
    PromptChoice,
    Shots,
    is_distilled,
    list_order,
    resolve_prompts,
    resolve_raw,
)
from pipeline.study.description.describe import resolve_report
from pipeline.study.distillation.resolve import resolve_distilled
from pipeline.study.distillation.teacher import resolve_teacher
from pipeline.study.evaluation.resolve import resolve_evaluation
from pipeline.study.figure import FigurePoint, figure_points
from pipeline.study.references import ReferenceRun, resolve_references
from pipeline.study.run import (
    BARE,
    Run,
    RunResults,
    Task,
    is_endpoint,
    resolve_adapter_params,
)
from pipeline.study.stages import STAGES
from pipeline.study.tuning.trials import Choice, Trial, add_choice, resolve_choice


@dataclass(frozen=True)
class Study:
    """A checked study: its card, and every artifact that follows from it.

    Attributes:
        name: of its file in params/study/.
        card: the file's content, with the seeds that are used.
        seed_count: how many of the file's seeds these are; None: all.
    """

    name: str
    card: StudyCard
    seed_count: int | None = None
    # Artifacts by the arguments that they are resolved from: the thousands of runs of a large grid share most of
    # their inputs, and resolving each input once keeps planning fast.
    _shared: dict[Hashable, Artifact] = field(default_factory=dict, repr=False, compare=False)
    # by model, method and arm
    _choices: dict[tuple[str, str, str], Choice] = field(default_factory=dict, repr=False, compare=False)

    @property
    def where(self) -> str:
        """The study's file, for messages."""
        return f"params/study/{self.name}.yaml"

    def share(self, key: Hashable, resolve: Callable[[], Artifact]) -> Artifact:
        """Return the artifact under a key; resolve it on first use."""
        if key not in self._shared:
            self._shared[key] = resolve()
        return self._shared[key]

    def raw(self, dataset: str, split: str) -> Artifact:
        """The rows of a dataset as its source has them, or as a teacher writes them."""
        resolve = self._resolve_distilled if is_distilled(dataset) else resolve_raw
        return self.share(("raw", dataset, split), lambda: resolve(dataset, split))

    def _resolve_distilled(self, dataset: str, split: str) -> Artifact:
        teacher = resolve_teacher(self, dataset)
        return resolve_distilled(dataset, split, teacher=teacher, prompts=self.choose_prompts, raw=self.raw)

    def prompts(
        self, dataset: str, split: str, *, template: str, limit: int | None, shots: Shots | None = None
    ) -> Artifact:
        """The examples of a dataset or a mixture, each in the words of a template."""
        return self.choose_prompts(
            PromptChoice(dataset, split, template, limit, self.card.sample_seed, shots)
        )

    def choose_prompts(self, choice: PromptChoice) -> Artifact:
        """The prompts of a choice of examples and words."""
        return self.share(("prompts", choice), lambda: resolve_prompts(choice, raw=self.raw))

    def training_prompts(self, arm: Arm) -> Artifact:
        """The prompts that the adapters of an arm are trained on."""
        return self.prompts(arm.training_set, "train", template=self.card.template, limit=arm.limit)

    def task_prompts(self, task: str, protocol: str, *, bare: bool = False) -> Artifact:
        """The prompts of a task under a protocol; ``bare`` leaves out the protocol's worked examples."""
        card: Protocol = read_card("protocols", protocol)
        shots = Shots(card.shots, card.shots_split, card.shots_seed) if card.shots and not bare else None
        return self.prompts(task, self.card.split, template=card.template, limit=self.card.limit, shots=shots)

    def text_prompts(self, dataset: str) -> Artifact:
        """The prompts of a dataset of texts; those of passages are empty."""
        texts = self.card.texts
        split, limit = (texts.split, texts.limit) if texts else ("test", None)
        return self.prompts(dataset, split, template=self.card.template, limit=limit)

    def audit(self, arm: Arm) -> Artifact:
        """Which questions of the study's tasks, of all arms, the training set of one arm contains."""
        return self.share(("audit", arm.training_set, arm.limit), lambda: self._resolve_audit(arm))

    def _resolve_audit(self, arm: Arm) -> Artifact:
        # The audit compares questions, which are the same under every protocol.
        protocol = self.card.protocols[0]
        tests = {f"test {task}": self.task_prompts(task, protocol, bare=True) for task in self.task_names}
        inputs = {"train": self.training_prompts(arm), **tests}
        return Artifact("audit", f"{arm.training_set}/tests-", {}, inputs)

    @cached_property
    def audited_arms(self) -> list[Arm]:
        """The arms whose training set adapters of the study are trained on."""
        return [arm for arm in self.card.arms if arm.training_set and self.runs]

    def base(self, model: str) -> Artifact:
        """A base model: of the hub, a local folder or a package, pretrained by its recipe, or the identity of an endpoint's."""
        return self.share(("base", model), lambda: self._resolve_base(model))

    def _resolve_base(self, model: str) -> Artifact:
        card = read_card("models", model)
        if card.kind == "endpoint":
            return Artifact("base", f"{model}/", {"endpoint": card.identity})
        if card.kind != "pretrained":
            tokens = card.tokens.model_dump(exclude_unset=True)
            params = card.model_dump(include=identity_keys(card)) | ({"tokens": tokens} if tokens else {})
            return Artifact("base", f"{model}/", params)
        corpus = {
            # inputs are a set, and the base is trained on their rows in this order
            f"{number} {name}" if list_order(card.corpus) else name: self.prompts(
                name, "train", template=self.card.template, limit=None
            )
            for number, name in enumerate(card.corpus)
        }
        return Artifact("base", f"{model}/", card.recipe, corpus)

    @cached_property
    def task_names(self) -> list[str]:
        """The tasks of all arms, each once."""
        return list(dict.fromkeys(task for arm in self.card.arms for task in arm.tasks))

    @cached_property
    def runs(self) -> list[Run]:
        """The rows of the tables: each method with each arm and seed, the bare base of each model first.

        Runs with equal settings, such as two methods that are one on some architecture, share an adapter.
        """
        card, runs = self.card, []
        for model in card.models:
            base = self.base(model)
            if card.bare:
                runs.append(Run(f"{model}/{BARE}", model, base, tuple(card.arms)))
            # nothing is trained on a model behind an endpoint
            for entry in [] if is_endpoint(model) else card.methods_of(model):
                for arm in card.arms:
                    runs += [self.resolve_adapter(model, base, entry, arm, seed) for seed in card.seeds]
        return runs

    def resolve_adapter(self, model: str, base: Artifact, entry: Entry, arm: Arm, seed: int) -> Run:
        """A run of the study: one adapter on the tasks of its arm."""
        if is_combined(entry):
            return resolve_combined(self, model, base, entry, arm, seed)
        inputs = {"base": base, "prompts": self.training_prompts(arm)}
        choice = self.choice_of(model, entry, arm)
        tuned = TrainingOverlay(**choice.trials[0].values) if choice else None
        params = resolve_adapter_params(self.card, model, entry, arm, seed, where=self.where, tuned=tuned)
        if choice:
            params, inputs = add_choice(params, inputs, choice)
        adapter = self.share_adapter(f"{model}/{entry.name}/{arm.training_set}/seed{seed}/", params, inputs)
        name = f"{self.name_of(model, entry, arm)}/seed{seed}"
        return Run(name, model, base, (arm,), entry, seed, adapter)

    def share_adapter(
        self, label: str, params: dict[str, Any], inputs: Mapping[str, Artifact], *, stage: str = "train"
    ) -> Artifact:
        """Return an adapter; one fingerprint has one path, that of the first run with these settings."""
        adapter = Artifact(stage, label, params, inputs)
        return self.share((stage, adapter.fingerprint), lambda: adapter)

    def name_of(self, model: str, entry: Entry, arm: Arm) -> str:
        """Return the start of the name of runs: MODEL/METHOD/TRAINSET, TRAINSET@ARM where several arms have the set."""
        # the folders of two arms on one training set are the same, and their fingerprints differ
        is_shared = sum(other.training_set == arm.training_set for other in self.card.arms) > 1
        return f"{model}/{entry.name}/{arm.training_set}" + (f"@{arm.name}" if is_shared else "")

    def choice_of(self, model: str, entry: Entry, arm: Arm) -> Choice | None:
        """The choice between the trials of a model, method and arm; None without ``tune``."""
        if self.card.tune is None or is_combined(entry):
            return None
        key = (model, entry.name, arm.name)
        # one by one: the set of an arm may come from a teacher, which is a run of another arm
        if key not in self._choices:
            self._choices[key] = resolve_choice(self, self.card.tune, model, entry, arm)
        return self._choices[key]

    @cached_property
    def choices(self) -> list[Choice]:
        """All choices between trials; empty without ``tune``."""
        choices = (
            self.choice_of(model, entry, arm)
            for model in self.card.models
            if not is_endpoint(model)
            for entry in self.card.methods_of(model)
            for arm in self.card.arms
        )
        return [choice for choice in choices if choice]

    @cached_property
    def trials(self) -> list[Trial]:
        """The trials of all choices; of those that share an adapter and an arm, the first."""
        trials = [trial for choice in self.choices for trial in choice.trials]
        first = {(trial.adapter.path, trial.run.arms[0].name): trial for trial in reversed(trials)}
        return list(reversed(first.values()))

    @cached_property
    def evaluated_runs(self) -> list[Run]:
        """The first run of each adapter, and the bare bases: every evaluated model once."""
        return [runs[0] for runs in self._runs_by_model.values()]

    @cached_property
    def _runs_by_model(self) -> dict[Path, list[Run]]:
        runs_by_model: dict[Path, list[Run]] = {}
        for run in self.runs:
            runs_by_model.setdefault(run.evaluated_model.path, []).append(run)
        return runs_by_model

    @cached_property
    def _results(self) -> dict[Path, RunResults]:
        """The tasks, answers and scores of every adapter and bare base, by its path."""
        return {path: resolve_evaluation(self, runs) for path, runs in self._runs_by_model.items()}

    def results(self, run: Run) -> RunResults:
        """What the model of a run leads to: its tasks, and the artifacts of its answers and scores."""
        trial = self._trial_results.get(run.name)
        return trial or self._results[run.evaluated_model.path]

    @cached_property
    def _trial_results(self) -> dict[str, RunResults]:
        """The results of trials on the validation split, by the name of their run."""
        return {trial.run.name: trial.results for trial in self.trials if trial.results}

    def tasks(self, run: Run) -> list[Task]:
        """The tasks that the model of a run is evaluated on, each under each protocol that covers its answer form."""
        return self.results(run).tasks

    def answers(self, run: Run) -> Artifact:
        """The answers of the model of a run to all its tasks, without those of second stages."""
        return self.results(run).answers

    def scores(self, run: Run) -> Artifact:
        """The scores of the model of a run on all its tasks."""
        return self.results(run).scores

    def protocols_of(self, task: str) -> list[str]:
        """The study's protocols that cover the answer form of a task.

        Raises:
            UserError: there is none.
        """
        form = answer_form_of(task)
        names = [name for name in self.card.protocols if form in read_card("protocols", name).forms]
        if not names:
            raise UserError(
                f"{self.where}: protocols: none of {', '.join(self.card.protocols)} covers answers of the form "
                f"'{form}', which '{task}' has"
            )
        return names

    @property
    def skipped_tasks(self) -> list[tuple[str, str]]:
        """Task and protocol of each pair that is not evaluated: the protocol does not cover the task's answer form."""
        return [
            (task, protocol)
            for task in self.task_names
            for protocol in self.card.protocols
            if protocol not in self.protocols_of(task)
        ]

    @property
    def headline(self) -> list[str]:
        """The protocols of the headline tables."""
        protocols = self.card.protocols
        return self.card.headline or [
            name for name in protocols if not read_card("protocols", name).comparison_only
        ]

    @cached_property
    def report(self) -> Artifact:
        """The study's report; its file is a manifest in the report's own folder."""
        return resolve_report(self, self._artifacts_below_report)

    @cached_property
    def points(self) -> list[FigurePoint]:
        """The points of the study's figure, one for each of its methods; empty without a figure.

        Raises:
            UserError: a method sets none of the figure's settings, or several, or has the position of another, or has
                several positions.
        """
        if self.card.figure is None:
            return []
        trained = [
            (run.entry, run.adapter) for run in self.runs if run.entry and run.adapter and not run.members
        ]
        return figure_points(trained, list(self.card.figure.x), where=f"{self.where}: figure")

    @cached_property
    def references(self) -> list[ReferenceRun]:
        """The answers made elsewhere that the study reads."""
        return resolve_references(self)

    @cached_property
    def _artifacts_below_report(self) -> list[Artifact]:
        """Every artifact but the report, each once."""
        targets = [self.answers(run) for run in self.runs] + [self.scores(run) for run in self.runs]
        targets += [part for run in self.runs if (part := self.results(run).text_likelihoods)]
        targets += [self.audit(arm) for arm in self.audited_arms]
        targets += [reference.scores for reference in self.references]
        return list_with_inputs(targets)

    @cached_property
    def artifacts(self) -> dict[str, list[Artifact]]:
        """Every artifact of the study, by stage."""
        by_stage: dict[str, list[Artifact]] = {stage: [] for stage in STAGES}
        for artifact in (*self._artifacts_below_report, self.report):
            by_stage[artifact.stage].append(artifact)
        return by_stage

    def named(self) -> list[Artifact]:
        """Every artifact of the study."""
        return [artifact for artifacts in self.artifacts.values() for artifact in artifacts]

    def paths(self, stage: str) -> list[str]:
        """The paths of a stage's artifacts."""
        return [str(artifact.path) for artifact in self.artifacts[stage]]

    @cached_property
    def _by_fingerprint(self) -> dict[tuple[str, str], Artifact]:
        return {(artifact.stage, artifact.fingerprint): artifact for artifact in self.named()}

    def find_artifact(self, stage: str, fingerprint: str) -> Artifact:
        """Return the artifact of a stage with a fingerprint.

        Raises:
            UserError: the study has none; its params changed since the job was planned, or the fingerprint is wrong.
        """
        try:
            return self._by_fingerprint[stage, fingerprint]
        except KeyError:
            raise self._unknown_fingerprint(stage, fingerprint) from None

    def _unknown_fingerprint(self, kind: str, fingerprint: str) -> UserError:
        return UserError(
            f"study '{self.name}' has no {kind} '{fingerprint}': its params may have changed; plan again"
        )

    def input_paths(self, stage: str, fingerprint: str) -> list[str]:
        """The paths that an artifact is made from, for the ``input`` of a rule."""
        inputs = self.find_artifact(stage, fingerprint).inputs
        return sorted({str(artifact.path) for artifact in inputs.values()})

    def run_of(self, fingerprint: str) -> Run:
        """Return the run whose answers or scores have a fingerprint.

        Raises:
            UserError: the study has none.
        """
        for run in (*self.runs, *(trial.run for trial in self.trials if trial.results)):
            results = self.results(run)
            if fingerprint in [artifact.fingerprint for artifact in (*results.all_answers, results.scores)]:
                return run
        raise self._unknown_fingerprint("run", fingerprint)


def project_root() -> Path:
    """The folder that all artifact paths are relative to."""
    return PARAMS.parent
