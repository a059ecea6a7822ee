"""data/README.md: every dataset from its card, and what leaks where."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.core.io import atomic_file
from pipeline.params.datasets import Dataset, HubSource, Source, Split
from pipeline.params.reading import PARAMS, read_card

PATH = Path("data/README.md")

_HEAD = """\
# data/

Generated from the cards by `python -m pipeline datasets --write`; a test fails when it is stale. How to add a set, look at one, or
work offline: docs/data.md.

| folder | what it holds | made by |
|---|---|---|
| `raw/` | rows of each dataset as its source has them, one JSON object a line | `fetch`, checked against the sums in `params/datasets/` |
| `prompts/` | records and prompts, Parquet | `prompts` |
| `shipped/` | the tiny bases of the default study | `base`; its recipe is in `params/models/` |

`raw/` and `prompts/` are versioned by DVC, not by git.
"""

_LEAKS = """\
## What leaks where

Test questions that stand in a training set: equal letters and digits, in lower case, of the whole question with its options, and of
what stands before the options where that is another count (PIQA's goals are short and shared by many questions). Of HellaSwag the
1,451 test rows of `hellaswag-partial` are counted. A pair that is not in the table has not been counted here: its training set was
not at hand. The audit of a study counts its own sets, and in more ways.
"""

_UNKNOWN = "not recorded in the card"


def write() -> None:
    """Write data/README.md anew."""
    with atomic_file(PATH) as temporary:
        temporary.write_text(readme(), encoding="utf-8")


def readme() -> str:
    """Return the text of data/README.md."""
    names = sorted(path.stem for path in (PARAMS / "datasets").glob("*.yaml"))
    cards: dict[str, Dataset] = {name: read_card("datasets", name) for name in names}
    world = {name: card for name, card in cards.items() if _made_here(card)}
    mixed = {name: card for name, card in cards.items() if card.parts}
    rest = {name: card for name, card in cards.items() if name not in world | mixed}
    parts = [_HEAD, _overview(rest), _LEAKS + "\n" + _leaks(cards)]
    parts += ["## Mixtures\n\n" + "\n".join(_mixture(name, card) for name, card in mixed.items()) + "\n"]
    parts += ["## The sets one by one\n", *(_described(name, card, cards) for name, card in rest.items())]
    parts.append(
        "## Made here\n\nSets of the default study's own world, by seed; no source but `pipeline/world/`.\n"
    )
    parts.append(
        _table(("card", "answer", "rows"), [(f"`{n}`", _form(c), _rows(c)) for n, c in world.items()])
    )
    return "\n".join(parts)


def _made_here(card: Dataset) -> bool:
    return any(source.kind == "world" for split in card.splits.values() for source in split.sources)


def _overview(cards: dict[str, Dataset]) -> str:
    rows = [
        (
            f"`{name}`",
            card.title,
            _form(card),
            _rows(card),
            card.licence or _UNKNOWN,
            card.citation or _UNKNOWN,
        )
        for name, card in cards.items()
    ]
    return "## Datasets\n\n" + _table(
        ("card", "set", "answer", "rows", "licence of the data", "citation"), rows
    )


def _form(card: Dataset) -> str:
    return {"text": "free text", None: "-"}.get(card.answer_form, str(card.answer_form))


def _rows(card: Dataset) -> str:
    told = [f"{name} {_count(split)}" for name, split in card.splits.items()]
    return ", ".join(told) or "-"


def _count(split: Split) -> str:
    return f"{split.rows:,}" if split.rows else "(counted at the first download)"


def _leaks(cards: dict[str, Dataset]) -> str:
    counted = {
        f"`{name}` {split}": one
        for name, card in cards.items()
        for split, one in card.splits.items()
        if one.holds
    }
    tests = dict.fromkeys(test for one in counted.values() for test in one.holds)
    rows = []
    for name, one in counted.items():
        found = [_found(test, count, cards) for test, count in one.holds.items() if count]
        stems = [_found(test, count, cards) for test, count in one.holds_stems.items()]
        none = [f"`{test}`" for test, n in one.holds.items() if not n and test not in one.holds_stems]
        rest = f"the other {len(none)}" if tests.keys() == one.holds.keys() else ", ".join(none)
        rows.append((name, "<br>".join(found) or "-", "<br>".join(stems) or "-", rest or "-"))
    head = ("training set", "holds test questions of", "... without their options of", "holds none of")
    return f"Counted were {', '.join(f'`{test}`' for test in tests)}.\n\n{_table(head, rows)}"


def _found(test: str, count: int, cards: dict[str, Dataset]) -> str:
    of = cards[test].splits["test"].rows or count
    return f"`{test}`: {count:,} of {of:,} ({100 * count / of:.1f} %)"


def _leaks_of(name: str, cards: dict[str, Dataset]) -> list[str]:
    """Return a line that says which training sets hold how many of a set's test questions."""
    counted = {
        other: (one.holds[name], one.holds_stems.get(name, one.holds[name]))
        for other, card in cards.items()
        for split, one in card.splits.items()
        if name in one.holds
    }
    if not counted:
        return []
    found = [
        f"`{other}` {whole:,}" + (f" (without options {stem:,})" if stem != whole else "")
        for other, (whole, stem) in sorted(counted.items(), key=lambda item: -max(item[1]))
        if whole or stem
    ]
    clean = sum(not any(counts) for counts in counted.values())
    return [
        f"- test questions that stand in training sets: {', '.join(found) or 'none'}; in {clean} of {len(counted)} counted none"
    ]


def _mixture(name: str, card: Dataset) -> str:
    cleaned = f"; without the test questions of {', '.join(f'`{test}`' for test in card.without)}"
    more = (cleaned if card.without else "") + (f"; {card.notes}" if card.notes else "")
    return f"- `{name}`: {', '.join(f'`{part}`' for part in card.parts)}{more}"


def _described(name: str, card: Dataset, cards: dict[str, Dataset]) -> str:
    lines = [f"### {card.title} (`{name}`, version {card.version})", ""]
    lines += [
        f"- {split}: {_count(one)} rows{_left_out(one)}; {_sum(one)}; from, in this order: {_from(one.sources)}"
        for split, one in card.splits.items()
    ]
    lines += _leaks_of(name, cards)
    lines += [f"- defect: {defect}" for defect in card.defects] or ["- no defects recorded"]
    if card.notes:
        lines.append(f"- note: {card.notes}")
    lines += [f"- version {version}: {change}" for version, change in sorted(card.changelog.items())]
    return "\n".join(lines) + "\n"


def _left_out(split: Split) -> str:
    return f" ({len(split.known_malformed)} malformed ones left out)" if split.known_malformed else ""


def _sum(split: Split) -> str:
    if split.sha256:
        return f"sha256 of its rows `{split.sha256[:12]}...`"
    blob = next((source.git_blob for source in split.sources if source.git_blob), None)
    return f"git blob `{blob[:12]}...`" if blob else "its sum is recorded at the first download"


def _from(sources: Iterable[HubSource | Source]) -> str:
    return ", ".join(_place(source) for source in sources)


def _place(source: HubSource | Source) -> str:
    if isinstance(source, HubSource):
        at = f"{source.repo_id} of the hub at {(source.revision or 'first download')[:7]}"
        link = f"https://huggingface.co/datasets/{source.repo_id}/tree/{source.revision or 'main'}"
        converted = ", put into the published words" if source.convert else ""
        return f"[{at}: {', '.join(source.files)}]({link}){converted}"
    if source.kind == "local":
        return f"`{source.path}` in data_root"
    found = re.fullmatch(r"https://raw\.githubusercontent\.com/([^/]+/[^/]+)/([0-9a-f]+)/(.+)", source.url)
    return f"[{found[1]} at {found[2][:7]}: {found[3]}]({source.url})" if found else f"<{source.url}>"


def _table(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines) + "\n"
