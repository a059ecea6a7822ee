"""A study as artifacts: the grid of params/study/NAME.yaml resolved into everything that it names, before any job.

Imports no torch and reads no dataset.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property, wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from pipeline.core.errors import UserError
from pipeline.params.datasets import Dataset, Split
from pipeline.params.protocols import Protocol
from pipeline.params.reading import PARAMS, read_card, read_yaml
from pipeline.params.resolve import answer_form, resolve_method, resolve_training
from pipeline.params.studies import Arm, Entry, StudyCard
from pipeline.study import checks
from pipeline.study.artifacts import Artifact, fingerprint_of
from pipeline.study.figure import FigurePoint, figure_points
from pipeline.study.run import Run, Task

P = ParamSpec("P")
T = TypeVar("T")
Shots = tuple[int, str, int]  # how many, of which split, by which seed


def _remembered(method: Callable[Concatenate["Study", P], T]) -> Callable[Concatenate["Study", P], T]:
    """Have a method of a study compute each result once: grids of thousands of jobs share most of what they name."""

    @wraps(method)
    def once(study: "Study", /, *given: P.args, **named: P.kwargs) -> T:
        key = (method.__name__, *map(_key, given), *((name, _key(one)) for name, one in named.items()))
        if key not in study._made:
            study._made[key] = method(study, *given, **named)
        return cast(T, study._made[key])

    return once


def _key(given: object) -> object:
    if isinstance(given, Run):
        return given.label
    return id(given) if isinstance(given, Arm) else given  # arms live as long as their study


@dataclass(frozen=True)
class Study:
    """A checked study: its card and, derived from it, every artifact.

    Artifacts are made once each and shared: two runs on one base name the same base.
    """

    name: str
    card: StudyCard
    _made: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def where(self) -> str:
        """The study's file, for messages."""
        return f"params/study/{self.name}.yaml"

    def _once(self, artifact: Artifact) -> Artifact:
        made: Artifact = self._made.setdefault((artifact.path, artifact.fingerprint), artifact)
        return made

    @_remembered
    def raw(self, dataset: str, split: str) -> Artifact:
        """A dataset's rows as its source has them."""
        described = _split(dataset, split)
        known = described.sha256 or next((s.git_blob for s in described.sources if s.git_blob), None)
        content = (
            {"sum": known} if known else {"sources": [source.model_dump() for source in described.sources]}
        )
        params = {
            "dataset": dataset,
            "split": split,
            "version": read_card("datasets", dataset).version,
            **content,
        }
        return self._once(Artifact("fetch", f"{dataset}/{split}-", params))

    @_remembered
    def prompts(
        self, dataset: str, split: str, *, template: str, limit: int | None, shots: Shots | None = None
    ) -> Artifact:
        """A dataset's or a mixture's examples, in the words of a template; perhaps with worked examples ahead."""
        card: Dataset = read_card("datasets", dataset)
        raws = {part: self.raw(part, split) for part in card.parts or [dataset]}
        forms = {part: read_card("datasets", part).answer_form for part in raws}
        drawn: dict[str, Any] = {"limit": limit, "sample_seed": self.card.sample_seed} if limit else {}
        params = {"template": template, "answer_forms": forms, **drawn}
        left_out = {part: _split(part, split).known_malformed for part in raws}
        if any(left_out.values()):
            params["known_malformed"] = {part: rows for part, rows in left_out.items() if rows}
        if card.without and split == "train":
            tests = {test: read_card("datasets", test).answer_form for test in card.without}
            params["without"] = {"method": card.method, "answer_forms": tests}
            malformed = {test: _split(test, "test").known_malformed for test in tests}
            if any(malformed.values()):
                params["without"]["known_malformed"] = {
                    test: rows for test, rows in malformed.items() if rows
                }
            raws |= {f"without {test}": self.raw(test, "test") for test in tests}
        if shots:
            count, drawn_from, seed = shots
            params["shots"] = {"count": count, "seed": seed}
            malformed_shots = _split(dataset, drawn_from).known_malformed
            if malformed_shots:
                params["shots"]["known_malformed"] = {dataset: malformed_shots}
            raws["shots"] = self.raw(dataset, drawn_from)
        return self._once(Artifact("prompts", f"{dataset}/{split}-{template}-", params, raws))

    def training_prompts(self, arm: Arm) -> Artifact:
        """What an arm's adapters are trained on."""
        return self.prompts(arm.training_set, "train", template=self.card.template, limit=arm.limit)

    def task_prompts(self, task: str, protocol: str, *, bare: bool = False) -> Artifact:
        """What a task asks under a protocol; ``bare``: without the worked examples that it may put ahead."""
        card: Protocol = read_card("protocols", protocol)
        shots = (card.shots, card.shots_split, card.shots_seed) if card.shots and not bare else None
        return self.prompts(task, self.card.split, template=card.template, limit=self.card.limit, shots=shots)

    @_remembered
    def audit(self, arm: Arm) -> Artifact:
        """Which questions of the study's tests, of whatever arm, an arm's training set holds."""
        tasks = dict.fromkeys(task for one in self.card.arms for task in one.tasks)
        tests = {f"test {task}": self.task_prompts(task, self.card.protocols[0], bare=True) for task in tasks}
        inputs = {"train": self.training_prompts(arm), **tests}
        return self._once(Artifact("audit", f"{arm.training_set}/tests-", {}, inputs))

    @_remembered
    def base(self, model: str) -> Artifact:
        """A base model: of the hub at its revision, or pretrained by its recipe."""
        card = read_card("models", model)
        if card.kind == "hub":
            params = {"repo_id": card.repo_id, "revision": card.revision}
            rules = card.tokens.model_dump(exclude_unset=True)
            return self._once(Artifact("base", f"{model}/", params | ({"tokens": rules} if rules else {})))
        corpus = {
            name: self.prompts(name, "train", template=self.card.template, limit=None) for name in card.corpus
        }
        return self._once(Artifact("base", f"{model}/", card.recipe, corpus))

    @cached_property
    def runs(self) -> list[Run]:
        """Every model that is asked, bare bases first."""
        card, runs = self.card, []
        for model in card.models:
            base = self.base(model)
            if card.bare:
                runs.append(Run(model, base, tuple(card.arms)))
            for entry in card.methods:
                for arm in card.arms:
                    runs += [self._trained(model, base, entry, arm, seed) for seed in card.seeds]
        return runs

    def _trained(self, model: str, base: Artifact, entry: Entry, arm: Arm, seed: int) -> Run:
        method = resolve_method(entry, architecture=read_card("models", model).architecture, where=self.where)
        training = resolve_training(
            (f"params/methods/{entry.method}.yaml", read_card("methods", entry.method).training),
            (self.where, self.card.training),
            (f"{self.where}: arms.{arm.name}", arm.training),
            (f"{self.where}: arms.{arm.name}: {model}", arm.training_by_model.get(model, {})),
            (f"{self.where}: methods.{entry.method}", entry.training),
        )
        params = {"method": method, "training": training.model_dump(), "seed": seed}
        run = Run(model, base, (arm,), entry, seed)
        adapter = Artifact("train", run.label, params, {"base": base, "prompts": self.training_prompts(arm)})
        return Run(model, base, (arm,), entry, seed, self._once(adapter))

    @_remembered
    def tasks(self, run: Run) -> list[Task]:
        """The tasks that a run is evaluated on, each under each protocol that covers its answer form."""
        return [
            self._task_of(run, task, name)
            for task in dict.fromkeys(task for arm in run.arms for task in arm.tasks)
            for name in self.protocols_of(task)
        ]

    def _task_of(self, run: Run, task: str, name: str) -> Task:
        form = answer_form(task)
        protocol: Protocol = read_card("protocols", name)
        prompts = self.task_prompts(task, name)
        decoding = protocol.decoding(form, max_new_tokens=self.card.max_new_tokens)
        if "dtype" in self.card.training:
            decoding["dtype"] = self.card.training["dtype"]
        if self.card.merge_adapter and run.adapter:
            decoding["merge_adapter"] = True
        made_of = [(run.adapter or run.base).fingerprint, prompts.fingerprint, decoding]
        return Task(f"{task}-{name}", task, protocol, form, prompts, decoding, fingerprint_of(made_of))

    @_remembered
    def protocols_of(self, task: str) -> list[str]:
        """The study's protocols under which a task is asked: those that name its answer form.

        Raises:
            UserError: there is none.
        """
        form = answer_form(task)
        found = [name for name in self.card.protocols if form in read_card("protocols", name).forms]
        if not found:
            names = ", ".join(self.card.protocols)
            raise UserError(
                f"{self.where}: protocols: none asks '{task}', whose answers are of the form '{form}' (they are: {names})"
            )
        return found

    @property
    def left_out(self) -> list[tuple[str, str]]:
        """The pairs of task and protocol that are not asked, since the protocol does not name the task's answer form."""
        tasks = dict.fromkeys(task for arm in self.card.arms for task in arm.tasks)
        return [
            (task, name)
            for task in tasks
            for name in self.card.protocols
            if name not in self.protocols_of(task)
        ]

    @property
    def headline(self) -> list[str]:
        """The protocols of the headline tables."""
        asked = self.card.protocols
        return self.card.headline or [
            name for name in asked if not read_card("protocols", name).comparison_only
        ]

    @_remembered
    def answers(self, run: Run) -> Artifact:
        """A run's answers to all its tasks."""
        tasks = self.tasks(run)
        inputs = {"base": run.base} | ({"adapter": run.adapter} if run.adapter else {})
        inputs |= {task.name: task.prompts for task in tasks}
        params = {task.name: task.decoding for task in tasks}
        return self._once(Artifact("generate", run.label, params, inputs))

    @_remembered
    def scores(self, run: Run) -> Artifact:
        """A run's scores on all its tasks."""
        tasks = self.tasks(run)
        rules = {
            task.name: {"parser": task.protocol.parser, "version": task.protocol.version} for task in tasks
        }
        prompts = {task.name: task.prompts for task in tasks}
        return self._once(Artifact("score", run.label, rules, {"answers": self.answers(run), **prompts}))

    @cached_property
    def report(self) -> Artifact:
        """The study's report; its file is a manifest in the report's fixed folder."""
        inputs = {str(score.path): score for score in self._of("score")}
        inputs |= {str(audit.path): audit for audit in self._of("audit")}
        params: dict[str, Any] = {"title": self.card.title, "description": self.card.description}
        if self.card.figure:
            params["figure"] = {
                **self.card.figure.model_dump(),
                "points": [asdict(point) for point in self.points],
            }
        if self.card.published:
            params["published"] = read_card("published", self.card.published).model_dump()
        return Artifact("report", f"{self.name}/manifest-", params, inputs)

    @cached_property
    def points(self) -> list[FigurePoint]:
        """The points of the study's figure, one for each of its methods; empty without a figure.

        Raises:
            UserError: an entry has none of the figure's fields, or several, or the place of another.
        """
        if self.card.figure is None:
            return []
        trained = {run.method: (run.entry, run.adapter) for run in self.runs if run.entry and run.adapter}
        return figure_points(trained.values(), list(self.card.figure.x), at=f"{self.where}: figure")

    def _of(self, stage: str) -> list[Artifact]:
        return [self.report] if stage == "report" else [one for one in self._all if one.stage == stage]

    @cached_property
    def _all(self) -> list[Artifact]:
        tops = [self.answers(run) for run in self.runs] + [self.scores(run) for run in self.runs]
        tops += [self.audit(arm) for arm in self.card.arms]
        seen: dict[Path, Artifact] = {}
        for top in tops:
            _add_with_inputs(top, seen)
        return list(seen.values())

    @cached_property
    def artifacts(self) -> dict[str, list[Artifact]]:
        """Every artifact that the study names, by stage."""
        stages = ("fetch", "prompts", "audit", "base", "train", "generate", "score", "report")
        return {stage: self._of(stage) for stage in stages}

    def named(self) -> list[Artifact]:
        """Every artifact that the study names."""
        return [artifact for stage in self.artifacts.values() for artifact in stage]

    def paths(self, stage: str) -> list[str]:
        """The paths of a stage's artifacts."""
        return [str(artifact.path) for artifact in self.artifacts[stage]]

    @cached_property
    def _by_fingerprint(self) -> dict[tuple[str, str], Artifact]:
        return {(one.stage, one.fingerprint): one for one in self.named()}

    def find(self, stage: str, fingerprint: str) -> Artifact:
        """Return the artifact of that name.

        Raises:
            UserError: the study names none; its params changed since the job was planned, or the name is mistyped.
        """
        try:
            return self._by_fingerprint[stage, fingerprint]
        except KeyError:
            raise self._unknown(stage, fingerprint) from None

    def _unknown(self, what: str, fingerprint: str) -> UserError:
        return UserError(
            f"study '{self.name}' names no {what} '{fingerprint}': its params may have changed; plan again"
        )

    def inputs(self, stage: str, fingerprint: str) -> list[str]:
        """The paths of what an artifact is made from, for a rule's ``input``."""
        return sorted({str(one.path) for one in self.find(stage, fingerprint).inputs.values()})

    def run_of(self, fingerprint: str) -> Run:
        """Return the run whose answers or scores have that fingerprint."""
        for run in self.runs:
            if fingerprint in (self.answers(run).fingerprint, self.scores(run).fingerprint):
                return run
        raise self._unknown("run", fingerprint)


