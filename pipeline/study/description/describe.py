"""A resolved study as the plain values and paths of its description."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from pipeline.params.datasets import Dataset
from pipeline.params.models import Model, PretrainedModel
from pipeline.params.reading import PARAMS, read_card
from pipeline.params.resolve import answer_form_of
from pipeline.params.studies import Arm, Entry
from pipeline.params.tuning.cards import Tuning
from pipeline.study.artifacts import Artifact
from pipeline.study.description import (
    FEW_SEEDS,
    ArmDescription,
    ChoiceDescription,
    FigureDescription,
    MethodDescription,
    ModelDescription,
    PointDescription,
    ReferenceDescription,
    RunDescription,
    SourceDescription,
    SourceRole,
    StudyDescription,
    TaskDescription,
    TextDescription,
    TuningDescription,
)
from pipeline.study.distillation.description import describe_distilled
from pipeline.study.distillation.teacher import list_distilled_sets
from pipeline.study.followups.match import describe_followup
from pipeline.study.references import ReferenceRun
from pipeline.study.run import Run, Text

if TYPE_CHECKING:
    # the grid describes itself for the identity of its report
    from pipeline.study.grid import Study


def describe_study(study: "Study") -> StudyDescription:
    """Return what the report reads of a study."""
    card = study.card
    return StudyDescription(
        name=study.name,
        title=card.title,
        description=card.description,
        arms=[_describe_arm(study, arm) for arm in card.arms],
        models=[ModelDescription(name, read_card("models", name).name) for name in card.models],
        methods=[_describe_method(entry, is_tuned=card.tune is not None) for entry in card.methods],
        seeds=card.seeds,
        protocols=card.protocols,
        headline=study.headline,
        protocol_cards={name: read_card("protocols", name) for name in card.protocols},
        runs=[_describe_run(study, run) for run in study.runs],
        audits=list(dict.fromkeys(study.audit(arm).path for arm in study.audited_arms)),
        figure=_describe_figure(study),
        published=read_card("published", card.published) if card.published else None,
        seed_variance=card.seed_variance or ("pooled" if len(card.seeds) < FEW_SEEDS else "own"),
        texts=[
            TextDescription(
                text.name, read_card("datasets", text.dataset).title, answer_form_of(text.dataset)
            )
            for text in _list_texts(study)
        ],
        sources=_describe_sources(study),
        references=[_describe_reference(reference) for reference in study.references],
        published_titles=_list_published_titles(card.published)
        if card.published and study.references
        else {},
        distilled=[
            describe_distilled(
                name, distilled, methods={entry.name: _title_of(entry) for entry in card.methods}
            )
            for name, distilled in list_distilled_sets(study).items()
        ],
        seed_count=study.seed_count,
        tuning=_describe_tuning(study, card.tune) if card.tune else None,
        followups=[describe_followup(study, name) for name in card.followups],
    )


def resolve_report(study: "Study", artifacts: Sequence[Artifact]) -> Artifact:
    """Return the artifact of a study's report.

    Args:
        study: the report is of.
        artifacts: all others of the study.
    """
    # the choice has the scores of its trials
    trials = {trial.results.scores.path for trial in study.trials if trial.results}
    scores = [part for part in artifacts if part.stage == "score" and part.path not in trials]
    others = [part for stage in ("choose", "audit") for part in artifacts if part.stage == stage]
    likelihoods = [part for run in study.runs if (part := study.results(run).text_likelihoods)]
    read = [*scores, *others, *likelihoods, *list_distilled_sets(study).values()]
    # titles, the order of rows and much else in the report are in none of its inputs
    params = describe_report(study)
    return Artifact("report", f"{study.name}/manifest-", params, {str(part.path): part for part in read})


def describe_report(study: "Study") -> dict[str, Any]:
    """Return what the report reads of a study as JSON values: all of it is part of the report's identity."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(describe_study(study)), default=_as_json))
    for run in plain["runs"]:
        # fields that were added later: reports without them keep their names
        for key in ("second_answers", "text_likelihoods"):
            if run[key] is None:
                del run[key]
        if not run["combined_sets"]:
            del run["combined_sets"], run["combined_audits"]
    for key in ("texts", "distilled", "followups"):
        if not plain[key]:
            del plain[key]
    if any(text["answer_form"] == "passage" for text in plain.get("texts", [])) and study.card.bare:
        # the page of such a study offers a further cost than it did at first; all other reports keep their names
        plain["costs"] = ["forgetting"]
    for key in ("seed_count", "tuning"):
        if plain[key] is None:
            del plain[key]
    if not plain["references"]:
        # as above
        del plain["references"], plain["published_titles"]
    if "distilled" not in plain:
        # only the comparison of filters reads it
        for arm in plain["arms"]:
            del arm["recipe"]
    for task in (task for arm in plain["arms"] for task in arm["tasks"]):
        # only the table of likelihoods reads it
        cards = [read_card("protocols", name) for name in task["protocols"]]
        if task["normalisation"] is None or all(card.parser != "likelihood" for card in cards):
            del task["normalisation"]
    return plain


def _as_json(value: object) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)


def _describe_arm(study: "Study", arm: Arm) -> ArmDescription:
    tasks = [describe_task(study, task) for task in arm.tasks]
    # where nothing is trained, nothing is audited
    audit = study.audit(arm).path if arm in study.audited_arms else Path()
    recipe = json.dumps(
        arm.model_dump(include={"training", "training_by_model", "limit"}, mode="json"), sort_keys=True
    )
    return ArmDescription(arm.name, arm.training_set, audit, tasks, recipe)


