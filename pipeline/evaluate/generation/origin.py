"""Whether an adapter was trained on the base, and with the tokenizer, that it is to be asked with."""

import re
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError
from pipeline.core.io import read_json
from pipeline.prompts.encode import hash_tokenizer

_FINGERPRINT = re.compile(r"[0-9a-f]{12}")


def refuse_other_base(adapter: Path, base: Path, tokenizer: Any) -> None:
    """Refuse an adapter that says in its manifest that it was trained on another base, or with another tokenizer.

    Shapes alone would let a base of the same size pass, and its answers would be noise. An adapter without such a
    manifest, made elsewhere, is taken as it is.

    Args:
        adapter: its directory.
        base: directory of the base; its name or its manifest has the base's fingerprint.
        tokenizer: the base's, loaded.

    Raises:
        UserError: it names both.
    """
    if not (adapter / "manifest.json").is_file():
        return
    manifest = read_json(adapter / "manifest.json")
    trained_on, given = manifest.get("inputs", {}).get("base"), _fingerprint(base)
    if trained_on and given and trained_on != given:
        raise UserError(
            f"{adapter}: was trained on the base {trained_on}, not on {given} ({base}); name its own base"
        )
    trained_with, present = manifest.get("tokenizer"), hash_tokenizer(tokenizer)
    if trained_with and trained_with != present:
        raise UserError(
            f"{adapter}: was trained with the tokenizer {trained_with}, not with {present} ({base}); "
            "its token ids mean other text: restore the base's tokenizer files"
        )


def _fingerprint(base: Path) -> str | None:
    manifest = read_json(base / "manifest.json") if (base / "manifest.json").is_file() else {}
    named: str | None = manifest.get("fingerprint")
    return named or (base.name if _FINGERPRINT.fullmatch(base.name) else None)
