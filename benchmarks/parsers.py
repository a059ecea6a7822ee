r"""How many answers of real models each parser reads right, wrong or not at all, by source.

The folder has answers in files ``*.jsonl`` or ``*.jsonl.gz`` with the keys source, dataset, form ("number" or "letter"), text,
gold, choices (a map, or null) and ended. A model's own mistake counts as wrong for every parser, so only the rows of one
source can be compared.

    python -m benchmarks.parsers FOLDER              # a minute on a core
    python -m benchmarks.parsers FOLDER --half 2     # the half whose texts were looked at less while `strict` 4 was written

The parsers: `strict` and `paper` of this project; the two filters of lm-evaluation-harness' task gsm8k (their patterns, applied
as there); and math-verify, where it is installed.

Source: EleutherAI/lm-evaluation-harness 0.4.13, lm_eval/tasks/gsm8k/gsm8k.yaml (filter_list).
"""

import argparse
import gzip
import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NotRequired, TypedDict

from pipeline.evaluate.parsing.extract import is_correct, parse
from pipeline.evaluate.scoring.rows import ParsedAnswer

OUTCOMES = ("right", "wrong", "unparsed")
STRICT_MATCH = re.compile(r"#### (\-?[0-9\.\,]+)")
FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")


class Answer(TypedDict):
    """A row of a file of answers."""

    source: str
    dataset: str
    form: str
    text: str
    gold: str
    choices: dict[str, str] | None
    ended: NotRequired[bool]


def main() -> None:
    """Print a table for each answer form."""
    options_parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options_parser.add_argument("folder", type=Path, help="with the files of answers")
    options_parser.add_argument(
        "--half", type=int, choices=(1, 2), help="use only these answers, by the sum of their text"
    )
    options = options_parser.parse_args()
    answers = [
        answer for answer in read_answers(options.folder) if options.half in (None, half_of(answer["text"]))
    ]
    if not answers:
        raise SystemExit(f"{options.folder}: no answers in files *.jsonl or *.jsonl.gz")
    for form in sorted({answer["form"] for answer in answers}):
        print_table(form, [answer for answer in answers if answer["form"] == form])


def read_answers(folder: Path) -> Iterator[Answer]:
    """Yield the answers of all files of a folder that have the keys of ``Answer``."""
    for path in sorted([*folder.glob("*.jsonl"), *folder.glob("*.jsonl.gz")]):
        body = path.read_bytes()
        lines = gzip.decompress(body) if path.suffix == ".gz" else body
        for row in map(json.loads, lines.decode().strip().split("\n")):
            if {"source", "form", "text", "gold"} <= set(row):
                yield row


def half_of(text: str) -> int:
    """Return 1 for the half of the answers that `strict` version 4 was mostly developed on, 2 for the other."""
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % 2 + 1


def parsers_for(form: str) -> dict[str, Callable[[Answer], ParsedAnswer]]:
    """Return name -> parser of the answer form."""
    parsers: dict[str, Callable[[Answer], ParsedAnswer]] = {
        "strict": partial(read_with, "strict"),
        "paper": partial(read_with, "paper"),
    }
    if form == "number":
        parsers["strict-match"] = lambda answer: to_number(STRICT_MATCH.findall(answer["text"])[:1])
        parsers["flexible-extract"] = lambda answer: to_number(
            ["".join(groups) for groups in FLEXIBLE.findall(answer["text"])][-1:]
        )
        if find_spec("math_verify"):
            parsers["math_verify"] = partial(read_with, "math_verify")
    return parsers


def read_with(parser: str, answer: Answer) -> ParsedAnswer:
    """Return what one of this project's parsers reads."""
    choices, ended = answer.get("choices"), answer.get("ended", True)
    return parse(answer["text"], form=answer["form"], parser=parser, choices=choices, ended=ended)


def to_number(matches: list[str]) -> float | None:
    """Return a match as a number, without what the harness ignores: commas, dollar signs and a point at the end."""
    try:
        return float(re.sub(r"[,$]|\.$", "", matches[0]))
    except (IndexError, ValueError):
        return None


def print_table(form: str, answers: list[Answer]) -> None:
    """Print the shares in percent for each source, all sources last."""
    parsers = parsers_for(form)
    counts: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for answer in answers:
        for name, read in parsers.items():
            value = read(answer)
            right = is_correct(value, answer["gold"], form=form, parser="strict")
            outcome = "unparsed" if value is None else "right" if right else "wrong"
            for source in (answer["source"], "all"):
                counts[source][name][outcome] += 1
    print(f"\n{form}: right, wrong, unparsed in percent\n")
    print("| source | n | " + " | ".join(parsers) + " |")
    print("|---|---" + "|---" * len(parsers) + "|")
    for source in [*sorted(set(counts) - {"all"}), "all"]:
        n = counts[source]["strict"].total()
        cells = [
            ", ".join(f"{100 * counts[source][name][outcome] / n:.1f}" for outcome in OUTCOMES)
            for name in parsers
        ]
        print(f"| {source} | {n:,} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
