"""data/README.md: every dataset from its card, and what leaks where."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.io import atomic_file
from pipeline.params import PARAMS, Dataset, HubSource, Source, Split, read_card

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

Test questions that stand in a training set as they are: equal letters and digits of the whole instruction, in lower case. A pair
that is not in the table has not been counted here. The audit of a study counts its own sets, and in more ways.
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
    parts += ["## The sets one by one\n", *(_described(name, card) for name, card in rest.items())]
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
    rows = []
    for name, card in cards.items():
        for split, described in card.splits.items():
            counts = {
                test: (count, cards[test].splits["test"].rows or 0) for test, count in described.holds.items()
            }
            found = [
                f"`{test}`: {n:,} of {of:,} ({100 * n / of:.1f} %)" for test, (n, of) in counts.items() if n
            ]
            none = [f"`{test}`" for test, (n, _) in counts.items() if not n]
            if counts:
                rows.append((f"`{name}` {split}", "<br>".join(found) or "-", ", ".join(none) or "-"))
    return _table(("training set", "holds test questions of", "holds none of"), rows)


def _mixture(name: str, card: Dataset) -> str:
    cleaned = f"; without the test questions of {', '.join(f'`{test}`' for test in card.without)}"
    more = (cleaned if card.without else "") + (f"; {card.notes}" if card.notes else "")
    return f"- `{name}`: {', '.join(f'`{part}`' for part in card.parts)}{more}"


def _described(name: str, card: Dataset) -> str:
    lines = [f"### {card.title} (`{name}`, version {card.version})", ""]
    lines += [
        f"- {split}: {_count(one)} rows{_left_out(one)}; {_sum(one)}; from, in this order: {_from(one.sources)}"
        for split, one in card.splits.items()
    ]
    lines += [f"- defect: {defect}" for defect in card.defects] or ["- no defects recorded"]
    if card.notes:
        lines.append(f"- note: {card.notes}")
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
