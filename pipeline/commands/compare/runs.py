"""Two runs against each other on the same examples: the paired comparison of each task, and the answers that differ."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.core.errors import UserError
from pipeline.core.io import read_json, read_jsonl
from pipeline.core.text import text_table
from pipeline.evaluate import stats
from pipeline.params.templates import question
from pipeline.study import Study
from pipeline.study.find import require_results
from pipeline.study.run import Run

Asked = tuple[Study, Run]
AVERAGES = {"macro average": False, "micro average": True}


def compare(
    first: Asked, second: Asked, *, task: str | None = None, protocol: str | None = None
) -> dict[str, Any]:
    """Return how two runs differ on the tasks and protocols that both were asked.

    Args:
        first: a study and a run of it.
        second: the other.
        task: this one alone; None: all that both were asked.
        protocol: this one alone; None: all.

    Returns:
        "first" and "second", their names; "comparisons", a row for each task and, of several tasks, each average of a
        protocol: task, protocol, n, first and second (accuracies), difference, low, high, p_value, holm (corrected over
        all rows), detectable; "changes", for each example whose answers differ task, protocol, id, question, gold, and
        first and second, each parsed, correct and text. What one of them has right alone stands first.

    Raises:
        UserError: a run is not scored yet, or they have no task in common, or not the same examples.
    """
    sides = [read_json(require_results(*asked)[1])["tasks"] for asked in (first, second)]
    names = [
        name
        for name, one in sides[0].items()
        if name in sides[1] and task in (None, one["task"]) and protocol in (None, one["protocol"])
    ]
    labels = [run.label.strip("/") for _, run in (first, second)]
    if not names:
        wanted = " ".join(
            filter(None, (f"of task '{task}'" if task else "", protocol and f"under '{protocol}'"))
        )
        has = [", ".join(side) for side in sides]
        raise UserError(
            f"compare: both runs have no answers {wanted or 'in common'} ({labels[0]}: {has[0]}; {labels[1]}: {has[1]})"
        )
    for name in names:
        _same_examples(name, *(side[name]["items"] for side in sides))
    changes = [one for name in names for one in _changes(name, first, second, sides)]
    return {
        "first": labels[0],
        "second": labels[1],
        "comparisons": _comparisons(names, *sides),
        "changes": sorted(changes, key=lambda one: one["first"]["correct"] == one["second"]["correct"]),
    }


def _same_examples(name: str, first: Any, second: Any) -> None:
    if [item["id"] for item in first] != [item["id"] for item in second]:
        raise UserError(
            f"compare: {name}: the runs were asked other examples ({len(first)} and {len(second)}; the studies' limit or "
            "sample_seed differ), so nothing is paired"
        )


def _comparisons(
    names: list[str], first: Mapping[str, Any], second: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the rows of the comparison, corrected as one family."""
    rows: list[tuple[dict[str, Any], stats.Difference]] = []
    tables: dict[str, list[Any]] = {}
    for name in names:
        right = [[float(item["correct"]) for item in side[name]["items"]] for side in (first, second)]
        tables.setdefault(first[name]["protocol"], []).append(([right[0]], [right[1]]))
        row = {
            "task": first[name]["task"],
            "protocol": first[name]["protocol"],
            "n": len(right[0]),
            "first": first[name]["accuracy"],
            "second": second[name]["accuracy"],
        }
        rows.append((row, stats.estimate_difference([right[0]], [right[1]])))
    for protocol, pairs in tables.items():
        if len(pairs) > 1:
            for average, micro in AVERAGES.items():
                difference = stats.estimate_mean_difference(pairs, micro=micro)
                accuracies = [
                    stats.estimate_mean_accuracy([pair[side] for pair in pairs], micro=micro)["estimate"]
                    for side in (0, 1)
                ]
                row = {
                    "task": average,
                    "protocol": protocol,
                    "n": difference["n"],
                    "first": accuracies[0],
                    "second": accuracies[1],
                }
                rows.append((row, difference))
    adjusted = stats.adjust_differences([difference for _, difference in rows])
    return [
        {
            **row,
            "difference": difference["estimate"],
            "low": difference["low"],
            "high": difference["high"],
            "p_value": difference["p_value"],
            "holm": difference["holm"],
            "detectable": difference["detectable"],
        }
        for (row, _), difference in zip(rows, adjusted, strict=True)
    ]


def _changes(
    name: str, first: Asked, second: Asked, sides: list[Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Yield the examples of a task whose answers differ."""
    rows = [read_jsonl(require_results(*asked)[0] / f"{name}.jsonl") for asked in (first, second)]
    for place, pair in enumerate(zip(*(side[name]["items"] for side in sides), strict=True)):
        if pair[0]["parsed"] != pair[1]["parsed"]:
            told = {
                side: {"parsed": item["parsed"], "correct": item["correct"], "text": row[place].get("text")}
                for side, item, row in zip(("first", "second"), pair, rows, strict=True)
            }
            asked = {"task": sides[0][name]["task"], "protocol": sides[0][name]["protocol"]}
            words = question(rows[0][place]["prompt"])
            yield {**asked, "id": pair[0]["id"], "question": words, "gold": pair[0]["gold"], **told}


def show(told: Mapping[str, Any], *, limit: int, as_json: bool) -> None:
    """Print a comparison: the table, then the first ``limit`` examples that differ."""
    if as_json:
        print(json.dumps({**told, "changes": told["changes"][:limit]}, indent=1, ensure_ascii=False))
        return
    print(f"first:  {told['first']}\nsecond: {told['second']}\n")
    columns = ("TASK", "PROTOCOL", "N", "FIRST", "SECOND", "DIFFERENCE", "95 %", "P", "HOLM", "DETECTABLE")
    print(text_table(columns, [_cells(row) for row in told["comparisons"]], wrapped=()))
    print(
        "\nIn percent and points, paired on examples. P: McNemar's exact test of a task, the paired bootstrap of an average;"
        "\nHOLM: corrected over this table, as 95 % is not; DETECTABLE: what four of five such comparisons would have found in it.\n"
    )
    changes = told["changes"]
    print(f"answers that differ: {len(changes)}; shown: {min(limit, len(changes))} (--limit)")
    for one in changes[:limit]:
        print(f"\n{one['id']}  {one['protocol']}  gold {one['gold']}\n{_indented(one['question'])}")
        for side in ("first", "second"):
            print(f"  {side}: {read_as(one[side])}")
            if one[side]["text"] is not None:
                print(_indented(one[side]["text"], by=4))


def _cells(row: Mapping[str, Any]) -> list[str]:
    points = [f"{100 * row[key]:+.1f}" for key in ("difference", "low", "high")]
    return [
        row["task"],
        row["protocol"],
        str(row["n"]),
        *(f"{100 * row[key]:.1f}" for key in ("first", "second")),
        points[0],
        f"[{points[1]}, {points[2]}]",
        *(f"{row[key]:.4f}" for key in ("p_value", "holm")),
        f"{100 * row['detectable']:.1f}",
    ]


def read_as(side: Mapping[str, Any]) -> str:
    """Return what was read in an answer, and whether it is right."""
    if side["parsed"] is None:
        return "not read"
    return f"{side['parsed']} ({'right' if side['correct'] else 'wrong'})"


def _indented(text: str, *, by: int = 2) -> str:
    return "\n".join(" " * by + line for line in text.strip().splitlines())
