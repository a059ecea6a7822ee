"""Training sets that a teacher wrote: what its answers yield by source, and what filtering them changes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from pipeline.core.io import read_json, read_jsonl
from pipeline.core.text import format_percent
from pipeline.evaluate.distillation.rows import DistillationYield, DistilledRow, Fate, SourceYield
from pipeline.evaluate.stats import AdjustedDifference
from pipeline.report.comparisons import adjust_family, compare_cells, describe_family, format_test
from pipeline.report.data import Cell, ReportData, Section, Selection
from pipeline.report.tables import Table
from pipeline.study.description import ArmDescription
from pipeline.study.distillation.description import DistilledDescription
from pipeline.study.distillation.resolve import ROWS, YIELD

ALL_SOURCES = "all"
# the columns of the reasons for which an answer is no row
_REASONS: dict[str, tuple[Fate, ...]] = {
    "Test question": ("test question",),
    "Repeated question": ("repeated question",),
    "Empty or unfinished": ("empty", "unfinished"),
    "Wrong": ("wrong",),
    "Unparsed": ("unparsable",),
    "Repeated answer": ("duplicate",),
}


class FilterComparison(NamedTuple):
    """The subject of a comparison of two arms; ``column`` is a task's title or an average."""

    model: str
    method: str
    right: str
    unfiltered: str
    column: str


class _Yield(NamedTuple):
    """What the teacher's answers to a source, or to all, became.

    Attributes:
        set: the training set.
        title: of the source.
        counts: of its answers.
        right_rows: rows with a right answer.
    """

    set: str
    title: str
    counts: SourceYield
    right_rows: int

    @property
    def rows(self) -> int:
        return self.counts["fates"]["row"]


def build_distillation_tables(data: ReportData) -> dict[str, Table]:
    """Build the tables of the yields and of the differences that filtering makes, by file name; none without such sets."""
    if not data.study.distilled:
        return {}
    by_set = {described.name: _list_yields(described) for described in data.study.distilled}
    yields = [each for of_set in by_set.values() for each in of_set]
    tables = {
        "distillation": _build_yield_table(data, yields),
        "distillation-left-out": _build_reason_table(yields),
    }
    for section in data.sections:
        if unfiltered := _find_unfiltered(data, section.arm):
            # the last is that of all sources
            totals = [by_set[arm.training_set][-1] for arm in (section.arm, unfiltered)]
            tables[f"filtering-{section.name}"] = _build_filter_table(data, section, unfiltered, totals)
    return tables


def compare_filters(data: ReportData, section: Section) -> dict[FilterComparison, AdjustedDifference]:
    """Compare a section's arm, trained on right answers, with the arm that is trained on all of them; empty without such arms."""
    unfiltered = _find_unfiltered(data, section.arm)
    if unfiltered is None:
        return {}
    return adjust_family(
        {
            FilterComparison(model.name, method.name, section.arm.name, unfiltered.name, column): difference
            for model in data.study.models
            for method in data.methods_of(model.name)
            for column, difference in compare_cells(
                data,
                section,
                Cell(model.name, method.name, section.arm.name),
                Cell(model.name, method.name, unfiltered.name),
            )
        }
    )


