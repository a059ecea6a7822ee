"""Which test questions the training sets contain, and the scores with and without them, from the same answers."""

from collections.abc import Collection, Mapping, Sequence, Set

import pandas as pd

from pipeline.audit import ANY, METHODS
from pipeline.audit.rows import AuditFile, Repeats
from pipeline.core.text import format_percent
from pipeline.report.data import Cell, ReportData, Section, Selection
from pipeline.report.summary.origin import has_made_tasks
from pipeline.report.tables import Table, format_interval, truncate_text

# method of the audit -> what it compares
_METHOD_MEANINGS = {
    "exact": "the same letters and digits",
    "number-masked": "the same apart from numbers",
    "8-gram": "at least half of their 8-grams of words occur there",
    "stem": "the same before the options",
}
# characters of a question that an example shows
QUESTION_WIDTH = 400
# conflicting rows that the table of repeats lists
MAX_CONFLICTS = 5


def build_contamination_tables(data: ReportData) -> dict[str, Table]:
    """Build the tables of the contamination section, by file name; all but the first are left out if empty, and all without a training set."""
    audits = list(data.audits.values())
    if not audits:
        # nothing is trained
        return {}
    tables = {f"without-{section.name}": _build_without_table(data, section) for section in data.sections}
    tables["contamination-examples"] = _build_example_table(audits)
    tables["repeats"] = _build_repeat_table(data)
    tables["shared"] = _build_shared_table(audits)
    filled = {name: table for name, table in tables.items() if len(table.frame)}
    return {"contamination": _build_contamination_table(data), **filled}


def _build_contamination_table(data: ReportData) -> Table:
    """Build the number of test questions that each training set contains, by audit method."""
    trained = {
        (path, task.name)
        for arm in data.study.arms
        for path in data.list_audits(arm.name)
        for task in arm.tasks
    }
    tasks = list(dict.fromkeys(task.name for arm in data.study.arms for task in arm.tasks))
    rows = []
    # there, only equal questions could be leaked answers
    verdict = "repeated wording" if has_made_tasks(data) else "contaminated"
    for path, audit in data.audits.items():
        for task in tasks:
            test = audit["tests"][task]
            counts = {method: test["methods"][method]["n"] for method in METHODS}
            rows.append(
                {
                    "Training set": data.describe_training_set(path),
                    "Task": task,
                    "evaluated": "yes" if (path, task) in trained else "no",
                    "n": str(test["n_test"]),
                    **{method: _format_count(n, test["n_test"]) for method, n in counts.items()},
                    "different answer": str(len(test["conflicts"])),
                    "Verdict": _judge(counts, verdict),
                }
            )
    meanings = ", ".join(f"{method}: {_METHOD_MEANINGS[method]}" for method in METHODS)
    caption = (
        f"Test questions that occur in the training set, by audit method; {meanings}. 'different answer': exact matches to which "
        "the training set gives a different answer. 'evaluated': adapters trained on the set are evaluated on the task. Questions "
        "written from templates share 8-grams, and word problems may differ in their numbers alone: these are different questions."
    )
    for path, audit in data.audits.items():
        removed = audit["left_out"]
        if removed:
            caption += (
                f" {data.describe_training_set(path)} excludes {len(removed['rows'])} rows that contain questions of "
                f"{', '.join(removed['tests'])} (method: {removed['method']})."
            )
    return Table(caption, pd.DataFrame(rows))


def _judge(counts: Mapping[str, int], verdict: str) -> str:
    """Return the verdict on a task by the number of questions that each method finds; ``verdict``: on nearly equal ones."""
    if counts["exact"]:
        return "contaminated"
    return verdict if any(counts.values()) else ""


def _format_count(n: int, total: int) -> str:
    return f"{n} ({format_percent(n / total)} %)" if n else "0"


def find_contaminated_ids(audits: Collection[AuditFile], task: str) -> dict[str, set[str]]:
    """Return the ids of a task's contaminated rows by audit method, and under "any" those of all methods together."""
    ids = {
        method: {id for audit in audits for id in audit["tests"][task]["methods"][method]["ids"]}
        for method in METHODS
    }
    return {**ids, ANY: set().union(*ids.values())}