def describe_task(study: "Study", name: str) -> TaskDescription:
    """Return a task of a study with its protocols and prompts."""
    protocols = study.protocols_of(name)
    prompts = {protocol: study.task_prompts(name, protocol).path for protocol in protocols}
    card: Dataset = read_card("datasets", name)
    is_field = card.clusters is not None and card.clusters.field is not None
    return TaskDescription(
        name,
        card.title,
        answer_form_of(name),
        protocols,
        prompts,
        clusters=card.clusters,
        normalisation=card.normalisation,
        raw=study.raw(name, study.card.split).path if is_field else None,
    )


def _describe_sources(study: "Study") -> list[SourceDescription]:
    sources = [_describe_model_source(name) for name in study.card.models]
    training_sets = dict.fromkeys(arm.training_set for arm in study.card.arms if arm.training_set)
    sources += [_describe_dataset_source(name, "training set") for name in training_sets]
    sources += [_describe_dataset_source(name, "task") for name in study.task_names]
    texts = dict.fromkeys(text.dataset for text in _list_texts(study))
    return sources + [_describe_dataset_source(name, "text") for name in texts]


def _list_texts(study: "Study") -> Sequence[Text]:
    # all runs have the same
    return study.results(study.runs[0]).texts if study.runs else []


def _describe_model_source(name: str) -> SourceDescription:
    card: Model = read_card("models", name)
    if isinstance(card, PretrainedModel):
        return SourceDescription(name, card.name, "base model", "", card.source, made_here=True)
    return SourceDescription(name, card.name, "base model", card.licence, card.source, made_here=False)


def _describe_dataset_source(name: str, role: SourceRole) -> SourceDescription:
    card: Dataset = read_card("datasets", name)
    return SourceDescription(
        name, card.title, role, card.licence, card.citation, made_here=_is_made_here(card)
    )


def _is_made_here(card: Dataset) -> bool:
    parts: list[Dataset] = [read_card("datasets", part) for part in card.parts]
    if card.distilled:
        parts = [read_card("datasets", source.dataset) for source in card.distilled.sources]
        if not isinstance(read_card("models", card.distilled.teacher.model), PretrainedModel):
            return False
    own = [source.kind == "world" for split in card.splits.values() for source in split.sources]
    return bool(own or parts) and all(own) and all(map(_is_made_here, parts))


def _describe_tuning(study: "Study", tuning: Tuning) -> TuningDescription:
    chosen = tuning.validation
    validation = f"{chosen.held_out} training examples that no trial trains on"
    if chosen.split:
        number = f"{chosen.limit} examples of each task" if chosen.limit else "all examples of the tasks"
        validation = f"{number}, split {chosen.split}"
    return TuningDescription(
        rule=tuning.rule,
        trials=tuning.trials,
        max_steps=tuning.max_steps,
        seed=tuning.seed,
        validation=validation,
        choices=[
            ChoiceDescription(choice.model, choice.method, choice.arm, choice.artifact.path)
            for choice in study.choices
        ],
    )


def _title_of(entry: Entry) -> str:
    return entry.label or str(read_card("methods", entry.method).name)


def _describe_method(entry: Entry, *, is_tuned: bool) -> MethodDescription:
    return MethodDescription(
        name=entry.name,
        title=_title_of(entry),
        card=entry.method,
        as_card=entry.has_card_settings and not is_tuned,
    )


def _describe_run(study: "Study", run: Run) -> RunDescription:
    results = study.results(run)
    answers, second, texts = results.answers, results.second_answers, results.text_likelihoods
    return RunDescription(
        model=run.model,
        method=run.method,
        training_set=run.training_set,
        arm=run.arms[0].name if run.adapter else None,
        seed=run.seed,
        # as in MLflow: a bare base has no adapter, so its answers identify the run
        fingerprint=(run.adapter or answers).fingerprint,
        adapter=run.adapter.path if run.adapter else None,
        answers=answers.path,
        scores=results.scores.path,
        second_answers=second.path if second else None,
        text_likelihoods=texts.path if texts else None,
        combined_sets=run.training_sets if run.members else (),
        combined_audits=list(dict.fromkeys(study.audit(member.arms[0]).path for member in run.members)),
    )


def _describe_reference(reference: ReferenceRun) -> ReferenceDescription:
    protocols: dict[str, list[str]] = {}
    for task in reference.tasks:
        protocols.setdefault(task.task, []).append(task.protocol.name)
    published = reference.card.published
    return ReferenceDescription(
        name=reference.name,
        card=reference.card,
        protocols=protocols,
        answers=reference.answers.path,
        scores=reference.scores.path,
        published=read_card("published", published.card) if published else None,
    )


def _list_published_titles(name: str) -> dict[str, str]:
    """Return the titles of the models and methods that a publication's rows have cards of."""
    rows = [row for table in read_card("published", name).tables for row in table.rows if row.method]
    methods = {row.method: read_card("methods", row.method).name for row in rows}
    # a model that has no card keeps the name that the publication gives it
    cards = {row.model for row in rows if (PARAMS / "models" / f"{row.model}.yaml").is_file()}
    return methods | {model: read_card("models", model).name for model in sorted(cards)}


def _describe_figure(study: "Study") -> FigureDescription | None:
    figure = study.card.figure
    if figure is None:
        return None
    points = [
        PointDescription(**asdict(point), line=read_card("methods", point.card).name)
        for point in study.points
    ]
    return FigureDescription(figure.title, figure.x, points)
