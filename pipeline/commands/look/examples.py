"""A dataset as a model sees it: one example with its tokens and loss mask, and what a cutoff takes from each."""

import contextlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

from pipeline.core.errors import UserError, one_line
from pipeline.data.fetch import fetch
from pipeline.data.rows import RawFile, Record
from pipeline.models import hub
from pipeline.models.special_tokens import set_special_tokens
from pipeline.params.datasets import Dataset
from pipeline.params.reading import read_card
from pipeline.params.templates import CHAT
from pipeline.prompts.encode import IGNORED, encode, encode_example, render_example
from pipeline.prompts.rows import add_prompt
from pipeline.prompts.write import read_raw_records
from pipeline.study import load_study

SHIPPED = Path("data/shipped")
BASES = Path("results/bases")
SPACES = "Ġ▁"  # how the names of tokens write a space
COLUMNS = (
    "DATASET",
    "SPLIT",
    "MODEL",
    "EXAMPLES",
    "MEDIAN",
    "LONGEST",
    "CUT",
    "ANSWER LOST",
    "RESPONSE GONE",
)


def sources(dataset: str, split: str | None, *, data_root: Path | None, lock: Path | None) -> list[RawFile]:
    """Return the raw files of a dataset or mixture, for ``read_raw_records``; what is not there is fetched.

    Args:
        dataset: of params/datasets/.
        split: None: "test" if it has one, else its first.
        data_root: folder of local dataset files.
        lock: as for ``fetch``.

    Raises:
        UserError: no such dataset or split, or it is not to be had.
    """
    study, card = load_study(), read_card("datasets", dataset)
    if card.without:
        parts = ", ".join(card.parts)
        raise UserError(
            f"'{dataset}' is cleaned while its prompts are made: name what it is made from ({parts})"
        )
    found: list[RawFile] = []
    for part in card.parts or [dataset]:
        one: Dataset = read_card("datasets", part)
        chosen = split or _usual_split(one, "train" if card.parts else "test")
        raw = study.raw(part, chosen)
        if not raw.path.exists():
            described = {"dataset": part, **one.model_dump()}
            with contextlib.redirect_stdout(sys.stderr):  # what is asked for is the output, not this
                fetch(described, chosen, output=raw.path, data_root=data_root, lock=lock)
        left_out = one.splits[chosen].known_malformed
        found.append(
            RawFile(
                dataset=part,
                split=chosen,
                path=raw.path,
                answer_form=one.answer_form,
                known_malformed=left_out,
            )
        )
    return found


def _usual_split(card: Dataset, usual: str) -> str:
    return usual if usual in card.splits or not card.splits else next(iter(card.splits))


def example(files: Sequence[RawFile], row: int) -> Record:
    """Return the record of a row, counted from 0 as in its id; of a mixture, over its parts in their order.

    Raises:
        UserError: there is no such row, or it is one that the card lists as malformed.
    """
    number = -1
    for number, record in enumerate(read_raw_records(files)):
        if number == row if len(files) > 1 else record["id"].endswith(f"/{row}"):
            return record
    name = f"{files[0].dataset} ({files[0].split})" if len(files) == 1 else "the mixture"
    if row in files[0].known_malformed:
        raise UserError(f"{name}: row {row} is malformed, as its card says")
    raise UserError(f"{name}: no row {row} (it has {number + 1}, counted from 0)")


def tokenizer_of(model: str) -> Any:
    """Return the tokenizer of a model card, a shipped or pretrained base, or a directory; weights are not touched.

    Raises:
        UserError: it is not there, or not to be had; it says what to do.
    """
    from transformers import AutoTokenizer

    directories = [SHIPPED / model, *sorted((BASES / model).glob("*")), Path(model)]
    place = next((path for path in directories if (path / "tokenizer_config.json").is_file()), None)
    named: dict[str, Any] = {"pretrained_model_name_or_path": str(place), "local_files_only": True}
    rules: dict[str, str] = {}
    if place is None:
        card = read_card("models", model)
        if card.kind != "hub":
            raise UserError(f"model '{model}': not pretrained yet; run a study that uses it, or name another")
        named = {"pretrained_model_name_or_path": card.repo_id, "revision": hub.revision(card)}
        rules = card.tokens.model_dump()
    try:
        tokenizer = AutoTokenizer.from_pretrained(**named)
    except (OSError, ValueError, ImportError) as error:
        told = one_line(error)
        raise UserError(f"model '{model}': its tokenizer cannot be loaded: {told[:300]}") from None
    set_special_tokens(tokenizer, rules)
    return tokenizer


def show(record: Record, tokenizer: Any = None, *, template: str) -> None:
    """Print an example in words: what is asked in a template, and the response that is to be learnt.

    The template "chat" is the ``tokenizer``'s; the others need none.
    """
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    example = render_example(tokenizer, add_prompt(record, template=template))
    _print_head(console, record, template)
    console.print(Text.assemble(example["prompt"], (example["response"] or "(no response)", "green")))


