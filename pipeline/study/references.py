"""Answers made elsewhere as artifacts of a study: their files, the answers to our examples, and their scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.core.errors import UserError
from pipeline.params.protocols import Protocol
from pipeline.params.published.cards import Published
from pipeline.params.published.references import Reference
from pipeline.params.reading import read_card
from pipeline.params.resolve import answer_form_of
from pipeline.params.studies import ReferenceEntry
from pipeline.study.artifacts import Artifact
from pipeline.study.run import Task

if TYPE_CHECKING:
    from pipeline.study.grid import Study

# The first folder of a reference's artifacts, where a model's have the model.
FOLDER = "references"
# the reading that the authors of the answers stored, beside those of the protocols
STORED = "stored"
# raised when the same rows are tied to other examples
TYING_VERSION = 1
# raised when the same stored readings get other scores
STORED_VERSION = 1


@dataclass(frozen=True)
class ReferenceRun:
    """A reference in a study: who answered, and the artifacts of the answers.

    Attributes:
        name: of the card.
        card: params/references/NAME.yaml.
        raw: task -> the rows of its source.
        tasks: of the study that it has answers to, each under each protocol that reads generated text.
        answers: those to our examples; a file TASK.jsonl for each task, and ties.json.
        scores: of the answers.
    """

    name: str
    card: Reference
    raw: dict[str, Artifact]
    tasks: list[Task]
    answers: Artifact
    scores: Artifact

    @property
    def task_names(self) -> list[str]:
        """The tasks, each once."""
        return list(dict.fromkeys(task.task for task in self.tasks))

    def example_prompts(self, task: str) -> Artifact:
        """Return the file with the examples of a task."""
        return next(each.prompts for each in self.tasks if each.task == task)


def resolve_references(study: "Study") -> list[ReferenceRun]:
    """Return the references of a study.

    Raises:
        UserError: a card is wrong, has answers to no task of the study, or refers to nothing.
    """
    return [_resolve_reference(study, entry) for entry in study.card.references]


def _resolve_reference(study: "Study", entry: ReferenceEntry) -> ReferenceRun:
    name = entry.reference
    try:
        card: Reference = read_card("references", name)
    except UserError as error:
        raise UserError(f"{study.where}: references: {error}") from None
    _check_published(card, where=f"params/references/{name}.yaml: published")
    for dataset in card.answers:
        try:
            answer_form_of(dataset)
        except UserError as error:
            raise UserError(f"params/references/{name}.yaml: answers: {error}") from None
    for task in entry.tasks or []:
        if task not in card.answers or task not in study.task_names:
            holder = "the card has no answers to it" if task in study.task_names else "no arm has it"
            raise UserError(f"{study.where}: references.{name}: tasks: '{task}': {holder}")
    names = [task for task in study.task_names if task in (entry.tasks or card.answers)]
    if not names:
        raise UserError(
            f"{study.where}: references: '{name}' has no answers to a task of the study (it has: {', '.join(card.answers)})"
        )
    tasks = [
        _resolve_task(study, task, protocol)
        for task in names
        for protocol in list_readers(study.protocols_of(task))
    ]
    if {task.task for task in tasks} != set(names):
        uncovered = next(task for task in names if task not in {each.task for each in tasks})
        raise UserError(
            f"{study.where}: references: no protocol parses the generated texts of '{name}' on '{uncovered}'; list a protocol such as strict"
        )
    raw = {task: _resolve_raw(name, task, card) for task in names}
    return _resolve_artifacts(name, card, raw, tasks)


def list_readers(protocols: Sequence[str]) -> list[str]:
    """Return the protocols that parse a single generated text: no likelihoods, second stages or votes."""
    cards: list[Protocol] = [read_card("protocols", name) for name in protocols]
    return [
        card.name
        for card in cards
        if card.parser != "likelihood" and card.first_stage is None and card.sampling is None
    ]


def _resolve_task(study: "Study", task: str, protocol: str) -> Task:
    # The examples are those of the study's runs. Nothing is decoded, and the artifact of the answers has the fingerprint.
    prompts = study.task_prompts(task, protocol)
    card: Protocol = read_card("protocols", protocol)
    return Task(f"{task}-{protocol}", task, card, answer_form_of(task), prompts, {}, "")


def _resolve_raw(name: str, task: str, card: Reference) -> Artifact:
    file = card.answers[task]
    checksum = file.sha256 or next((source.git_blob for source in file.sources if source.git_blob), None)
    identity: dict[str, object] = {"reference": name, "task": task}
    if checksum:
        identity["sum"] = checksum
    else:
        identity["sources"] = [source.model_dump() for source in file.sources]
    return Artifact("fetch", f"{FOLDER}/{name}/{task}-", identity)


def _resolve_artifacts(
    name: str, card: Reference, raw: dict[str, Artifact], tasks: list[Task]
) -> ReferenceRun:
    label = f"{FOLDER}/{name}/"
    examples = {task.task: task.prompts for task in reversed(tasks)}
    malformed = {task: file.known_malformed for task, file in card.answers.items() if file.known_malformed}
    answers = Artifact(
        "generate",
        label,
        {
            "format": card.format.model_dump(exclude_defaults=True),
            "tying": {"version": TYING_VERSION, **({"known_malformed": malformed} if malformed else {})},
        },
        {f"rows of {task}": rows for task, rows in raw.items()} | examples,
    )
    rules: dict[str, dict[str, str | int]] = {task.name: task.scoring for task in tasks}
    if card.format.has_stored_reading:
        rules |= {f"{task}-{STORED}": {"parser": STORED, "version": STORED_VERSION} for task in raw}
    scores = Artifact(
        "score", label, rules, {"answers": answers} | {task.name: task.prompts for task in tasks}
    )
    return ReferenceRun(name, card, raw, tasks, answers, scores)


def _check_published(card: Reference, *, where: str) -> None:
    if card.published is None:
        return
    try:
        published: Published = read_card("published", card.published.card)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    models = {row.model for table in published.tables for row in table.rows if row.method is None}
    if card.published.model not in models:
        choices = ", ".join(sorted(models))
        raise UserError(
            f"{where}: model: no row '{card.published.model}' without a method (choices: {choices})"
        )


def find_reference(references: Sequence[ReferenceRun], fingerprint: str) -> ReferenceRun | None:
    """Return the reference whose answers or scores have a fingerprint; None if it is of a run of the study."""
    return next(
        (
            reference
            for reference in references
            if fingerprint in (reference.answers.fingerprint, reference.scores.fingerprint)
        ),
        None,
    )
