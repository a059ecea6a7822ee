"""The references of a study for `compare`: their names, and a run beside answers made elsewhere."""

import shlex
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from pipeline.commands.compare.pairs import RunComparison, Side, compare_sides
from pipeline.core.errors import UserError, list_choices
from pipeline.core.io import read_json, read_jsonl
from pipeline.evaluate.scoring.rows import ScoreFile
from pipeline.study import Study, load_study
from pipeline.study.find import find_run, list_cards, make_command
from pipeline.study.followups.rows import RowReference, list_publications, list_row_references
from pipeline.study.references import STORED, ReferenceRun
from pipeline.study.run import Run

# references that a message lists: with a similar name, or without one
NEAREST, LISTED = 3, 8


def find_reference(name: str, study: Study) -> ReferenceRun | RowReference | None:
    """Return the reference of a study that a name refers to; None: it may be the name of a run.

    Args:
        name: a card of params/references/ that the study lists; or a row of a publication that it names, CARD/MODEL/METHOD,
            or CARD/MODEL for a model without an adapter.
        study: of the run.

    Raises:
        UserError: the publication has no such row; the message lists its rows.
    """
    for reference in study.references:
        if reference.name == name:
            return reference
    rows = list_row_references(study)
    if name in rows:
        return rows[name]
    card = name.partition("/")[0]
    if card in list_publications(study):
        choices = [each for each in rows if each.startswith(f"{card}/")]
        raise UserError(f"params/published/{card}.yaml: no row '{name}' {list_choices(name, choices)}")
    return None


def find_first_run(name: str, second: str, study_name: str | None) -> tuple[Study, Run]:
    """Return the run that the first name of a comparison refers to.

    Args:
        name: of a run.
        second: the other name, for a message.
        study_name: of the option --study.

    Raises:
        UserError: there is no such run or study; if it is a reference, the message has the command in the right order.
    """
    try:
        return find_run(name, study_name)
    except UserError:
        if _card_folder(name) is None:
            raise
    # an unknown study is the first thing to correct
    load_study(study_name)
    if _card_folder(second):
        run, problem = "RUN", f"'{name}' and '{second}' are references; compare a run with one of them"
    else:
        run, problem = second, f"'{name}' is a reference, which comes second"
    options = ["--study", study_name] if study_name else []
    raise UserError(f"{problem}: python -m pipeline compare {shlex.join([run, name, *options])}")


def find_second_run(name: str, study_name: str | None, study: Study) -> tuple[Study, Run]:
    """Return the run that the second name of a comparison refers to.

    Args:
        name: of a run.
        study_name: of the option --study.
        study: of the first run, whose references a message lists.

    Raises:
        UserError: there is no such run, and the study no such reference.
    """
    try:
        return find_run(name, study_name)
    except UserError as error:
        folder, card = _card_folder(name), name.partition("/")[0]
        if folder is None:
            raise UserError(f"{error}; {_list_references(name, study)}") from None
        refusal, key = {
            "references": (f"does not list the reference '{card}'", "references"),
            "published": (f"does not name the publication '{card}'", "followups"),
        }[folder]
        raise UserError(
            f"study '{study.name}' {refusal}; add it to `{key}` in params/study/{study.name}.yaml, or name a study that "
            "has it: --study NAME"
        ) from None


def _card_folder(name: str) -> str | None:
    """Return the folder of params/ that has the card of a reference; None: ``name`` is not the name of one."""
    if name in list_cards("references"):
        return "references"
    return "published" if name.partition("/")[0] in list_cards("published") else None


def _list_references(name: str, study: Study) -> str:
    """Return the references of a study in words: those with a name like ``name``, or the first ones."""
    names = [*(reference.name for reference in study.references), *list_row_references(study)]
    if not names:
        return f"study '{study.name}' has no references"
    near = get_close_matches(name, names, n=NEAREST, cutoff=0.5)
    listed = ", ".join(near or names[:LISTED])
    unlisted = 0 if near else len(names) - LISTED
    return f"references of study '{study.name}': {listed}" + (f" and {unlisted} more" if unlisted > 0 else "")


def compare_reference(
    side: Side,
    study: Study,
    run: Run,
    reference: ReferenceRun,
    *,
    task: str | None = None,
    protocol: str | None = None,
) -> RunComparison:
    """Return how a run differs from answers made elsewhere that the same parser reads, on the examples that both have.

    Args:
        side: the run.
        study: of the run.
        run: to compare.
        reference: the answers.
        task: only this task; None: all.
        protocol: only this protocol; None: all.

    Raises:
        UserError: the reference is not scored yet, or has no task or example in common with the run.
    """
    # it loads the rules that compare questions, which other commands do not need
    from pipeline.results.scores.clusters import find_clusters

    other = _read_reference(study, reference)
    comparison = compare_sides(
        side, other, clusters=find_clusters(study, run), task=task, protocol=protocol, is_partial=True
    )
    comparison["notes"] = [_describe_answers(reference), *_list_missing(side, comparison)]
    return comparison


def _read_reference(study: Study, reference: ReferenceRun) -> Side:
    for path in (reference.answers.path, reference.scores.path):
        if not path.exists():
            raise UserError(f"{path}: does not exist yet; run: {make_command(study, reference.scores.path)}")
    scores: ScoreFile = read_json(reference.scores.path)

    def read_rows(name: str) -> Mapping[str, Mapping[str, Any]]:
        task = scores["tasks"][name]["task"]
        return {row["id"]: row for row in read_jsonl(reference.answers.path / f"{task}.jsonl")}

    # what their authors read in them is no protocol of a run
    tasks = {name: score for name, score in scores["tasks"].items() if score["protocol"] != STORED}
    return Side(reference.name, tasks, read_rows)


def _describe_answers(reference: ReferenceRun) -> str:
    card = reference.card
    return (
        f"{reference.name} are answers made elsewhere: {card.name}, {card.source}. The same parser reads both sides, but the "
        f"prompts differ; theirs: {card.prompting.rstrip('.')}. So the difference is between two systems, prompt included."
    )


def _list_missing(side: Side, comparison: RunComparison) -> Sequence[str]:
    """Return a sentence on the examples without an answer of the reference, if there are any."""
    counts = {}
    for row in comparison["comparisons"]:
        score = side.scores.get(f"{row['task']}-{row['protocol']}")
        if score and row["n"] < score["n"]:
            counts[row["task"]] = score["n"] - row["n"]
    if not counts:
        return []
    listed = ", ".join(f"{count} of {task}" for task, count in counts.items())
    return [f"Left out, since the reference has no answer to them: {listed}."]
