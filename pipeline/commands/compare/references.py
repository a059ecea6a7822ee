"""The references of a study for `compare`: their names, and a run beside answers made elsewhere."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.commands.compare.pairs import RunComparison, Side, compare_sides
from pipeline.core.errors import UserError, list_choices
from pipeline.core.io import read_json, read_jsonl
from pipeline.evaluate.scoring.rows import ScoreFile
from pipeline.study import Study
from pipeline.study.find import find_run, list_cards, make_command
from pipeline.study.followups.rows import RowReference, list_publications, list_row_references
from pipeline.study.references import STORED, ReferenceRun
from pipeline.study.run import Run


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
        UserError: there is no such run; if it is a reference, the message has the command in the right order.
    """
    try:
        return find_run(name, study_name)
    except UserError:
        if not _is_reference(name):
            raise
    if _is_reference(second):
        run, problem = "RUN", f"'{name}' and '{second}' are references; compare a run with one of them"
    else:
        run, problem = second, f"'{name}' is a reference, which comes second"
    options = ["--study", study_name] if study_name else []
    raise UserError(f"{problem}: python -m pipeline compare {shlex.join([run, name, *options])}")


def _is_reference(name: str) -> bool:
    """Return whether a name is that of a card of params/references/, or of a row of a publication, CARD/MODEL/METHOD."""
    card, _, row = name.partition("/")
    return name in list_cards("references") or (bool(row) and card in list_cards("published"))


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
        if name in list_cards("references"):
            raise UserError(
                f"study '{study.name}' does not list the reference '{name}'; add it to `references` in "
                f"params/study/{study.name}.yaml, or name a study that lists it: --study NAME"
            ) from None
        names = [reference.name for reference in study.references]
        names += [f"{card}/MODEL/METHOD" for card in list_publications(study)]
        listed = f"has the references {', '.join(names)}" if names else "names no references"
        raise UserError(f"{error}; study '{study.name}' {listed}") from None


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
