"""The tasks and texts that a model of a study is evaluated on, and the artifacts of its answers and scores."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

from pipeline.params.base import AnswerForm
from pipeline.params.endpoints.cards import EndpointModel
from pipeline.params.protocols import Decoding, Protocol
from pipeline.params.reading import read_card
from pipeline.params.resolve import answer_form_of, resolve_precision
from pipeline.study.artifacts import Artifact, compute_fingerprint
from pipeline.study.run import SECOND_STAGE, TEXTS, Run, RunResults, Task, Text, is_second_stage
from pipeline.study.stages import STAGES

if TYPE_CHECKING:
    from pipeline.study.grid import Study


def resolve_evaluation(study: "Study", runs: Sequence[Run]) -> RunResults:
    """Return the results of one model on the tasks of all its arms, and on the study's texts.

    Args:
        study: with the runs.
        runs: all that share the model.
    """
    run = runs[0]
    names = dict.fromkeys(task for sharer in runs for arm in sharer.arms for task in arm.tasks)
    tasks: dict[str, Task] = {}
    for name in names:
        # a second stage follows the protocol whose answers it completes
        for protocol in sorted(study.protocols_of(name), key=is_second_stage):
            tasks[f"{name}-{protocol}"] = resolve_task(study, run, name, protocol, tasks)
    return resolve_results(run, list(tasks.values()), _resolve_texts(study, run))


def resolve_task(
    study: "Study",
    run: Run,
    task: str,
    protocol_name: str,
    others: Mapping[str, Task],
    *,
    prompts: Artifact | None = None,
) -> Task:
    """Return a task of a run under a protocol.

    Args:
        study: of the run.
        run: that is evaluated.
        task: the dataset.
        protocol_name: of its card.
        others: the run's tasks so far, by TASK-PROTOCOL.
        prompts: None: those of the study's evaluation.
    """
    form = answer_form_of(task)
    protocol: Protocol = read_card("protocols", protocol_name)
    first = others[f"{task}-{protocol.first_stage}"] if protocol.first_stage else None
    prompts = prompts or study.task_prompts(task, protocol_name)
    decoding = _resolve_decoding(study, run, protocol, form)
    if first:
        decoding |= {"first_parser": first.protocol.parser, "first_version": first.protocol.version}
    fingerprint = _identify_answers(run, prompts, decoding, first)
    return Task(f"{task}-{protocol_name}", task, protocol, form, prompts, decoding, fingerprint, first)


def _resolve_decoding(study: "Study", run: Run, protocol: Protocol, form: AnswerForm) -> Decoding:
    """Return how a run generates answers of a form, apart from what a second stage adds."""
    decoding = protocol.decoding(form, max_new_tokens=study.card.max_new_tokens)
    model = read_card("models", run.model)
    if model.kind == "endpoint":
        decoding = endpoint_decoding(decoding, model)
    else:
        decoding |= resolve_precision(study.card, run.training_params, where=study.where)
    if study.card.merge_adapter and run.adapter:
        decoding["merge_adapter"] = True
    return decoding


def _identify_answers(run: Run, prompts: Artifact, decoding: Decoding, first: Task | None = None) -> str:
    """Return the fingerprint of answers to one dataset alone: a study that gains a task keeps the answers to the others."""
    parts: list[object] = [run.evaluated_model.fingerprint, prompts.fingerprint, decoding]
    # Version 1 is left out: its answers had their fingerprints before the version was part of them.
    if STAGES["generate"].version > 1:
        parts.append(STAGES["generate"].version)
    if first:
        parts.append(first.fingerprint)
    return compute_fingerprint(parts)


def endpoint_decoding(decoding: Decoding, card: EndpointModel) -> Decoding:
    """Return how a model behind an endpoint generates answers: without beams, with its card's limit in place of the protocol's."""
    settings = cast(Decoding, {key: value for key, value in decoding.items() if key != "num_beams"})
    if card.max_tokens and "max_new_tokens" in decoding:
        settings["max_new_tokens"] = card.max_tokens
    return settings


def _resolve_texts(study: "Study", run: Run) -> list[Text]:
    """Return the study's datasets of texts, as the model of a run is measured on them."""
    if (texts := study.card.texts) is None:
        return []
    precision = resolve_precision(study.card, run.training_params, where=study.where)
    decoding: Decoding = {"window": texts.window, **precision}
    resolved = []
    for dataset in texts.datasets:
        prompts = study.text_prompts(dataset)
        fingerprint = _identify_answers(run, prompts, decoding)
        resolved.append(Text(f"{dataset}-nats", dataset, prompts, decoding, fingerprint))
    return resolved


def resolve_results(run: Run, tasks: list[Task], texts: Sequence[Text] = ()) -> RunResults:
    """Return the results of a run on its tasks and texts.

    The answers of second stages are separate artifacts, made from the first answers: a new parser may change which of them
    are prompted again, and never the first answers.
    """
    model = {"base": run.base} | ({"adapter": run.adapter} if run.adapter else {})

    def resolve_answers(label: str, chosen: Sequence[Task | Text], sources: dict[str, Artifact]) -> Artifact:
        decodings = {task.name: task.decoding for task in chosen}
        prompts = {task.name: task.prompts for task in chosen}
        return Artifact("generate", label, decodings, sources | prompts)

    answers = resolve_answers(run.label, [task for task in tasks if not task.first], model)
    later = [task for task in tasks if task.first]
    second = (
        resolve_answers(f"{run.label}{SECOND_STAGE}/", later, {"answers": answers, **model})
        if later
        else None
    )
    sources = {"answers": answers} | ({"second answers": second} if second else {})
    rules = {task.name: task.scoring for task in tasks}
    scores = Artifact("score", run.label, rules, sources | {task.name: task.prompts for task in tasks})
    likelihoods = resolve_answers(f"{run.label}{TEXTS}/", texts, model) if texts else None
    return RunResults(tasks, answers, second, scores, texts, likelihoods)