def _add_with_inputs(artifact: Artifact, seen: dict[Path, Artifact]) -> None:
    if artifact.path not in seen:
        seen[artifact.path] = artifact
        for one in artifact.inputs.values():
            _add_with_inputs(one, seen)


def _split(dataset: str, split: str) -> Split:
    card: Dataset = read_card("datasets", dataset)
    if split not in card.splits:
        raise UserError(
            f"params/datasets/{dataset}.yaml: no split '{split}' (it has: {', '.join(card.splits) or 'none'})"
        )
    return card.splits[split]


def default_study() -> str:
    """The study that params/params.yaml names."""
    settings = read_yaml(PARAMS / "params.yaml")
    if not isinstance(settings, dict) or set(settings) != {"study"}:
        raise UserError("params/params.yaml: must hold the one key 'study'")
    return str(settings["study"])


def load_study(name: str | None = None) -> Study:
    """Return a study, wholly checked: every card that it names is read, every artifact resolved.

    Args:
        name: of a file in params/study/; None: the one that params/params.yaml names.

    Raises:
        UserError: in one line that names file, key, value and choices.
    """
    name = name or default_study()
    study = Study(name, read_card("study", name))
    checks.check(study.card, where=study.where)
    study.named()
    return study


def project_root() -> Path:
    """The folder that all artifact paths are relative to."""
    return PARAMS.parent
