"""Examples and tokenizers for the commands that look at datasets: read from disk, or fetched when missing."""

import contextlib
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.core.errors import UserError, one_line
from pipeline.core.first_download import LOCK
from pipeline.data.rows import RawFile, RowPart
from pipeline.params.datasets import Dataset
from pipeline.params.reading import read_card
from pipeline.params.templates import CHAT, TEMPLATES
from pipeline.study import load_study
from pipeline.study.datasets import list_distilled

SHIPPED = Path("data/shipped")
BASES = Path("results/bases")

TemplateOption = Annotated[
    str,
    typer.Option(
        "--template", help=f"Prompt template: {', '.join(TEMPLATES)} or {CHAT} (that of the model)."
    ),
]
CutoffOption = Annotated[
    int,
    typer.Option(
        "--cutoff-len", min=1, help="Maximum length in tokens; longer examples are cut on the right."
    ),
]


def raw_files(dataset: str, split: str | None, *, data_root: Path | None) -> list[RawFile]:
    """Return the raw files of a dataset or mixture; missing ones are fetched.

    Args:
        dataset: a card of params/datasets/.
        split: None: train for a mixture; otherwise test, or the first split.
        data_root: folder of local dataset files.

    Raises:
        UserError: no such dataset or split, or it cannot be fetched.
    """
    from pipeline.data.fetch import fetch_split

    study, card = load_study(), read_card("datasets", dataset)
    if distilled := list_distilled(dataset):
        raise UserError(
            f"'{distilled[0]}' is written by a teacher, in a study that trains on it; its rows are then in "
            f"results/distilled/sets/{distilled[0]}/"
        )
    if card.without:
        raise UserError(
            f"'{dataset}' exists only as prompts, since it is cleaned when they are written; use one of its parts "
            f"({', '.join(card.parts)})"
        )
    files: list[RawFile] = []
    for part in card.parts or [dataset]:
        part_card = read_card("datasets", part)
        part_split = split or _default_split(part_card, "train" if card.parts else "test")
        raw = study.raw(part, part_split)
        if not raw.path.exists():
            # Standard output is for the example; the messages of the download go to standard error.
            with contextlib.redirect_stdout(sys.stderr):
                fetch_split(
                    part,
                    part_split,
                    part_card.splits[part_split].model_dump(),
                    output=raw.path,
                    data_root=data_root,
                    lock=LOCK,
                )
        files.append(
            RawFile(
                dataset=part,
                split=part_split,
                path=raw.path,
                answer_form=part_card.answer_form,
                known_malformed=part_card.splits[part_split].known_malformed,
                part=RowPart(**hashed.model_dump())
                if (hashed := part_card.splits[part_split].part)
                else None,
            )
        )
    return files


def _default_split(card: Dataset, preferred: str) -> str:
    return preferred if preferred in card.splits or not card.splits else next(iter(card.splits))


def load_tokenizer(model: str) -> Any:
    """Return the tokenizer of a model card, a shipped or pretrained base, or a folder; no weights are loaded.

    Raises:
        UserError: it is missing and cannot be downloaded.
    """
    from transformers import AutoTokenizer

    from pipeline.models.bases import hub
    from pipeline.models.bases.local import locate_model
    from pipeline.models.special_tokens import set_special_tokens

    # What is on disk comes first, so that nothing is downloaded without need.
    folders = [SHIPPED / model, *sorted((BASES / model).glob("*")), Path(model)]
    folder = next((path for path in folders if (path / "tokenizer_config.json").is_file()), None)
    source: dict[str, Any] = {"pretrained_model_name_or_path": str(folder), "local_files_only": True}
    token_rules: dict[str, str] = {}
    if folder is None:
        card = read_card("models", model)
        if card.kind == "local":
            source["pretrained_model_name_or_path"] = str(locate_model(card.path))
        elif card.kind == "endpoint":
            raise UserError(
                f"model '{model}': it is behind an endpoint, and its tokenizer is not on this machine; choose another model"
            )
        elif card.kind == "hub":
            source = {"pretrained_model_name_or_path": card.repo_id, "revision": hub.pinned_revision(card)}
            if found := hub.check_hub_model(card):
                source = {"pretrained_model_name_or_path": str(found), "local_files_only": True}
        else:
            raise UserError(
                f"model '{model}': its base is not on disk; run a study that uses it, or choose another model"
            )
        token_rules = card.tokens.model_dump()
    try:
        tokenizer = AutoTokenizer.from_pretrained(**source, trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"model '{model}': cannot load its tokenizer: {one_line(error)[:300]}") from None
    set_special_tokens(tokenizer, token_rules)
    return tokenizer
