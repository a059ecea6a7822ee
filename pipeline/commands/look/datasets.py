"""The command `datasets`: data/README.md, every dataset from its card and which training sets leak which tests."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

import typer

from pipeline.core.io import atomic_file
from pipeline.core.text import format_percent
from pipeline.params.datasets import Dataset, Distillation, HubSource, Source, Split
from pipeline.params.reading import PARAMS, read_card

PATH = Path("data/README.md")

_HEAD = """\
# data/

Generated from the cards by `python -m pipeline datasets --write`; a test fails when it is stale. How to add a dataset, look at one,
or work offline: docs/data.md.

| folder | contents | written by |
|---|---|---|
| `raw/` | rows of each dataset as its source has them, one JSON object per line | `fetch`, checked against the checksums in `params/datasets/` |
| `prompts/` | records and prompts, Parquet | `prompts` |
| `shipped/` | the tiny bases of the default study | `base`; its recipe is in `params/models/` |

`raw/` and `prompts/` are versioned by DVC, not by git.
"""

_LEAKS = """\
## Test questions in training sets

A test question counts as leaked if a training question has the same letters and digits, in lower case. The first count compares
whole questions with their options. The second compares only what precedes the options, and is listed where it differs (PIQA's
goals are short, and many questions share one). HellaSwag is counted on the 1,451 test rows of `hellaswag-partial`. A pair that is
not in the table was not counted, because its training set was not available. The audit of a study counts the study's own training
sets, by more methods.
"""

_UNKNOWN = "not recorded in the card"

Cards = Mapping[str, Dataset]


def datasets_command(
    write: Annotated[
        bool, typer.Option("--write", help="Write the description to data/README.md instead of printing it.")
    ] = False,
) -> None:
    """Describe every dataset from its card, in Markdown."""
    if not write:
        print(data_readme(), end="")
        return
    with atomic_file(PATH) as temporary:
        temporary.write_text(data_readme(), encoding="utf-8")
    print(f"written: {PATH}")


def data_readme() -> str:
    """Return the text of data/README.md."""
    names = sorted(path.stem for path in (PARAMS / "datasets").glob("*.yaml"))
    cards: Cards = {name: read_card("datasets", name) for name in names}
    generated = {name: card for name, card in cards.items() if _is_generated(card)}
    mixtures = {name: card for name, card in cards.items() if card.parts}
    distilled = {name: card for name, card in cards.items() if card.distilled}
    published = {name: card for name, card in cards.items() if name not in generated | mixtures | distilled}
    parts = [_HEAD, _overview(published), _LEAKS + "\n" + _leak_table(cards)]
    parts += ["## Mixtures\n\n" + "\n".join(_mixture_line(name, mixtures[name]) for name in mixtures) + "\n"]
    lines = [_distilled_line(name, card.distilled) for name, card in distilled.items() if card.distilled]
    parts += ["## Sets that a teacher writes\n\ndocs/distillation.md\n\n" + "\n".join(lines) + "\n"]
    parts += ["## Each dataset\n", *(_dataset_section(name, cards) for name in published)]
    parts.append(
        "## Generated datasets\n\nDatasets of the default study's synthetic world, generated from a seed; their only source is `pipeline/data/world/`.\n"
    )
    rows = [(f"`{name}`", _answer_form(card), _row_counts(card)) for name, card in generated.items()]
    parts.append(_markdown_table(("card", "answer", "rows"), rows))
    return "\n".join(parts)


def _is_generated(card: Dataset) -> bool:
    return any(source.kind == "world" for split in card.splits.values() for source in split.sources)


def _overview(cards: Cards) -> str:
    columns = ("card", "dataset", "answer", "rows", "licence of the data", "citation")
    rows = [
        (
            f"`{name}`",
            card.title,
            _answer_form(card),
            _row_counts(card),
            card.licence or _UNKNOWN,
            card.citation or _UNKNOWN,
        )
        for name, card in cards.items()
    ]
    return "## Datasets\n\n" + _markdown_table(columns, rows)


def _answer_form(card: Dataset) -> str:
    return {"text": "free text", None: "-"}.get(card.answer_form, str(card.answer_form))


def _row_counts(card: Dataset) -> str:
    return ", ".join(f"{name} {_row_count(split)}" for name, split in card.splits.items()) or "-"


def _row_count(split: Split) -> str:
    return f"{split.rows:,}" if split.rows else "(counted at the first download)"


def _leak_table(cards: Cards) -> str:
    """Return the table of the training sets whose leaks are counted, with the tests counted for any of them."""
    splits = {
        f"`{name}` {split_name}": split
        for name, card in cards.items()
        for split_name, split in card.splits.items()
        if split.holds
    }
    tests = dict.fromkeys(test for split in splits.values() for test in split.holds)
    rows = []
    for label, split in splits.items():
        whole = [_leak_count(test, count, cards) for test, count in split.holds.items() if count]
        stems = [_leak_count(test, count, cards) for test, count in split.holds_stems.items()]
        clean = [
            f"`{test}`" for test, count in split.holds.items() if not count and test not in split.holds_stems
        ]
        # "the other N" is true only of a set that was compared with every test
        remaining = f"the other {len(clean)}" if tests.keys() == split.holds.keys() else ", ".join(clean)
        rows.append((label, "<br>".join(whole) or "-", "<br>".join(stems) or "-", remaining or "-"))
    columns = ("training set", "test questions of", "... without their options of", "none of")
    return f"Counted tests: {', '.join(f'`{test}`' for test in tests)}.\n\n{_markdown_table(columns, rows)}"


def _leak_count(test: str, count: int, cards: Cards) -> str:
    total = cards[test].splits["test"].rows or count
    return f"`{test}`: {count:,} of {total:,} ({format_percent(count / total)} %)"


def _leaks_of_test(test: str, cards: Cards) -> list[str]:
    """Return a line that says which training sets hold how many questions of a test."""
    # Training set -> leaked questions with their options, and without them.
    counts = {
        # holds_stems has a test only where the two counts differ
        name: (split.holds[test], split.holds_stems.get(test, split.holds[test]))
        for name, card in cards.items()
        for split in card.splits.values()
        if test in split.holds
    }
    if not counts:
        return []
    leaks = [
        f"`{name}` {whole:,}" + (f" (without options {stem:,})" if stem != whole else "")
        for name, (whole, stem) in sorted(counts.items(), key=lambda item: -max(item[1]))
        if whole or stem
    ]
    clean_count = sum(not any(pair) for pair in counts.values())
    return [
        f"- test questions in training sets: {', '.join(leaks) or 'none'}; {clean_count} of {len(counts)} counted sets have none"
    ]


def _mixture_line(name: str, card: Dataset) -> str:
    cleaned = f"; without the test questions of {', '.join(f'`{test}`' for test in card.without)}"
    notes = (cleaned if card.without else "") + (f"; {card.notes}" if card.notes else "")
    return f"- `{name}`: {', '.join(f'`{part}`' for part in card.parts)}{notes}"


def _distilled_line(name: str, distilled: Distillation) -> str:
    teacher = distilled.teacher
    trained = f" with {teacher.method}, trained in the arm {teacher.arm}" if teacher.arm else ""
    sources = ", ".join(f"`{source.dataset}`" for source in distilled.sources)
    answers = "right answers" if distilled.filter == "right" else "all answers"
    return f"- `{name}`: {answers} of `{teacher.model}`{trained} to the training questions of {sources}"


def _dataset_section(name: str, cards: Cards) -> str:
    card = cards[name]
    lines = [f"### {card.title} (`{name}`, version {card.version})", ""]
    lines += [
        f"- {split_name}: {_row_count(split)} rows{_malformed(split)}; {_checksum(split)}; from, in this order: {_sources(split.sources)}"
        for split_name, split in card.splits.items()
    ]
    lines += _leaks_of_test(name, cards)
    lines += [f"- defect: {defect}" for defect in card.defects] or ["- no defects recorded"]
    if card.notes:
        lines.append(f"- note: {card.notes}")
    lines += [f"- version {version}: {change}" for version, change in sorted(card.changelog.items())]
    return "\n".join(lines) + "\n"


def _malformed(split: Split) -> str:
    return f" ({len(split.known_malformed)} malformed rows left out)" if split.known_malformed else ""


def _checksum(split: Split) -> str:
    if split.sha256:
        return f"sha256 of its rows `{split.sha256[:12]}...`"
    blob = next((source.git_blob for source in split.sources if source.git_blob), None)
    return f"git blob `{blob[:12]}...`" if blob else "its checksum is recorded at the first download"


def _sources(sources: Iterable[HubSource | Source]) -> str:
    return ", ".join(_source(source) for source in sources)


def _source(source: HubSource | Source) -> str:
    if isinstance(source, HubSource):
        origin = f"{source.repo_id} on the hub at {(source.revision or 'first download')[:7]}"
        link = f"https://huggingface.co/datasets/{source.repo_id}/tree/{source.revision or 'main'}"
        converted = ", converted to the published wording" if source.convert else ""
        return f"[{origin}: {', '.join(source.files)}]({link}){converted}"
    if source.kind == "local":
        return f"`{source.path}` in data_root"
    github = re.fullmatch(r"https://raw\.githubusercontent\.com/([^/]+/[^/]+)/([0-9a-f]+)/(.+)", source.url)
    return f"[{github[1]} at {github[2][:7]}: {github[3]}]({source.url})" if github else f"<{source.url}>"


def _markdown_table(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [columns, ("---",) * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
