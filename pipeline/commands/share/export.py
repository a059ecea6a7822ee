"""A trained adapter as a folder for the hub: its files, or the base with it merged in, and its model card."""

import shutil
from pathlib import Path

from pipeline.commands.share.model_card import facts, render
from pipeline.core.errors import UserError
from pipeline.core.io import atomic_directory, read_json
from pipeline.study import Study, find
from pipeline.study.run import Run

# of the pipeline, not of the adapter; the card says what they say
RECORDS = ("manifest.json", "run.json", "history.jsonl", "timing.jsonl", "README.md")


def export(study: Study, run: Run, *, output: Path, merge: bool) -> None:
    """Write a run's adapter and its model card into a new folder.

    Args:
        study: that has the run.
        run: a trained one.
        output: folder to write; it does not exist, or is empty.
        merge: write the base with the adapter folded in, and the tokenizer, instead of the adapter.

    Raises:
        UserError: a bare base, a run that is not trained yet, a folder that holds something, a method that cannot be merged.
    """
    base, adapter = find.require_model(study, run)
    if run.adapter is None or adapter is None:
        raise UserError(f"run '{run.label.strip('/')}' is a bare base, so there is no adapter to export")
    _check_output(output)
    form = _form(adapter)
    told = facts(study, run, run.adapter)
    dtype = told["decoding"].get("dtype", "float32")
    if merge:
        _check_mergeable(adapter, form)
    with atomic_directory(output) as temporary:
        if merge:
            _merge(base, adapter, dtype=dtype, output=temporary)
        else:
            _copy(adapter, temporary)
        card = render(told, form="merged" if merge else form, dtype=dtype)
        (temporary / "README.md").write_text(card, encoding="utf-8")


def _check_output(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise UserError(f"--output: {output} is a file; name a folder")
    if output.is_dir() and any(output.iterdir()):
        raise UserError(f"--output: {output} is not empty; name a new folder")


def _form(adapter: Path) -> str:
    """Return "peft", "bottleneck" or, where a method saves the whole model, "full"."""
    config = adapter / "adapter_config.json"
    if not config.exists():
        return "full"
    return "bottleneck" if read_json(config)["peft_type"] == "BOTTLENECK" else "peft"


def _copy(adapter: Path, output: Path) -> None:
    for path in sorted(adapter.iterdir()):
        if path.name not in RECORDS and not path.name.startswith("."):
            copy = shutil.copytree if path.is_dir() else shutil.copyfile
            copy(path, output / path.name)


def _check_mergeable(adapter: Path, form: str) -> None:
    """Refuse what cannot be merged, before any weight is loaded."""
    if form == "full":
        raise UserError("--merge: a fully trained model is whole already; leave --merge out")
    from pipeline.adapters.bottleneck.layer import MERGE_REFUSAL

    if form == "bottleneck":
        raise UserError(f"--merge: {MERGE_REFUSAL}")
    from peft import PeftConfig

    config = PeftConfig.from_pretrained(str(adapter))
    if config.is_prompt_learning:
        raise UserError(
            f"--merge: {config.peft_type.value} cannot be merged into its base: its virtual tokens stand ahead of each "
            "prompt and are no change of a weight; export the adapter without --merge"
        )


def _merge(base: Path, adapter: Path, *, dtype: str, output: Path) -> None:
    """Write the merged model and its tokenizer, in the type of weights in which the adapter was evaluated."""
    from transformers import GenerationConfig

    from pipeline.evaluate.generation.loading import load_model
    from pipeline.evaluate.generation.merging import folded

    model, tokenizer = load_model(base, adapter, dtype, "cpu")
    try:
        merged = folded(model)
    except UserError as error:
        raise UserError(f"--merge: {error}") from error
    own = merged.generation_config
    # a base's own sampling settings may be such that transformers refuses to write them
    tokens = {name: getattr(own, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    merged.generation_config = GenerationConfig(**tokens)
    merged.save_pretrained(output)
    tokenizer.save_pretrained(output)
