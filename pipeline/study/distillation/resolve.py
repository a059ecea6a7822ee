"""Distilled training sets as artifacts: the answers of a teacher to each source, and the set that is left of them."""

from collections.abc import Callable
from typing import NamedTuple

from pipeline.core.errors import UserError
from pipeline.params.datasets import Dataset, Distillation
from pipeline.params.models import check_chat_template
from pipeline.params.protocols import Decoding, Protocol
from pipeline.params.reading import read_card
from pipeline.params.templates import CHAT
from pipeline.study.artifacts import Artifact
from pipeline.study.datasets import TRAIN, PromptChoice, list_answer_forms, list_malformed_rows
from pipeline.study.evaluation.resolve import endpoint_decoding

# the files of a distilled set: its rows, what became of each answer, and the rows that contain test questions
ROWS, YIELD, LEFT_OUT = f"{TRAIN}.jsonl", "yield.json", "left_out.json"
# the first folders of the two kinds of artifacts
ANSWERS, SETS = "answers", "sets"
# raised when the same answers of a teacher lead to other rows
SELECTION_VERSION = 1


class TeacherModel(NamedTuple):
    """The model that answers: its name in paths, its base and its adapter, if it has one."""

    label: str
    base: Artifact
    adapter: Artifact | None


def resolve_distilled(
    dataset: str,
    split: str,
    *,
    teacher: TeacherModel,
    prompts: Callable[[PromptChoice], Artifact],
    raw: Callable[[str, str], Artifact],
) -> Artifact:
    """Return a distilled training set: what is left of a teacher's answers.

    The answers to each source are an artifact of their own, so that another filter, parser or source asks nothing twice.

    Args:
        dataset: a card with ``distilled``.
        split: must be "train", the only one.
        teacher: that the card names.
        prompts: returns the prompts of a choice.
        raw: returns the raw rows of a dataset and split.

    Raises:
        UserError: another split, a prompt that the teacher cannot get, a source without training rows, or a protocol that
            reads no text.
    """
    card: Dataset = read_card("datasets", dataset)
    settings, where = card.distilled, f"params/datasets/{dataset}.yaml"
    assert settings
    if split != TRAIN:
        raise UserError(f"{where}: no split '{split}' (it has: {TRAIN})")
    judge = _read_judge(settings.protocol, where=f"{where}: distilled.protocol")
    _check_prompt(settings.prompt, teacher, where=where)
    inputs: dict[str, Artifact] = {}
    for source in settings.sources:
        name = source.dataset
        _check_source(name, where=f"{where}: distilled.sources")
        choice = PromptChoice(name, TRAIN, settings.prompt, source.limit, settings.seed, None)
        questions = prompts(choice)
        inputs[f"questions of {name}"] = questions
        inputs[f"answers to {name}"] = _resolve_answers(settings, name, questions, teacher)
    tests = dict.fromkeys(card.without, "test")
    inputs |= {f"without {test}": raw(test, "test") for test in tests}
    params = {
        "version": SELECTION_VERSION,
        "split": TRAIN,
        "sources": [source.dataset for source in settings.sources],
        "filter": settings.filter,
        "parser": judge.parser,
        "parser_version": judge.version,
        "without": {
            "method": card.method,
            "answer_forms": list_answer_forms(tests),
            **list_malformed_rows(tests),
        },
    }
    return Artifact("distill", f"{SETS}/{dataset}/", params, inputs)


def _resolve_answers(
    settings: Distillation, source: str, questions: Artifact, teacher: TeacherModel
) -> Artifact:
    decoding: Decoding = {
        "template": settings.prompt,
        "num_beams": 1,
        "max_new_tokens": settings.max_new_tokens,
    }
    if settings.temperature:
        decoding |= {
            "temperature": settings.temperature,
            "samples": settings.samples,
            "sampling_seed": settings.seed,
        }
        decoding |= {"top_p": settings.top_p} if settings.top_p is not None else {}
    card = read_card("models", teacher.base.path.parent.name)
    if card.kind == "endpoint":
        decoding = endpoint_decoding(decoding, card)
        # without a temperature of their own, requests have that of the model's card
        if not settings.temperature and card.temperature != 0.0:
            decoding["temperature"] = 0.0
    elif settings.dtype != "float32":
        decoding |= {"dtype": settings.dtype, "weights": settings.dtype}
    # as in evaluation: an adapter answers on the base that it was trained on
    if teacher.adapter and (quantization := teacher.adapter.params["training"].get("quantization")):
        decoding["quantization"] = quantization
    model = {"base": teacher.base} | ({"adapter": teacher.adapter} if teacher.adapter else {})
    label = f"{ANSWERS}/{teacher.label}/{source}/"
    # keyed by the file of the answers, as those of the stage generate are
    return Artifact("distill", label, {source: decoding}, {**model, "questions": questions})


def _read_judge(protocol: str, *, where: str) -> Protocol:
    try:
        card: Protocol = read_card("protocols", protocol)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    if card.parser == "likelihood" or card.first_stage:
        raise UserError(
            f"{where}: '{protocol}' does not parse a single generated text; use a protocol such as strict"
        )
    return card


def _check_prompt(prompt: str, teacher: TeacherModel, *, where: str) -> None:
    """Refuse the template "chat" for a teacher that has no chat template."""
    name = teacher.base.path.parent.name
    card = read_card("models", name)
    check_chat_template({name: card}, {"distilled.prompt": prompt}, where=where)
    if prompt == CHAT and card.kind == "endpoint" and card.api != "chat":
        raise UserError(
            f"{where}: distilled.prompt: '{CHAT}' needs a teacher with api: chat, and the card of '{name}' has api: {card.api}; "
            "use another template or api"
        )


def _check_source(name: str, *, where: str) -> None:
    """Refuse a source that has no training questions with gold labels of its own."""
    try:
        card: Dataset = read_card("datasets", name)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    obstacle = ""
    if card.distilled:
        obstacle = "is distilled itself"
    elif card.parts:
        obstacle = f"is a mixture; list its parts ({', '.join(card.parts)})"
    elif TRAIN not in card.splits:
        obstacle = f"has no split '{TRAIN}' (it has: {', '.join(card.splits) or 'none'})"
    elif card.answer_form in (None, "text", "passage"):
        obstacle = "has no gold labels, which judge the answers"
    if obstacle:
        raise UserError(f"{where}: '{name}' {obstacle}")
