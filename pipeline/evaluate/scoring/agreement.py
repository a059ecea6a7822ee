"""Where two protocols take different answers from one model, and why."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

from pipeline.core.io import read_json, read_jsonl
from pipeline.evaluate.scoring.score import read
from pipeline.prompts.write import read_prompts

# Why an answer is another one, each exactly one: the parsers read the same text otherwise; the text is another one, which
# either parser would read so; both; or at least one protocol takes the likeliest choice and reads no text.
CAUSES = ("parser", "text", "text and parser", "likelihood")

# What of a protocol's card can make its text another one, and the word for it.
_SETTINGS = {
    "template": "prompt",
    "num_beams": "beams",
    "max_new_tokens": "token limit",
    "padding": "padding",
    "shots": "shots",
    "continuation": "continuation",
    "headline": "normalisation",
}

Card = Mapping[str, Any]


def differ_in(first: Card, second: Card) -> list[str]:
    """Return what two protocols' cards do otherwise, in words; where just one is by likelihood, that alone."""
    if "likelihood" in {first["parser"], second["parser"]} and first["parser"] != second["parser"]:
        return ["likelihood against text"]
    found = [word for key, word in _SETTINGS.items() if first.get(key) != second.get(key)]
    return found + (["parser"] if first["parser"] != second["parser"] else [])


def agreement(
    runs: Iterable[Mapping[str, Any]],
    task: Mapping[str, Any],
    cards: Mapping[str, Card],
    *,
    scores: Callable[[Path], Any] = read_json,
) -> list[dict[str, Any]]:
    """Return a record for each pair of a task's protocols, the answers of all runs together.

    Args:
        runs: for each "scores" (a file) and "answers" (a directory).
        task: "name", "answer_form", "protocols" under which it is asked, and "prompts", a file for each.
        cards: the protocols' cards by name.
        scores: what reads a file of scores, of which there is one for all tasks of a run.

    Returns:
        For each pair {"protocols": [first, second], "differ_in", "n" (answers), "changed", "causes" (cause -> number),
        "unread": [under the first alone, under the second alone], "gained" and "lost" (right under the second alone,
        under the first alone), "changes": for each changed answer its run, id, gold, cause, and "first" and "second",
        each {"parsed", "correct", "text" (None under a likelihood protocol)}}.
    """
    pairs = list(combinations(task["protocols"], 2))
    records: list[dict[str, Any]] = [
        {
            "protocols": list(pair),
            "differ_in": differ_in(*(cards[name] for name in pair)),
            "n": 0,
            "changes": [],
        }
        for pair in pairs
    ]
    examples = {name: read_prompts(task["prompts"][name]) for name in task["protocols"]} if pairs else {}
    for run in runs if pairs else ():
        sides = _sides(run, task, cards, examples, scores(run["scores"])["tasks"])
        for record in records:
            first, second = (sides[name] for name in record["protocols"])
            record["n"] += len(first["items"])
            record["changes"] += [{"run": run["scores"], **one} for one in _changes(first, second)]
    return [_counted(record) for record in records]


def _sides(
    run: Mapping[str, Any],
    task: Mapping[str, Any],
    cards: Mapping[str, Card],
    examples: Mapping[str, Any],
    scores: Mapping[str, Any],
) -> dict[str, dict[str, Any]]:
    """Return what a run has of a task under each protocol: its judging, items, rows and examples."""
    sides = {}
    for name in task["protocols"]:
        key = f"{task['name']}-{name}"
        judging = {**cards[name], "answer_form": task["answer_form"]}
        rows = read_jsonl(run["answers"] / f"{key}.jsonl")
        sides[name] = {
            "judging": judging,
            "items": scores[key]["items"],
            "rows": rows,
            "examples": examples[name],
        }
    return sides


def _changes(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the examples whose answers differ, with the cause."""
    found = []
    for place, (one, other) in enumerate(zip(first["items"], second["items"], strict=True)):
        if one["parsed"] != other["parsed"]:
            told = {
                side: {
                    "parsed": item["parsed"],
                    "correct": item["correct"],
                    "text": judged["rows"][place].get("text"),
                }
                for side, item, judged in (("first", one, first), ("second", other, second))
            }
            cause = _cause(first, second, place)
            found.append({"id": one["id"], "gold": one["gold"], "cause": cause, **told})
    return found


def _cause(first: Mapping[str, Any], second: Mapping[str, Any], place: int) -> str:
    if "likelihood" in (first["judging"]["parser"], second["judging"]["parser"]):
        return "likelihood"
    row, other = first["rows"][place], second["rows"][place]
    again = read(first["examples"][place], row, second["judging"])
    if row["text"] == other["text"] or again == second["items"][place]["parsed"]:
        return "parser"
    return "text" if again == first["items"][place]["parsed"] else "text and parser"


def _counted(record: dict[str, Any]) -> dict[str, Any]:
    """Add the counts to a record of changes."""
    changes = record["changes"]
    causes = Counter(change["cause"] for change in changes)
    unread = [
        sum(change[side]["parsed"] is None for change in changes) for side in ("first", "second")
    ]  # what is unread under both is no change
    gained = sum(change["second"]["correct"] and not change["first"]["correct"] for change in changes)
    lost = sum(change["first"]["correct"] and not change["second"]["correct"] for change in changes)
    return {
        **record,
        "changed": len(changes),
        "causes": {cause: causes[cause] for cause in CAUSES if causes[cause]},
        "unread": unread,
        "gained": gained,
        "lost": lost,
    }
