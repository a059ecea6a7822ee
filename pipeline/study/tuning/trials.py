"""The trials of a study and the choices between them, planned before any trial runs.

A trial is a training of its own: fewer steps, a seed that the study does not use, and, to judge it, examples that it does not
train on. A choice is made of its trials, and the study's trainings are made of their choice: so what they are tuned by is
part of their identity, while the chosen value is read when they run.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import UserError
from pipeline.params.base import TrainingOverlay
from pipeline.params.protocols import Protocol
from pipeline.params.reading import read_card
from pipeline.params.studies import Arm, Entry
from pipeline.params.tuning.candidates import list_candidates
from pipeline.params.tuning.cards import Setting, Tuning
from pipeline.study.artifacts import Artifact
from pipeline.study.datasets import Shots
from pipeline.study.evaluation.resolve import resolve_results, resolve_task
from pipeline.study.run import Run, RunResults, is_second_stage, resolve_adapter_params
from pipeline.study.tuning.choice import CHOICE, TUNED

if TYPE_CHECKING:
    from pipeline.study.grid import Study


@dataclass(frozen=True)
class Trial:
    """A training with one setting of the tuned fields.

    Attributes:
        values: of the fields.
        run: its model, method, arm, seed and adapter.
        results: its answers and scores on the validation split; None under the rule "loss".
    """

    values: Mapping[str, Setting]
    run: Run
    adapter: Artifact
    results: RunResults | None


@dataclass(frozen=True)
class Choice:
    """The choice between the trials of a model, method and arm."""

    model: str
    method: str
    arm: str
    trials: Sequence[Trial]
    artifact: Artifact


def add_choice(
    params: Mapping[str, Any], inputs: Mapping[str, Artifact], choice: Choice
) -> tuple[dict[str, Any], dict[str, Artifact]]:
    """Return the params and inputs of a training whose tuned settings a choice makes."""
    fields = dict.fromkeys(choice.trials[0].values, TUNED)
    return {**params, "training": params["training"] | fields}, {**inputs, CHOICE: choice.artifact}


def resolve_choice(study: "Study", tuning: Tuning, model: str, entry: Entry, arm: Arm) -> Choice:
    """Return the choice between the trials of a model, method and arm.

    Raises:
        UserError: a tuned setting is also set elsewhere, a value does not fit, or trials would see what the study evaluates.
    """
    where = f"{study.where}: tune"
    candidates = list_candidates(tuning, entry.name, where=where)
    _refuse_second_value(study, model, entry, arm, candidates[0], where=where)
    trials = [
        _resolve_trial(study, tuning, model, entry, arm, values, number)
        for number, values in enumerate(candidates, start=1)
    ]
    params: dict[str, Any] = {"rule": tuning.rule, "candidates": candidates}
    inputs = {f"trial {number}": trial.adapter for number, trial in enumerate(trials, start=1)}
    for number, trial in enumerate(trials, start=1):
        if trial.results:
            inputs[f"scores {number}"] = trial.results.scores
    artifact = Artifact("choose", f"{model}/{entry.name}/{arm.training_set}/", params, inputs)
    _refuse_test_rows(study, artifact)
    # two methods that are one on some architecture share their trials and their choice
    artifact = study.share(("choose", artifact.fingerprint), lambda: artifact)
    return Choice(model, entry.name, arm.name, trials, artifact)


def _resolve_trial(
    study: "Study",
    tuning: Tuning,
    model: str,
    entry: Entry,
    arm: Arm,
    values: Mapping[str, Setting],
    number: int,
) -> Trial:
    settings: dict[str, Any] = {**values, "max_steps": tuning.max_steps}
    if tuning.validation.held_out:
        settings["val_set_size"] = tuning.validation.held_out
    params = resolve_adapter_params(
        study.card, model, entry, arm, tuning.seed, where=study.where, tuned=TrainingOverlay(**settings)
    )
    warmup = params["training"]["warmup_steps"]
    if warmup >= tuning.max_steps:
        raise UserError(
            f"{study.where}: tune: max_steps: a trial of '{entry.name}' would end within its {warmup} warmup_steps (got "
            f"{tuning.max_steps}); use more steps"
        )
    # a trial may diverge, which fails no job: its adapter is another artifact than a training's
    params["role"] = "trial"
    base = study.base(model)
    adapter = study.share_adapter(
        f"{model}/{entry.name}/{arm.training_set}/seed{tuning.seed}/",
        params,
        {"base": base, "prompts": study.training_prompts(arm)},
    )
    name = f"{study.name_of(model, entry, arm)}/trial{number}"
    run = Run(name, model, base, (arm,), entry, tuning.seed, adapter)
    results = _resolve_scores(study, tuning, run, arm) if tuning.rule == "accuracy" else None
    return Trial(values, run, adapter, results)


def _resolve_scores(study: "Study", tuning: Tuning, run: Run, arm: Arm) -> RunResults:
    """Return the results of a trial on the validation split of the arm's tasks, each under the first protocol that covers it."""
    tasks = []
    for name in arm.tasks:
        protocol = next(name for name in study.protocols_of(name) if not is_second_stage(name))
        card: Protocol = read_card("protocols", protocol)
        shots = Shots(card.shots, card.shots_split, card.shots_seed) if card.shots else None
        prompts = study.prompts(
            name,
            str(tuning.validation.split),
            template=card.template,
            limit=tuning.validation.limit,
            shots=shots,
        )
        tasks.append(resolve_task(study, run, name, protocol, {}, prompts=prompts))
    return resolve_results(run, tasks)


