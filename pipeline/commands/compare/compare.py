"""The command `compare`: two runs on the same examples, task by task, and the answers that differ."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypedDict, cast

import typer

from pipeline.commands.options import AnyStudyOption, JsonOption
from pipeline.core.errors import UserError
from pipeline.core.io import read_json, read_jsonl
from pipeline.core.text import print_json, print_table
from pipeline.evaluate import stats
from pipeline.evaluate.generation.rows import TextAnswer, format_texts
from pipeline.evaluate.scoring.rows import JudgedItem, ScoreFile, TaskScore
from pipeline.params.templates import extract_question
from pipeline.study import Study
from pipeline.study.find import find_run, require_results
from pipeline.study.run import Run

if TYPE_CHECKING:
    # Loads pyarrow, which a command loads only when it runs.
    from pipeline.evaluate.scoring.agreement import SideAnswer

# Average over tasks -> whether every example counts the same (micro), rather than every task (macro).
AVERAGES = {"macro average": False, "micro average": True}

StudyRun = tuple[Study, Run]
# (seeds, examples): 1 where the answer is right
Marks = list[list[float]]


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
    """An example to which two runs give different answers."""

    task: str
    protocol: str
    id: str
    question: str
    gold: str
    first: "SideAnswer"
    second: "SideAnswer"


class RunComparison(TypedDict):
    """How two runs differ; changes in which exactly one run is right come first."""

    first: str
    second: str
    comparisons: list[ComparisonRow]
    changes: list[AnswerChange]


class TaskPair(NamedTuple):
    """The scores of two runs on one task under one protocol, as their score files have them."""

    name: str
    task: str
    protocol: str
    first: TaskScore
    second: TaskScore
    # for each example the key of its cluster; None: examples are independent
    clusters: list[Hashable] | None

    @property
    def marks(self) -> tuple[Marks, Marks]:
        """Which examples each run has right."""
        first, second = (
            [[float(item["correct"]) for item in score["items"]]] for score in (self.first, self.second)
        )
        return first, second


def compare_command(
    first: Annotated[
        str,
        typer.Argument(
            metavar="FIRST",
            help="MODEL/METHOD/TRAINSET/seedN, MODEL/bare, a fingerprint, or the path of a result.",
        ),
    ],
    second: Annotated[str, typer.Argument(metavar="SECOND", help="The other run, in the same way.")],
    study: AnyStudyOption = None,
    task: Annotated[str | None, typer.Option("--task", help="Only this task.")] = None,
    protocol: Annotated[str | None, typer.Option("--protocol", help="Only this protocol.")] = None,
    limit: Annotated[int, typer.Option("--limit", help="Examples to print, in all.")] = 10,
    as_json: JsonOption = False,
) -> None:
    """Compare two runs on the same examples."""
    runs = find_run(first, study), find_run(second, study)
    comparison = compare_runs(*runs, task=task, protocol=protocol)
    if as_json:
        print_json({**comparison, "changes": comparison["changes"][:limit]})
    else:
        print_comparison(comparison, limit=limit)


def compare_runs(
    first: StudyRun, second: StudyRun, *, task: str | None = None, protocol: str | None = None
) -> RunComparison:
    """Return how two runs differ on the tasks and protocols that both were evaluated on.

    Args:
        first: a study and a run of it.
        second: the other.
        task: only this task; None: all.
        protocol: only this protocol; None: all.

    Raises:
        UserError: a run is not scored yet, or the two have no task in common, or not the same examples.
    """
    # they load the rules that compare questions, which other commands do not need
    from pipeline.evaluate.clusters import select_clusters
    from pipeline.results.scores.clusters import find_clusters

    first_scores, second_scores = (_read_task_scores(study_run) for study_run in (first, second))
    clusters = find_clusters(*first)
    pairs = [
        TaskPair(
            name,
            score["task"],
            score["protocol"],
            score,
            second_scores[name],
            select_clusters(clusters.get(name), [item["id"] for item in score["items"]]),
        )
        for name, score in first_scores.items()
        if name in second_scores and task in (None, score["task"]) and protocol in (None, score["protocol"])
    ]
    labels = [run.name for _, run in (first, second)]
    if not pairs:
        filters = [f"of task '{task}'" if task else "", f"under '{protocol}'" if protocol else ""]
        selection = " ".join(text for text in filters if text) or "in common"
        raise UserError(
            f"compare: the runs have no answers {selection} ({labels[0]}: {', '.join(first_scores)}; "
            f"{labels[1]}: {', '.join(second_scores)})"
        )
    for pair in pairs:
        _check_same_examples(pair)
    changes = [change for pair in pairs for change in _changed_answers(pair, first, second)]
    return {
        "first": labels[0],
        "second": labels[1],
        "comparisons": _comparison_rows(pairs),
        # False sorts first: the changes in which exactly one run is right.
        "changes": sorted(
            changes, key=lambda change: change["first"]["correct"] == change["second"]["correct"]
        ),
    }


def _read_task_scores(study_run: StudyRun) -> dict[str, TaskScore]:
    scores: ScoreFile = read_json(require_results(*study_run).scores)
    return scores["tasks"]


def _check_same_examples(pair: TaskPair) -> None:
    first, second = pair.first["items"], pair.second["items"]
    if [item["id"] for item in first] != [item["id"] for item in second]:
        raise UserError(
            f"compare: {pair.name}: the runs were evaluated on different examples ({len(first)} and {len(second)}), "
            "so they cannot be paired; the studies' limit or sample_seed differ"
        )


def _comparison_rows(pairs: Sequence[TaskPair]) -> list[ComparisonRow]:
    """Return the rows of the comparison; their p-values are corrected as one family."""
    labels: list[tuple[str, str, float, float]] = []
    differences: list[stats.Difference] = []
    counts: list[int | None] = []
    by_protocol: dict[str, list[TaskPair]] = {}
    for pair in pairs:
        by_protocol.setdefault(pair.protocol, []).append(pair)
        labels.append((pair.task, pair.protocol, pair.first["accuracy"], pair.second["accuracy"]))
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


def _changed_answers(pair: TaskPair, first: StudyRun, second: StudyRun) -> Iterator[AnswerChange]:
    """Yield the examples of a task to which the runs give different answers."""
    first_rows, second_rows = (
        read_jsonl(study.results(run).answers_file(pair.name)) for study, run in (first, second)
    )
    for first_item, second_item, first_row, second_row in zip(
        pair.first["items"], pair.second["items"], first_rows, second_rows, strict=True
    ):
        if first_item["parsed"] != second_item["parsed"]:
            yield {
                "task": pair.task,
                "protocol": pair.protocol,
                "id": first_item["id"],
                "question": extract_question(first_row["prompt"]),
                "gold": first_item["gold"],
                "first": read_side_answer(first_item, first_row),
                "second": read_side_answer(second_item, second_row),
            }


def read_side_answer(item: JudgedItem, row: Mapping[str, Any]) -> "SideAnswer":
    """Return an answer with its text and how it was parsed, from its item of a score file and its row of an answers file."""
    text = format_texts(cast(TextAnswer, row)) if "text" in row else None
    return {"parsed": item["parsed"], "correct": item["correct"], "text": text}


def print_comparison(comparison: RunComparison, *, limit: int) -> None:
    """Print a comparison: the table, then the first ``limit`` examples whose answers differ."""
    print(f"first:  {comparison['first']}\nsecond: {comparison['second']}\n")
    columns = ("TASK", "PROTOCOL", "N", "FIRST", "SECOND", "DIFFERENCE", "95 %", "P", "HOLM", "DETECTABLE")
    print_table(columns, [_comparison_cells(row) for row in comparison["comparisons"]])
    print(
        "\nIn percent and percentage points, paired on examples. P: McNemar's exact test for a task, the paired bootstrap for"
        "\nan average and where examples are drawn in clusters (N is their number). HOLM: P corrected over this table; the 95 % intervals are not corrected. DETECTABLE: the smallest"
        "\ndifference that four of five such comparisons would find; empty where HOLM < 0.05. All of it is about these two runs"
        "\nalone, not about their methods: another seed may reverse a difference. The report compares methods over their seeds.\n"
    )
    changes = comparison["changes"]
    print(f"answers that differ: {len(changes)}; shown: {min(limit, len(changes))} (--limit)")
    for change in changes[:limit]:
        print(
            f"\n{change['id']}  {change['protocol']}  gold {change['gold']}\n{indent_text(change['question'], 2)}"
        )
        for side, answer in (("first", change["first"]), ("second", change["second"])):
            print(f"  {side}: {format_answer(answer)}")
            if answer["text"] is not None:
                print(indent_text(answer["text"], 4))


def _comparison_cells(row: ComparisonRow) -> list[str]:
    return [
        row["task"],
        row["protocol"],
        str(row["n"]) if row["clusters"] is None else f"{row['n']} ({row['clusters']})",
        f"{100 * row['first']:.1f}",
        f"{100 * row['second']:.1f}",
        f"{100 * row['difference']:+.1f}",
        f"[{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]",
        f"{row['p_value']:.4f}",
        f"{row['holm']:.4f}",
        # where a difference was found, what else could have been found says nothing
        "" if row["holm"] < 1 - stats.LEVEL else f"{100 * row['detectable']:.1f}",
    ]


def format_answer(answer: "SideAnswer") -> str:
    """Return the parsed answer, and whether it is right."""
    if answer["parsed"] is None:
        return "unparsed"
    return f"{answer['parsed']} ({'right' if answer['correct'] else 'wrong'})"


def indent_text(text: str, spaces: int) -> str:
    """Return a text with each line behind a number of spaces."""
    return "\n".join(" " * spaces + line for line in text.strip().splitlines())