def show_tokens(
    record: Record, tokenizer: Any, *, template: str, cutoff_len: int, train_on_inputs: bool
) -> None:
    """Print an example as its tokens, divided by "|": those that bear loss in green, the others dim.

    The counts before each run of tokens say the same where there is no colour.
    """
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    example = render_example(tokenizer, add_prompt(record, template=template))
    text = example["prompt"] + example["response"]
    _print_head(console, record, template)
    fields: dict[str, Any] = {"cutoff_len": cutoff_len, "train_on_inputs": train_on_inputs}
    ids, labels = encode_example(tokenizer, example, **fields)
    whole, _ = encode_example(tokenizer, example)
    pieces = _pieces(tokenizer, ids, text)
    for bears, run in groupby(zip(labels, pieces, strict=True), key=lambda one: one[0] != IGNORED):
        kept = [piece.replace("\n", "\\n\n") for _, piece in run]
        console.print(f"{'loss' if bears else 'no loss'}, {len(kept)} tokens:", style="bold")
        console.print(Text("|".join(kept), "green" if bears else "dim"))
    cut = max(len(whole) - len(ids), 0)
    console.print(
        f"{len(ids)} tokens" + (f"; {cut} more are cut at {cutoff_len}" if cut else ""), style="bold"
    )


def _print_head(console: Any, record: Record, template: str) -> None:
    choices = f", of {'/'.join(record['choices'])}" if record["choices"] else ""
    answer = f"answer {record['answer']} ({record['answer_form']}{choices})"
    answer = "no answer to judge" if record["answer_form"] == "text" else answer
    console.print(f"{record['id']}: {answer}; template {template}", style="bold", markup=False)


def _pieces(tokenizer: Any, ids: Sequence[int], text: str) -> list[str]:
    """Return what each token stands for in the text; special tokens by their names, unknown words marked."""
    if not tokenizer.is_fast:
        return list(tokenizer.convert_ids_to_tokens(ids))
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    pieces, taken, done = [], iter(encoded["offset_mapping"]), 0
    start_added = ids[:1] != encoded["input_ids"][:1]
    text_ends = start_added + len(encoded["input_ids"])
    for number, (token, name) in enumerate(zip(ids, tokenizer.convert_ids_to_tokens(ids), strict=True)):
        added = number < start_added or number >= text_ends
        start, end = (done, done) if added else next(taken, (done, done))
        if name[0] in SPACES and start > done:
            start = done  # some tokenizers leave the space out of the span of a token that holds it
        piece = (
            text[start:end] if start >= done and end > start else name
        )  # else: a further byte of one character
        unknown = token == tokenizer.unk_token_id and not added
        pieces.append(f"{name}({piece})" if unknown else piece)
        done = max(done, end)
    return pieces


def lengths(
    records: Iterable[Record], tokenizer: Any, *, template: str, cutoff_len: int
) -> Mapping[str, Any]:
    """Count what a cutoff takes from the examples of a dataset.

    Returns:
        examples; median and longest, in tokens of prompt, response and end token; cut: examples that the cutoff shortens
        by a token of their text or more; answer_lost: of these, those whose response no longer says the answer (its last
        mention does not fit; where it has none, its end); response_gone: those that keep no token of the response. The
        last two are None where no example has a response.

    Raises:
        UserError: there are no records.
    """
    counts, cut, lost, gone, responses = [], 0, 0, 0, 0
    start: dict[str, Any] = {"add_start": template != CHAT}
    for record in records:
        example = render_example(tokenizer, add_prompt(record, template=template))
        prompt, response = example["prompt"], example["response"]
        responses += bool(response)
        text, _ = encode(tokenizer, prompt, response, add_eos=False, **start)
        counts.append(len(text) + (bool(response) and text[-1] != tokenizer.eos_token_id))
        if len(text) > cutoff_len:
            cut += 1
            said = response[: _end_of_answer(response, record["answer"])]
            lost += bool(response) and len(encode(tokenizer, prompt + said, **start)[0]) > cutoff_len
            gone += bool(response) and len(encode(tokenizer, prompt, **start)[0]) >= cutoff_len
    if not counts:
        raise UserError("no examples to count tokens of")
    told = {"examples": len(counts), "median": median(counts), "longest": max(counts), "cut": cut}
    return told | {
        "answer_lost": lost if responses else None,
        "response_gone": gone if responses else None,
    }


def _end_of_answer(response: str, answer: str) -> int:
    """Return where the last mention of the answer ends in the response; its end if there is none."""
    forms = [answer, answer.removesuffix(".0")] if answer else []
    ends = [response.rfind(form) + len(form) for form in forms if form in response]
    return max(ends, default=len(response))


def length_table(rows: Iterable[tuple[str, str, str, Mapping[str, Any]]]) -> str:
    """Return the counts of datasets (name, split, model, counts) as a table of plain text."""
    cells: list[tuple[str, ...]] = [COLUMNS]
    for dataset, split, model, told in rows:
        shares = [_share(told[key], told["examples"]) for key in ("cut", "answer_lost", "response_gone")]
        numbers = [str(told["examples"]), f"{told['median']:.0f}", str(told["longest"])]
        cells.append((dataset, split, model, *numbers, *shares))
    widths = [max(len(row[column]) for row in cells) for column in range(len(COLUMNS))]
    lines = []
    for row in cells:
        aligned = [
            cell.ljust(w) if n < 3 else cell.rjust(w)
            for n, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(aligned).rstrip())
    return "\n".join(lines)


def _share(count: int | None, total: int) -> str:
    return "-" if count is None else f"{count} ({100 * count / total:.1f} %)"