def _refuse_second_value(
    study: "Study", model: str, entry: Entry, arm: Arm, fields: Mapping[str, Setting], *, where: str
) -> None:
    """Refuse a tuned setting that the study also sets: the reader of its file would take that for the setting in use."""
    layers = {
        "training": study.card.training,
        f"arms.{arm.name}: training": arm.training,
        f"arms.{arm.name}: training_by_model": arm.training_by_model.get(model, TrainingOverlay()),
        f"methods.{entry.name}: training": entry.training,
    }
    for place, layer in layers.items():
        for field in fields:
            if field in layer.model_fields_set:
                raise UserError(
                    f"{where}: {field} is tuned for '{entry.name}', and {place} sets it too; leave one of them out"
                )
    if study.card.figure and (axes := [field for field in fields if field in study.card.figure.x]):
        raise UserError(
            f"{where}: {axes[0]} is tuned, so it cannot be an axis of the figure; leave one of them out"
        )


def _list_raw(artifacts: Iterable[Artifact]) -> list[Artifact]:
    """Return the raw rows that artifacts are made from, each once."""
    raw: dict[str, Artifact] = {}
    visited: set[str] = set()

    def visit(artifact: Artifact) -> None:
        if artifact.fingerprint in visited:
            return
        visited.add(artifact.fingerprint)
        if artifact.stage == "fetch":
            raw[artifact.fingerprint] = artifact
        for name, source in artifact.inputs.items():
            # a cleaned training set is made with test rows, and without them
            if not name.startswith("without "):
                visit(source)

    for artifact in artifacts:
        visit(artifact)
    return list(raw.values())


def _refuse_test_rows(study: "Study", choice: Artifact) -> None:
    """Refuse trials that reach the rows of the study's own evaluation, under whatever name.

    A split may be a copy of another one: rows of one checksum are the same rows.
    """
    evaluated = _list_raw(
        study.task_prompts(task, study.protocols_of(task)[0], bare=True) for task in study.task_names
    )
    tests = {artifact.fingerprint: artifact for artifact in evaluated}
    sums = {artifact.params["sum"]: artifact for artifact in tests.values() if "sum" in artifact.params}
    for artifact in _list_raw([choice]):
        test = tests.get(artifact.fingerprint) or sums.get(artifact.params.get("sum"))
        if test:
            raise UserError(
                f"{study.where}: tune: trials would see {artifact.label.rstrip('-')}, the rows of {test.label.rstrip('-')} that "
                "the study evaluates; use another validation split or training set"
            )
