"""Two sides with answers to the same examples: their differences task by task, and the answers that differ."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

from pipeline.core.errors import UserError
from pipeline.evaluate import stats
from pipeline.evaluate.scoring.rows import JudgedItem, TaskScore
from pipeline.evaluate.scoring.sides import SideAnswer, read_side_answer
from pipeline.params.templates import extract_question

MACRO = "macro average"
# Average over tasks -> whether every example counts the same (micro), rather than every task (macro).
AVERAGES = {MACRO: False, "micro average": True}

# (seeds, examples): 1 where the answer is right
Marks = list[list[float]]
Clusters = Mapping[str, Mapping[str, Hashable] | None]


class ComparisonRow(TypedDict):
    """The paired comparison of a task, or of an average over the tasks of a protocol; accuracies are shares."""

    task: str
    protocol: str
    n: int
    # how many clusters of examples are drawn; None: examples are independent
    clusters: int | None
    first: float
    second: float
    difference: float
    low: float
    high: float
    p_value: float
    # the p-value, corrected over all rows of the comparison
    holm: float
    # the difference that four of five such comparisons would find
    detectable: float


class AnswerChange(TypedDict):
    """An example to which two sides give different answers."""

    task: str
    protocol: str
    id: str
    question: str
    gold: str
    first: SideAnswer
    second: SideAnswer


class RunComparison(TypedDict):
    """How two sides differ; changes in which exactly one side is right come first. ``notes`` are sentences about the sides."""

    first: str
    second: str
    comparisons: list[ComparisonRow]
    changes: list[AnswerChange]
    notes: list[str]


class Side(NamedTuple):
    """A run or a reference in a comparison.

    Attributes:
        name: as `compare` takes it.
        scores: by TASK-PROTOCOL.
        read_rows: returns the rows of the answers to a task of ``scores``, by the id of the example.
    """

    name: str
    scores: Mapping[str, TaskScore]
    read_rows: Callable[[str], Mapping[str, Mapping[str, Any]]]


class TaskPair(NamedTuple):
    """The judged answers of two sides to the same examples of a task under one protocol, in one order."""

    name: str
    task: str
    protocol: str
    first: list[JudgedItem]
    second: list[JudgedItem]
    # for each example the key of its cluster; None: examples are independent
    clusters: list[Hashable] | None

    @property
    def marks(self) -> tuple[Marks, Marks]:
        """Which examples each side has right."""
        first, second = ([[float(item["correct"]) for item in items]] for items in (self.first, self.second))
        return first, second


def compare_sides(
    first: Side,
    second: Side,
    *,
    clusters: Clusters,
    task: str | None = None,
    protocol: str | None = None,
    is_partial: bool = False,
) -> RunComparison:
    """Return how two sides differ on the tasks and protocols that both have.

    Args:
        first: a side.
        second: the other.
        clusters: of the first side's tasks, as ``find_clusters`` returns them.
        task: only this task; None: all.
        protocol: only this protocol; None: all.
        is_partial: compare the examples that both sides have; otherwise both must have the same.

    Raises:
        UserError: the sides have no task in common, or not the same examples.
    """
    names = [
        name
        for name, score in first.scores.items()
        if name in second.scores and task in (None, score["task"]) and protocol in (None, score["protocol"])
    ]
    if not names:
        filters = [f"of task '{task}'" if task else "", f"under '{protocol}'" if protocol else ""]
        selection = " ".join(text for text in filters if text) or "in common"
        raise UserError(
            f"compare: the runs have no answers {selection} ({first.name}: {', '.join(first.scores)}; "
            f"{second.name}: {', '.join(second.scores)})"
        )
    pairs = [_pair_task(name, first, second, clusters, is_partial=is_partial) for name in names]
    changes = [change for pair in pairs for change in _changed_answers(pair, first, second)]
    return {
        "first": first.name,
        "second": second.name,
        "comparisons": _comparison_rows(pairs),
        # False sorts first: the changes in which exactly one side is right.
        "changes": sorted(
            changes, key=lambda change: change["first"]["correct"] == change["second"]["correct"]
        ),
        "notes": [],
    }


def _pair_task(name: str, first: Side, second: Side, clusters: Clusters, *, is_partial: bool) -> TaskPair:
    # loads the rules that compare questions, which other commands do not need
    from pipeline.evaluate.clusters import select_clusters

    score = first.scores[name]
    ours = {item["id"]: item for item in score["items"]}
    theirs = {item["id"]: item for item in second.scores[name]["items"]}
    if is_partial:
        ids = [id for id in ours if id in theirs]
    elif list(ours) == list(theirs):
        ids = list(ours)
    else:
        raise UserError(
            f"compare: {name}: the runs were evaluated on different examples ({len(ours)} and {len(theirs)}), "
            "so they cannot be paired; the studies' limit or sample_seed differ"
        )
    if not ids:
        raise UserError(f"compare: {name}: {second.name} has no answer to the examples of {first.name}")
    items = [ours[id] for id in ids], [theirs[id] for id in ids]
    return TaskPair(name, score["task"], score["protocol"], *items, select_clusters(clusters.get(name), ids))


def _comparison_rows(pairs: Sequence[TaskPair]) -> list[ComparisonRow]:
    """Return the rows of the comparison; their p-values are corrected as one family."""
    labels: list[tuple[str, str, float, float]] = []
    differences: list[stats.Difference] = []
    counts: list[int | None] = []
    by_protocol: dict[str, list[TaskPair]] = {}
    for pair in pairs:
        by_protocol.setdefault(pair.protocol, []).append(pair)
        first, second = (sum(marks[0]) / len(marks[0]) for marks in pair.marks)
        labels.append((pair.task, pair.protocol, first, second))
        differences.append(stats.estimate_difference(*pair.marks, clusters=pair.clusters))
        counts.append(len(set(pair.clusters)) if pair.clusters else None)
    for protocol, members in by_protocol.items():
        if len(members) > 1:
            marks, clusters = [pair.marks for pair in members], [pair.clusters for pair in members]
            for average, micro in AVERAGES.items():
                first, second = (
                    stats.estimate_mean_accuracy([sides[index] for sides in marks], micro=micro)["estimate"]
                    for index in (0, 1)
                )
                labels.append((average, protocol, first, second))
                differences.append(stats.estimate_mean_difference(marks, micro=micro, clusters=clusters))
                counts.append(None)
    return [
        {
            "task": task,
            "protocol": protocol,
            "n": difference["n"],
            "clusters": count,
            "first": first,
            "second": second,
            "difference": difference["estimate"],
            "low": difference["low"],
            "high": difference["high"],
            "p_value": difference["p_value"],
            "holm": difference["holm"],
            "detectable": difference["detectable"],
        }
        for (task, protocol, first, second), difference, count in zip(
            labels, stats.adjust_differences(differences), counts, strict=True
        )
    ]


def _changed_answers(pair: TaskPair, first: Side, second: Side) -> Iterator[AnswerChange]:
    """Yield the examples of a task to which the sides give different answers."""
    first_rows, second_rows = first.read_rows(pair.name), second.read_rows(pair.name)
    for first_item, second_item in zip(pair.first, pair.second, strict=True):
        if first_item["parsed"] != second_item["parsed"]:
            id = first_item["id"]
            yield {
                "task": pair.task,
                "protocol": pair.protocol,
                "id": id,
                "question": extract_question(first_rows[id]["prompt"]),
                "gold": first_item["gold"],
                "first": read_side_answer(first_item, first_rows[id]),
                "second": read_side_answer(second_item, second_rows[id]),
            }
