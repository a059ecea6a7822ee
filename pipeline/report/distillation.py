"""Training sets that a teacher wrote: what its answers yield by source, and what filtering them changes."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import pandas as pd

from pipeline.core.io import read_json
from pipeline.evaluate.distillation.rows import DistillationYield, SourceYield
from pipeline.report.comparisons import adjust_family, compare_cells, describe_family, format_test
from pipeline.report.data import Cell, ReportData, Section
from pipeline.report.tables import Table
from pipeline.study.description import ArmDescription
from pipeline.study.distillation.description import DistilledDescription
from pipeline.study.distillation.resolve import YIELD

ALL_SOURCES = "all"


class FilterComparison(NamedTuple):
    """The subject of a comparison of two arms; ``column`` is a task's title or an average."""

    model: str
    method: str
    right: str
    unfiltered: str
    column: str


def build_distillation_tables(data: ReportData) -> dict[str, Table]:
    """Build the tables of the yields and of the differences that filtering makes, by file name; none without such sets."""
    if not data.study.distilled:
        return {}
    tables = {"distillation": _build_yield_table(data)}
    for section in data.sections:
        if unfiltered := _find_unfiltered(data, section.arm):
            tables[f"filtering-{section.name}"] = _build_filter_table(data, section, unfiltered)
    return tables


def collect_yields(data: ReportData) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Return the yields for ``dvc metrics``: share of answers that became rows, and of right ones, by set and source."""
    yields = {
        described.name: {
            name: {
                "rows": round(source["fates"]["row"] / source["answers"], 6),
                "right": round(source["outcomes"]["right"] / source["answers"], 6),
            }
            for name, source in _read_yield(described)["sources"].items()
        }
        for described in data.study.distilled
    }
    # no protocol's key, since "yield" is no metric of a protocol
    return {"distilled yield": yields} if yields else {}


def _read_yield(described: DistilledDescription) -> DistillationYield:
    content: DistillationYield = read_json(described.folder / YIELD)
    return content


def _build_yield_table(data: ReportData) -> Table:
    rows = []
    for described in data.study.distilled:
        sources = _read_yield(described)["sources"]
        total = _add_yields(sources)
        # in the order of the card
        named = {title: sources[name] for name, title in described.sources.items()}
        named |= {ALL_SOURCES: total} if len(sources) > 1 else {}
        for title, source in named.items():
            rows.append({"Training set": described.name, "Source": title, **_format_yield(source)})
    parts = [
        f"{described.name}: teacher {described.teacher}, prompt {described.prompt}, {described.sampling}, filter {described.filter}"
        for described in data.study.distilled
    ]
    caption = (
        "What a teacher's answers yield by source. Right: answers that the parser finds equal to the gold label, in percent of all "
        "answers. Rows: answers that became rows of the training set, and in percent of all answers (the yield). Each other answer is "
        "counted once, under the first reason that applies: its question is a test question, or repeats an earlier question; it is "
        "empty or reached the token limit; it is wrong or unparsed (left out by the filter right alone); or it repeats an earlier answer to "
        f"the question. {'; '.join(parts)}."
    )
    return Table(caption, pd.DataFrame(rows))


def _format_yield(source: SourceYield) -> dict[str, str]:
    answers, fates = source["answers"], source["fates"]
    return {
        "Questions": str(source["questions"]),
        "Answers": str(answers),
        "Right (%)": f"{100 * source['outcomes']['right'] / answers:.1f}",
        "Rows": str(fates["row"]),
        "Yield (%)": f"{100 * fates['row'] / answers:.1f}",
        "Questions with a row": str(source["questions_with_rows"]),
        "test question": str(fates["test question"]),
        "repeated question": str(fates["repeated question"]),
        "empty or unfinished": str(fates["empty"] + fates["unfinished"]),
        "wrong": str(fates["wrong"]),
        "unparsed": str(fates["unparsable"]),
        "duplicate": str(fates["duplicate"]),
        "Tokens": str(source["tokens"]),
    }


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
    """Return the arm that is trained on all of the answers whose right ones an arm is trained on, with the same tasks."""
    by_name = {described.name: described for described in data.study.distilled}
    own = by_name.get(arm.training_set)
    if own is None or own.filter != "right":
        return None
    tasks = {task.name for task in arm.tasks}
    for other in data.study.arms:
        described = by_name.get(other.training_set)
        is_same = described and described.filter == "all" and described.answers == own.answers
        # a section's arm has the tasks of its protocol alone
        if is_same and tasks <= {task.name for task in other.tasks}:
            return other
    return None


def _build_filter_table(data: ReportData, section: Section, unfiltered: ArmDescription) -> Table:
    differences = {
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
    titles = {model.name: model.title for model in data.study.models}
    titles |= {method.name: method.title for method in data.study.methods}
    rows, anchors = [], []
    for comparison, difference in adjust_family(differences).items():
        rows.append(
            {
                "Model": titles[comparison.model],
                "Method": titles[comparison.method],
                "Task": comparison.column,
                **format_test(difference, starred=not data.has_one_seed),
            }
        )
        anchors.append(Cell(comparison.model, comparison.method, section.arm.name).anchor)
    sizes = ", ".join(_describe_sizes(data, (section.arm, unfiltered)))
    caption = (
        f"The difference that filtering makes, {section.arm.name} against {unfiltered.name}, protocol {section.protocol}: trained on the "
        f"right answers of a teacher, less trained on all of them ({sizes}); paired on examples; "
        f"{describe_family(data, len(differences))}"
    )
    return Table(caption, pd.DataFrame(rows), anchors)


def _describe_sizes(data: ReportData, arms: tuple[ArmDescription, ...]) -> Iterator[str]:
    by_name = {described.name: described for described in data.study.distilled}
    for arm in arms:
        total = _add_yields(_read_yield(by_name[arm.training_set])["sources"])
        yield f"{arm.training_set}: {total['fates']['row']} rows"
