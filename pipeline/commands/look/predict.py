"""The command `predict`: answers to your own questions, from a run of a study."""

import warnings
from typing import Annotated

import typer

from pipeline.commands.options import AnyStudyOption, DeviceOption, RunOption
from pipeline.study import find


def predict_command(
    run: RunOption,
    question: Annotated[
        list[str] | None,
        typer.Argument(
            help="One or several questions; - reads one per line from stdin; none starts a conversation."
        ),
    ] = None,
    study: AnyStudyOption = None,
    input_text: Annotated[
        str, typer.Option("--input", show_default=False, help="Input of the instruction, under '### Input:'.")
    ] = "",
    protocol: Annotated[
        str | None,
        typer.Option(
            "--protocol", help="Protocol of the study, for template and decoding (default: the first)."
        ),
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", help="Default: the most that the study allows.")
    ] = None,
    num_beams: Annotated[int | None, typer.Option("--num-beams", help="Default: the protocol's.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each answer.")] = False,
    device: DeviceOption = "auto",
) -> None:
    """Answer questions with a trained adapter, or a bare base, in the terminal."""
    from pipeline.core import devices
    from pipeline.evaluate.generation.predict import asked, predict, show

    questions = question or []
    run_study, found_run = find.find_run(run, study)
    decoding = find.choose_decoding(run_study, found_run, protocol)
    if max_new_tokens is not None:
        decoding["max_new_tokens"] = max_new_tokens
    if num_beams is not None:
        decoding["num_beams"] = num_beams
    base, adapter = find.require_model(run_study, found_run)
    # Libraries warn their own developers with these; they say nothing to the person at the terminal.
    warnings.simplefilter("ignore", FutureWarning)
    groups = asked(questions)
    with devices.claim_device(device) as claimed_device:
        answers = predict(base, adapter, groups, input=input_text, decoding=decoding, device=claimed_device)
        try:
            show(answers, as_json=as_json, with_questions=len(questions) > 1 or questions == ["-"])
        except KeyboardInterrupt:
            # The user interrupted a long generation.
            raise typer.Exit(130) from None
