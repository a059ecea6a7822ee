"""The command `show`: one example of a dataset as a model sees it, in words or as tokens with the loss mask."""

from collections.abc import Sequence
from itertools import groupby
from typing import Annotated, Any

import typer

from pipeline.commands.look.examples import (
    CutoffOption,
    TemplateOption,
    load_tokenizer,
    raw_files,
)
from pipeline.commands.options import (
    DataRootOption,
    ModelsRootOption,
    SplitOption,
    data_root_folder,
    use_models_root,
)
from pipeline.core.errors import UserError
from pipeline.data.rows import RawFile, Record
from pipeline.params.templates import CHAT

# How the names of tokens write a space.
SPACES = "Ġ▁"


def show_command(
    context: typer.Context,
    dataset: Annotated[str, typer.Argument(help="Card in params/datasets/.")],
    row: Annotated[int, typer.Option("--row", help="Row, counted from 0.")] = 0,
    tokens: Annotated[
        bool, typer.Option("--tokens", help="Print the tokens, and which of them bear loss.")
    ] = False,
    model: Annotated[
        str, typer.Option("--model", help="Use the tokenizer of this model card or model folder.")
    ] = "tiny-llama",
    train_on_inputs: Annotated[
        bool, typer.Option(help="Include the prompt's tokens in the loss, or leave them out.")
    ] = True,
    split: SplitOption = None,
    template: TemplateOption = "strict",
    cutoff_len: CutoffOption = 256,
    data_root: DataRootOption = "",
    models_root: ModelsRootOption = "",
) -> None:
    """Print an example of a dataset as a model sees it."""
    folder = data_root_folder(context, data_root)
    use_models_root(context, models_root)
    record = find_record(raw_files(dataset, split, data_root=folder), row)
    tokenizer = load_tokenizer(model) if tokens or template == CHAT else None
    if tokens:
        print_tokens(
            record, tokenizer, template=template, cutoff_len=cutoff_len, train_on_inputs=train_on_inputs
        )
    else:
        print_example(record, tokenizer, template=template)


def find_record(files: Sequence[RawFile], row: int) -> Record:
    """Return the record of a row, counted from 0 as in its id; in a mixture, over its parts in order.

    Raises:
        UserError: no such row, or the card lists it as malformed.
    """
    from pipeline.prompts.write import read_raw_records

    number = -1
    for number, record in enumerate(read_raw_records(files)):
        if number == row if len(files) > 1 else record["id"].endswith(f"/{row}"):
            return record
    name = f"{files[0].dataset} ({files[0].split})" if len(files) == 1 else "the mixture"
    if row in files[0].known_malformed:
        raise UserError(f"{name}: row {row} is malformed, as its card says")
    raise UserError(f"{name}: no row {row} (it has {number + 1}, counted from 0)")


def print_example(record: Record, tokenizer: Any = None, *, template: str) -> None:
    """Print an example as text: the prompt in a template, and the response to learn.

    The template "chat" is the ``tokenizer``'s; the others need none.
    """
    from rich.console import Console
    from rich.text import Text

    from pipeline.prompts.encode import render_example
    from pipeline.prompts.rows import add_prompt

    # soft_wrap: otherwise rich breaks lines and drops white space, which is part of a prompt.
    console = Console(highlight=False, soft_wrap=True)
    example = render_example(tokenizer, add_prompt(record, template=template))
    _print_heading(console, record, template)
    console.print(Text.assemble(example["prompt"], (example["response"] or "(no response)", "green")))


def print_tokens(
    record: Record, tokenizer: Any, *, template: str, cutoff_len: int, train_on_inputs: bool
) -> None:
    """Print an example as its tokens, separated by "|": green where they bear loss, otherwise dim.

    The line before each run of tokens says the same without colour.
    """
    from rich.console import Console
    from rich.text import Text

    from pipeline.prompts.encode import IGNORED, encode_example, render_example
    from pipeline.prompts.rows import add_prompt

    console = Console(highlight=False, soft_wrap=True)
    example = render_example(tokenizer, add_prompt(record, template=template))
    text = example["prompt"] + example["response"]
    _print_heading(console, record, template)
    ids, labels = encode_example(tokenizer, example, cutoff_len=cutoff_len, train_on_inputs=train_on_inputs)
    uncut_ids, _ = encode_example(tokenizer, example)
    pieces = token_texts(tokenizer, ids, text)
    for bears_loss, group in groupby(
        zip(labels, pieces, strict=True), key=lambda labelled: labelled[0] != IGNORED
    ):
        texts = [piece.replace("\n", "\\n\n") for _, piece in group]
        console.print(f"{'loss' if bears_loss else 'no loss'}, {len(texts)} tokens:", style="bold")
        console.print(Text("|".join(texts), "green" if bears_loss else "dim"))
    cut_count = max(len(uncut_ids) - len(ids), 0)
    cut = f"; {cut_count} more are cut at {cutoff_len}" if cut_count else ""
    console.print(f"{len(ids)} tokens{cut}", style="bold")


def _print_heading(console: Any, record: Record, template: str) -> None:
    choices = f", choices {'/'.join(record['choices'])}" if record["choices"] else ""
    answer = f"answer {record['answer']} ({record['answer_form']}{choices})"
    if record["answer_form"] == "text":
        answer = "no answer to score"
    console.print(f"{record['id']}: {answer}; template {template}", style="bold", markup=False)


def token_texts(tokenizer: Any, ids: Sequence[int], text: str) -> list[str]:
    """Return the text that each token covers; special tokens by name, unknown words marked."""
    # Only fast tokenizers report which characters a token covers.
    if not tokenizer.is_fast:
        return list(tokenizer.convert_ids_to_tokens(ids))
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    spans = iter(encoded["offset_mapping"])
    start_was_added = ids[:1] != encoded["input_ids"][:1]
    text_end = start_was_added + len(encoded["input_ids"])
    pieces, covered = [], 0
    for number, (token, name) in enumerate(zip(ids, tokenizer.convert_ids_to_tokens(ids), strict=True)):
        is_added = number < start_was_added or number >= text_end
        start, end = (covered, covered) if is_added else next(spans, (covered, covered))
        if name[0] in SPACES and start > covered:
            # Some tokenizers leave the space out of the span of the token that holds it.
            start = covered
        # A token without a span of its own is a further byte of the same character.
        piece = text[start:end] if start >= covered and end > start else name
        is_unknown = token == tokenizer.unk_token_id and not is_added
        pieces.append(f"{name}({piece})" if is_unknown else piece)
        covered = max(covered, end)
    return pieces
