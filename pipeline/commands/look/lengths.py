"""The command `lengths`: what a cutoff takes from the examples of datasets."""

from collections.abc import Iterable
from statistics import median
from typing import Annotated, Any, NamedTuple

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
from pipeline.core.text import format_percent, print_table
from pipeline.data.rows import Record
from pipeline.params.templates import CHAT

NAMES = ("DATASET", "SPLIT", "MODEL")
NUMBERS = ("EXAMPLES", "MEDIAN", "LONGEST", "CUT", "ANSWER LOST", "RESPONSE GONE", "NO RESPONSE")


class CutoffCounts(NamedTuple):
    """What a cutoff takes from the examples of a dataset.

    Attributes:
        examples: number of examples.
        median: their median length in tokens: prompt, response and end token.
        longest: the longest, in tokens.
        cut: examples that the cutoff shortens by a token of their text or more.
        answer_lost: cut examples whose response no longer states the answer: its last mention does not fit or, without a
            mention, the response's end. None where no example has a response.
        response_gone: cut examples that keep no token of the response; None as before.
        no_response: examples without a response: missing, or empty.
    """

    examples: int
    median: float
    longest: int
    cut: int
    answer_lost: int | None
    response_gone: int | None
    no_response: int


def lengths_command(
    context: typer.Context,
    dataset: Annotated[list[str], typer.Argument(help="Cards in params/datasets/.")],
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="Use the tokenizers of these model cards or model folders (default: tiny-llama).",
        ),
    ] = None,
    split: SplitOption = None,
    template: TemplateOption = "strict",
    cutoff_len: CutoffOption = 256,
    data_root: DataRootOption = "",
    models_root: ModelsRootOption = "",
) -> None:
    """Count the tokens of the examples of datasets, and how many examples a cutoff truncates."""
    from pipeline.prompts.write import read_raw_records

    folder = data_root_folder(context, data_root)
    use_models_root(context, models_root)
    rows = []
    for model_name in model or ["tiny-llama"]:
        tokenizer = load_tokenizer(model_name)
        for name in dataset:
            files = raw_files(name, split, data_root=folder)
            counts = count_lengths(
                read_raw_records(files), tokenizer, template=template, cutoff_len=cutoff_len
            )
            rows.append(table_row(name, files[0].split, model_name, counts))
    print(f"template {template}, cutoff_len {cutoff_len}")
    print_table((*NAMES, *NUMBERS), rows, right=NUMBERS)


def count_lengths(
    records: Iterable[Record], tokenizer: Any, *, template: str, cutoff_len: int
) -> CutoffCounts:
    """Count what a cutoff takes from the examples of a dataset.

    Raises:
        UserError: there are no records.
    """
    from pipeline.prompts.encode import encode, render_example
    from pipeline.prompts.rows import add_prompt

    lengths, cut, lost, gone, responses, empty = [], 0, 0, 0, 0, 0
    # A chat template writes the start token itself, or none.
    start: dict[str, Any] = {"add_start": template != CHAT}
    for record in records:
        example = render_example(tokenizer, add_prompt(record, template=template))
        prompt, response = example["prompt"], example["response"]
        responses += bool(response)
        empty += not record["response"].strip()
        ids, _ = encode(tokenizer, prompt, response, add_eos=False, **start)
        lengths.append(len(ids) + (bool(response) and ids[-1] != tokenizer.eos_token_id))
        if len(ids) > cutoff_len:
            cut += 1
            up_to_answer = prompt + response[: _end_of_answer(response, record["answer"])]
            lost += bool(response) and len(encode(tokenizer, up_to_answer, **start)[0]) > cutoff_len
            gone += bool(response) and len(encode(tokenizer, prompt, **start)[0]) >= cutoff_len
    if not lengths:
        raise UserError("no examples, so there are no tokens to count")
    return CutoffCounts(
        examples=len(lengths),
        median=median(lengths),
        longest=max(lengths),
        cut=cut,
        answer_lost=lost if responses else None,
        response_gone=gone if responses else None,
        no_response=empty,
    )


def _end_of_answer(response: str, answer: str) -> int:
    """Return where the last mention of the answer ends in the response; its end if there is none."""
    # Records have numbers as floats ("7.0"), responses often as "7".
    spellings = [answer, answer.removesuffix(".0")] if answer else []
    ends = [response.rfind(spelling) + len(spelling) for spelling in spellings if spelling in response]
    return max(ends, default=len(response))


def table_row(dataset: str, split: str, model: str, counts: CutoffCounts) -> tuple[str, ...]:
    """Return the counts of a dataset as cells of the table."""
    return (
        dataset,
        split,
        model,
        str(counts.examples),
        f"{counts.median:.0f}",
        str(counts.longest),
        *(
            _format_share(count, counts.examples)
            for count in (counts.cut, counts.answer_lost, counts.response_gone, counts.no_response)
        ),
    )


def _format_share(count: int | None, total: int) -> str:
    return "-" if count is None else f"{count} ({format_percent(count / total)} %)"