def _build_without_table(data: ReportData, section: Section) -> Table:
    """Build the accuracies on all questions of the contaminated tasks, and without those that each method finds."""
    arm = section.arm
    audits = data.list_audits(arm.name)
    # with a combination there are several
    sets = " or ".join(
        dict.fromkeys(other.training_set for other in data.study.arms if other.audit in audits)
    )
    rows, anchors = [], []
    for task, key in zip(section.tasks, section.keys, strict=True):
        for model in data.study.models:
            for method, title in data.method_titles(model.name).items():
                cell = Cell(model.name, method, arm.name)
                # a combination has questions of all of its members' sets
                ids = find_contaminated_ids(data.find_audits(cell).values(), task.name)
                if not ids[ANY]:
                    continue
                row = {"Model": model.title, "Method": title, "Task": task.title}
                rows.append({**row, **_format_accuracies_without(data, cell, key, ids)})
                anchors.append(cell.anchor)
    caption = (
        f"Accuracy in percent with and without the test questions that {sets} contains, {arm.name}, "
        f"protocol {section.protocol}: the same answers, over all n questions and without those that an audit method finds in "
        "the training set. 95 % intervals as in the table of accuracies. n = 0: the method finds every question."
    )
    return Table(caption, pd.DataFrame(rows), anchors)


def _format_accuracies_without(
    data: ReportData, cell: Cell, key: str, ids: Mapping[str, Set[str]]
) -> dict[str, str]:
    """Format a cell's accuracy on all examples of a task, and without the ids that each method finds.

    Args:
        data: of the report.
        cell: the model and method.
        key: of the task in a score file.
        ids: contaminated ids by method.
    """
    excluded = {"All": frozenset[str]()}
    excluded |= {f"without {method}": frozenset(method_ids) for method, method_ids in ids.items()}
    return {
        column: _format_accuracy_without(data, cell, Selection((key,), excluded=id_set))
        for column, id_set in excluded.items()
    }


def _format_accuracy_without(data: ReportData, cell: Cell, selection: Selection) -> str:
    items = data.get_task_score(data.find_runs(*cell)[0], selection.keys[0])["items"]
    if all(item["id"] in selection.excluded for item in items):
        return "n = 0"
    estimate = data.estimate(cell, selection)
    return f"{format_interval(estimate)}, n = {estimate['n']}"


def _build_example_table(audits: Sequence[AuditFile]) -> Table:
    """Build a few test questions, each beside the training question that gives it away."""
    rows = [
        {
            "Found by": example["method"],
            "Test row": example["id"],
            "Test question": f"{_flatten(example['question'])} → {example['answer']}",
            "Training row": example["train_id"],
            "Training question": f"{_flatten(example['train_question'])} → {example['train_answer']}",
        }
        for audit in audits
        for test in audit["tests"].values()
        for example in test["examples"]
    ]
    caption = (
        "Test questions beside the training questions that match them, with gold labels: at most two for each pair of sets and "
        "method, and only matches that no earlier method finds. For 8-gram, the training question is the first of those with "
        "most of the 8-grams."
    )
    return Table(caption, pd.DataFrame(rows))


def _flatten(text: str) -> str:
    return truncate_text(" ".join(text.split()), QUESTION_WIDTH)


def _build_repeat_table(data: ReportData) -> Table:
    """Build the number of rows that each set contains more than once."""
    sets = {
        f"{data.describe_training_set(path)} (training)": audit["repeats"]["train"]
        for path, audit in data.audits.items()
    }
    for audit in data.audits.values():
        sets |= audit["repeats"]["tests"]
    rows = [
        {
            "Set": name,
            "n": str(repeats["n"]),
            "repeats": str(len(repeats["repeats"])),
            "with a different answer": str(len(repeats["conflicts"])),
            "conflicting rows": _format_conflicts(repeats),
        }
        for name, repeats in sets.items()
        if repeats["repeats"]
    ]
    caption = (
        "Questions that repeat an earlier question of the same set, by letters and digits, and those of them with a different "
        "answer; conflicting rows: row / first row (the audit files list all). Sets without repeats are not listed."
    )
    return Table(caption, pd.DataFrame(rows))


def _format_conflicts(repeats: Repeats) -> str:
    """Format the first conflicting rows, each with the row that it repeats, by the numbers in their ids."""
    conflicts = repeats["conflicts"]
    pairs = [" / ".join(row.rpartition("/")[2] for row in pair) for pair in conflicts[:MAX_CONFLICTS]]
    return ", ".join(pairs) + (" …" if len(conflicts) > MAX_CONFLICTS else "")


def _build_shared_table(audits: Sequence[AuditFile]) -> Table:
    """Build the number of questions that each two tests share."""
    # several audits may compare the same tests
    counts = {tuple(pair["tests"]): pair["n"] for audit in audits for pair in audit["between"]}
    rows = [{"Test": first, "and test": second, "questions": str(n)} for (first, second), n in counts.items()]
    return Table("Questions that occur in two tests, by letters and digits.", pd.DataFrame(rows))
