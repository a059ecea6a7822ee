"""The command `predict`: answers to your own questions, from a run of a study."""

import json
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from importlib import import_module
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands.options import (
    AnyStudyOption,
    DeviceOption,
    ModelsRootOption,
    RunOption,
    use_models_root,
)
from pipeline.core.errors import UserError
from pipeline.params.protocols import Decoding
from pipeline.study import find

if TYPE_CHECKING:
    from pipeline.evaluate.generation.predict import Prediction

# lines of stdin that are read, and answered, at once
STDIN_GROUP = 32

QuestionArgument = Annotated[
    list[str] | None,
    typer.Argument(
        help="Questions. With - they are read from standard input, one per line; without any you type them one by one. "
        "Write -- before a question that starts with -."
    ),
]
InputOption = Annotated[
    str,
    typer.Option(
        "--input",
        show_default=False,
        help="Input that belongs to the question; the prompt shows it under '### Input:'.",
    ),
]
ProtocolOption = Annotated[
    str | None,
    typer.Option(
        "--protocol", help="Protocol of the study that sets template and decoding (default: the first)."
    ),
]
MaxNewTokensOption = Annotated[
    int | None,
    typer.Option(
        "--max-new-tokens",
        help="Maximum number of tokens in an answer (default: as many as the protocol allows).",
    ),
]


def predict_command(
    context: typer.Context,
    run: RunOption,
    question: QuestionArgument = None,
    study: AnyStudyOption = None,
    input_text: InputOption = "",
    protocol: ProtocolOption = None,
    max_new_tokens: MaxNewTokensOption = None,
    num_beams: Annotated[
        int | None, typer.Option("--num-beams", help="Number of beams (default: the protocol's).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each answer.")] = False,
    device: DeviceOption = "auto",
    gpus_per_job: Annotated[
        int, typer.Option("--gpus-per-job", min=1, help="Number of GPUs to split the base over.")
    ] = 1,
    models_root: ModelsRootOption = "",
) -> None:
    """Answer your questions with a trained adapter or a bare base."""
    from pipeline.core.hardware import devices

    questions = question or []
    use_models_root(context, models_root)
    run_study, found_run = find.find_run(run, study)
    chosen = find.choose_decoding(run_study, found_run, protocol)
    decoding = override_decoding(chosen, max_new_tokens=max_new_tokens, num_beams=num_beams)
    # Before a question is read, so that nobody types one in vain.
    base, adapter = find.require_model(run_study, found_run)
    # Libraries warn their own developers with these; they say nothing to the person at the terminal.
    warnings.simplefilter("ignore", FutureWarning)
    groups = group_questions(questions)
    # imports torch, so only once the options are known to be valid
    from pipeline.evaluate.generation.predict import predict

    with devices.claim_device(device, gpus=gpus_per_job) as claimed_device:
        answers = predict(
            base,
            adapter,
            groups,
            input=input_text,
            decoding=decoding,
            device=claimed_device,
            gpus=gpus_per_job,
        )
        try:
            print_answers(answers, as_json=as_json, with_questions=len(questions) > 1 or questions == ["-"])
        except KeyboardInterrupt:
            # The user interrupted a long generation.
            raise typer.Exit(130) from None


def override_decoding(decoding: Decoding, *, max_new_tokens: int | None, num_beams: int | None) -> Decoding:
    """Return a decoding with the values of the command line in place of its own; None: its own."""
    changed = decoding.copy()
    if max_new_tokens is not None:
        changed["max_new_tokens"] = max_new_tokens
    if num_beams is not None:
        changed["num_beams"] = num_beams
    return changed


def group_questions(questions: Sequence[str]) -> Iterator[Sequence[str]]:
    """Return the questions of a command line in groups: its arguments, the lines of stdin for "-", or a conversation.

    Raises:
        UserError: a question is empty, or there is none and no terminal to type one at.
    """
    if list(questions) == ["-"]:
        return _read_stdin()
    if any(not question.strip() for question in questions):
        raise UserError("a question is empty; write a question or leave it out")
    if questions:
        return iter([questions])
    if not sys.stdin.isatty():
        raise UserError("no question; pass questions in quotes, or - to read one per line from stdin")
    return _converse()


def _read_stdin() -> Iterator[Sequence[str]]:
    lines = (line.strip() for line in sys.stdin)
    questions = (line for line in lines if line)
    while group := list(islice(questions, STDIN_GROUP)):
        yield group


def _converse() -> Iterator[Sequence[str]]:
    """Yield the questions that the user types, one at a time."""
    # importing readline gives input() its line editing
    with suppress(ImportError):
        import_module("readline")
    print("one question per line; an empty line ends the conversation", file=sys.stderr)
    while True:
        try:
            line = input("? ").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if not line:
            return
        yield [line]


def print_answers(answers: Iterable["Prediction"], *, as_json: bool, with_questions: bool) -> None:
    """Print answers as they come: the text alone, the text under its question, or a line of JSON each."""
    for answer in answers:
        if as_json:
            print(json.dumps(answer, ensure_ascii=False), flush=True)
            continue
        if with_questions:
            print(f"> {answer['question']}")
        print(answer["answer"], end="\n\n" if with_questions else "\n", flush=True)
        for note in _list_notes(answer):
            print(f"note: {note}", file=sys.stderr, flush=True)


def _list_notes(answer: "Prediction") -> Iterator[str]:
    if answer["unknown_tokens"]:
        yield f"the tokenizer does not know {answer['unknown_tokens']} words or characters of the question"
    if answer["prompt_cut"]:
        yield "the prompt was too long; its beginning was cut"
    if answer["stop"] == "length":
        yield f"stopped after {answer['tokens']} tokens; --max-new-tokens allows more"
