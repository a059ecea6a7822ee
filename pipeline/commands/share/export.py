"""The command `export`: a trained adapter and its model card as a folder for the Hugging Face Hub."""

import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.options import AnyStudyOption, ModelsRootOption, RunOption, use_models_root
from pipeline.core.errors import UserError
from pipeline.core.io import atomic_directory, read_json
from pipeline.study import Study, find
from pipeline.study.run import Run

# Records of the pipeline, which the model card repeats; they are no part of the adapter.
RECORDS = ("manifest.json", "run.json", "history.jsonl", "timing.jsonl", "README.md")


def export_command(
    context: typer.Context,
    run: RunOption,
    output: Annotated[Path, typer.Option("--output", help="Folder to write; it must be new or empty.")],
    study: AnyStudyOption = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Write the base with the adapter merged into its weights.")
    ] = False,
    models_root: ModelsRootOption = "",
) -> None:
    """Write an adapter and its model card as a folder for the hub."""
    # Libraries warn their own developers with these; they say nothing to the person at the terminal.
    warnings.simplefilter("ignore", FutureWarning)
    use_models_root(context, models_root)
    folder = Path(os.path.abspath(context.obj / output))
    export_adapter(*find.find_run(run, study), output=folder, merge=merge)
    print(f"written: {folder}")


def export_adapter(study: Study, run: Run, *, output: Path, merge: bool) -> None:
    """Write a run's adapter and its model card into a new folder.

    Args:
        study: the study of the run.
        run: a run with an adapter.
        output: folder to write; it is missing, or empty.
        merge: write the base with the adapter merged in, and the tokenizer, instead of the adapter.

    Raises:
        UserError: a bare base, a run that is not trained yet, a folder that is not empty, a method that cannot be merged.
    """
    from pipeline.commands.share.model_card import collect_facts, render_card

    base, adapter = find.require_model(study, run)
    if run.adapter is None or adapter is None:
        raise UserError(f"run '{run.name}' is a bare base, so there is no adapter to export")
    _check_output(output)
    card_form = _card_form(adapter)
    facts = collect_facts(study, run, run.adapter)
    if merge:
        _check_mergeable(adapter, card_form)
        _refuse_quantized(facts.training)
    with atomic_directory(output) as temporary:
        if merge:
            weights = facts.decoding.get("weights", "float32")
            _write_merged(base, adapter, weights=weights, output=temporary)
        else:
            _copy_adapter(adapter, temporary)
        card = render_card(facts, form="merged" if merge else card_form)
        (temporary / "README.md").write_text(card, encoding="utf-8")


def _check_output(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise UserError(f"--output: {output} is a file; choose a folder")
    if output.is_dir() and any(output.iterdir()):
        raise UserError(f"--output: {output} is not empty; choose a new folder")


def _card_form(adapter: Path) -> str:
    """Return "peft", "bottleneck" or, where a method saves the whole model, "full"."""
    config = adapter / "adapter_config.json"
    if not config.exists():
        return "full"
    return "bottleneck" if read_json(config)["peft_type"] == "BOTTLENECK" else "peft"


def _copy_adapter(adapter: Path, output: Path) -> None:
    for path in sorted(adapter.iterdir()):
        # Hidden files are Snakemake's.
        if path.name not in RECORDS and not path.name.startswith("."):
            copy = shutil.copytree if path.is_dir() else shutil.copyfile
            copy(path, output / path.name)


def _check_mergeable(adapter: Path, card_form: str) -> None:
    """Refuse a method that cannot be merged, before any weight is loaded."""
    if card_form == "full":
        raise UserError("--merge: a fully trained model is complete already; leave out --merge")
    from pipeline.adapters.bottleneck.layer import MERGE_REFUSAL

    if card_form == "bottleneck":
        raise UserError(f"--merge: {MERGE_REFUSAL}")
    from peft import PeftConfig

    config = PeftConfig.from_pretrained(str(adapter))
    if config.is_prompt_learning:
        raise UserError(
            f"--merge: {config.peft_type.value} cannot be merged into its base: its virtual tokens precede each "
            "prompt and change no weight; export the adapter without --merge"
        )


def _refuse_quantized(training: Mapping[str, object]) -> None:
    if quantization := training.get("quantization"):
        raise UserError(
            f"--merge: the adapter was trained on a base quantized to {quantization}, and rounding the merged weights would "
            "lose it; export the adapter without --merge"
        )


def _write_merged(base: Path, adapter: Path, *, weights: str, output: Path) -> None:
    """Write the merged model in float32, and its tokenizer.

    Args:
        base: directory of the base model.
        adapter: directory of the adapter.
        weights: dtype that the base's weights were rounded to when the adapter was evaluated. The merged weights are not:
            16 bits would round most of the adapter away.
        output: directory to write.
    """
    from transformers import GenerationConfig

    from pipeline.evaluate.generation.loading import load_model
    from pipeline.evaluate.generation.merging import fold_adapter

    model, tokenizer = load_model(base, adapter, "float32", "cpu", weights=weights)
    try:
        merged = fold_adapter(model)
    except UserError as error:
        raise UserError(f"--merge: {error}") from error
    own = merged.generation_config
    # transformers refuses to write some sampling settings that bases come with.
    tokens = {name: getattr(own, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    merged.generation_config = GenerationConfig(**tokens)
    merged.save_pretrained(output)
    tokenizer.save_pretrained(output)