def collect_yields(data: ReportData) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Return the yields for ``dvc metrics``: share of answers that became rows, and of right ones, by set and source."""
    yields = {
        described.name: {
            name: {
                "rows": round(source["fates"]["row"] / source["answers"], 6),
                "right": round(source["outcomes"]["right"] / source["answers"], 6),
            }
            for name, source in _read_sources(described).items()
        }
        for described in data.study.distilled
    }
    # no protocol's key, since "yield" is no metric of a protocol
    return {"distilled yield": yields} if yields else {}


def _read_sources(described: DistilledDescription) -> Mapping[str, SourceYield]:
    content: DistillationYield = read_json(described.folder / YIELD)
    return content["sources"]


def _list_yields(described: DistilledDescription) -> list[_Yield]:
    """Return the yield of each source of a set, in the order of its card, and that of all if there are several."""
    sources = _read_sources(described)
    rows: list[DistilledRow] = read_jsonl(described.folder / ROWS)
    # an id begins with its dataset
    right = Counter(row["source"].partition("/")[0] for row in rows if row["outcome"] == "right")
    yields = [
        _Yield(described.name, title, sources[name], right[name]) for name, title in described.sources.items()
    ]
    if len(yields) > 1:
        yields.append(_Yield(described.name, ALL_SOURCES, _add_yields(sources), right.total()))
    return yields


def _build_yield_table(data: ReportData, yields: list[_Yield]) -> Table:
    rows = [
        {
            "Training set": each.set,
            "Source": each.title,
            "Questions": f"{each.counts['questions']:,}",
            "Answers": f"{each.counts['answers']:,}",
            "Right answers (%)": format_percent(each.counts["outcomes"]["right"] / each.counts["answers"]),
            "Rows": f"{each.rows:,}",
            "Yield (%)": format_percent(each.rows / each.counts["answers"]),
            "Right rows (%)": format_percent(each.right_rows / each.rows) if each.rows else "n/a",
            "Questions with a row": f"{each.counts['questions_with_rows']:,}",
            "Tokens": f"{each.counts['tokens']:,}",
        }
        for each in yields
    ]
    caption = (
        "What a teacher's answers yield, by source of the questions. Right answers: in percent of all answers; an answer is right if "
        "the parser finds the gold label in it. Rows: answers that are in the training set; the yield is their share of all answers. "
        "Right rows: in percent of the rows. Equal answers to a question become one row, so the share of right rows may differ much "
        f"from the share of right answers. Tokens: of all answers. {_describe_teachers(data)}."
    )
    return Table(caption, pd.DataFrame(rows))


def _describe_teachers(data: ReportData) -> str:
    """Return the teacher of each set; sets that differ in their filter alone share a sentence."""
    sets: dict[str, list[str]] = {}
    for described in data.study.distilled:
        text = f"teacher {described.teacher}, prompt {described.prompt}, {described.sampling}"
        sets.setdefault(text, []).append(f"{described.name} (filter: {described.filter})")
    return "; ".join(f"{' and '.join(names)}: {text}" for text, names in sets.items())


def _build_reason_table(yields: list[_Yield]) -> Table:
    rows = [
        {
            "Training set": each.set,
            "Source": each.title,
            "Answers": f"{each.counts['answers']:,}",
            **{
                title: f"{sum(each.counts['fates'][fate] for fate in fates):,}"
                for title, fates in _REASONS.items()
            },
            "Rows": f"{each.rows:,}",
        }
        for each in yields
    ]
    caption = (
        "Why answers of the teacher were left out. An answer is counted once, in the first column from the left that applies. Test "
        "question: the question is in a test. Repeated question: an earlier question is the same. Empty or unfinished: no text, or "
        "cut at the token limit. Wrong, unparsed: the parser finds another answer than the gold label, or none; only the filter "
        "'right' leaves these out. Repeated answer: an earlier answer to the question has the same words. Rows: what is left."
    )
    return Table(caption, pd.DataFrame(rows))


def _add_yields(sources: Mapping[str, SourceYield]) -> SourceYield:
    parts = list(sources.values())
    return {
        "questions": sum(part["questions"] for part in parts),
        "answers": sum(part["answers"] for part in parts),
        "tokens": sum(part["tokens"] for part in parts),
        "outcomes": {key: sum(part["outcomes"][key] for part in parts) for key in parts[0]["outcomes"]},
        "fates": {key: sum(part["fates"][key] for part in parts) for key in parts[0]["fates"]},
        "questions_with_rows": sum(part["questions_with_rows"] for part in parts),
    }


def _find_unfiltered(data: ReportData, arm: ArmDescription) -> ArmDescription | None:
    """Return the arm that is trained in the same way on all of the answers whose right ones an arm is trained on.

    Returns:
        None where no arm, or more than one, has the same answers, tasks and recipe.
    """
    by_name = {described.name: described for described in data.study.distilled}
    own = by_name.get(arm.training_set)
    if own is None or own.filter != "right":
        return None
    tasks = {task.name for task in arm.tasks}
    matches = [
        other
        for other in data.study.arms
        if (described := by_name.get(other.training_set))
        and described.filter == "all"
        and described.answers == own.answers
        and other.recipe == arm.recipe
        # a section's arm has the tasks of its protocol alone
        and tasks <= {task.name for task in other.tasks}
    ]
    return matches[0] if len(matches) == 1 else None


def _build_filter_table(
    data: ReportData, section: Section, unfiltered: ArmDescription, totals: Sequence[_Yield]
) -> Table:
    differences = compare_filters(data, section)
    selections = {
        title: Selection(tuple(section.keys), micro) for title, micro in data.list_averages(section).items()
    }
    selections |= {
        task.title: Selection((key,)) for task, key in zip(section.tasks, section.keys, strict=True)
    }
    titles = {model.name: model.title for model in data.study.models}
    titles |= {method.name: method.title for method in data.study.methods}
    rows, anchors = [], []
    for comparison, difference in differences.items():
        model, method, right, other, column = comparison
        accuracies = [
            data.estimate(Cell(model, method, arm), selections[column])["estimate"] for arm in (right, other)
        ]
        rows.append(
            {
                "Model": titles[model],
                "Method": titles[method],
                "Task": column,
                "Right answers alone (%)": format_percent(accuracies[0]),
                "All answers (%)": format_percent(accuracies[1]),
                **format_test(difference, starred=not data.has_one_seed),
            }
        )
        anchors.append(Cell(model, method, right).anchor)
    caption = (
        f"The difference that filtering makes, {section.arm.name} against {unfiltered.name}, protocol {section.protocol}: accuracy in "
        "percent after training on the right answers of a teacher alone, and after training on all of its answers. Difference: the "
        f"first minus the second. {_describe_sizes(totals)}; the table of settings has the steps of each "
        f"training. Paired on examples; {describe_family(data, len(differences))}"
    )
    return Table(caption, pd.DataFrame(rows), anchors)


def _describe_sizes(totals: Sequence[_Yield]) -> str:
    return "; ".join(
        f"{total.set}: {total.rows:,} rows, {total.right_rows:,} of them right" for total in totals
    )
