"""The special tokens that frame an example."""

from collections.abc import Mapping
from typing import Any

from pipeline.core.errors import UserError

TOKENIZERS_OWN = "tokenizer"  # in a card's rules for special tokens


def set_special_tokens(tokenizer: Any, rules: Mapping[str, str]) -> None:
    """Make a tokenizer's start, end and pad token those of a model card's ``tokens``; padding goes on the right.

    Without a rule the tokenizer's own hold, and one without a pad token pads with its unknown or else its end token.
    LLaMA's unknown token is number 0, the pad token of the published commands. Padding is always masked, so the choice
    of the pad token changes no result. What is set here is saved with the tokenizer.

    Args:
        tokenizer: of transformers.
        rules: "bos", "eos" and "pad", each optional, with the values of ``pipeline.params.models.Tokens``.

    Raises:
        UserError: the tokenizer has no such token, or puts another start token ahead whatever it is told.

    Source of the pad token: AGI-Edgerunners/LLM-Adapters at commit 8166572, finetune.py (tokenizer.pad_token_id = 0).
    """
    tokenizer.padding_side = "right"
    if (end := rules.get("eos", TOKENIZERS_OWN)) != TOKENIZERS_OWN:
        tokenizer.eos_token = _known_token(tokenizer, end, "eos")
    if (start := rules.get("bos", TOKENIZERS_OWN)) != TOKENIZERS_OWN:
        _set_start(tokenizer, None if start == "none" else _known_token(tokenizer, start, "bos"))
    named = {"unk": tokenizer.unk_token, "eos": tokenizer.eos_token}
    pad = rules.get("pad", TOKENIZERS_OWN)
    if pad != TOKENIZERS_OWN:
        tokenizer.pad_token = _known_token(tokenizer, named.get(pad, pad), "pad", rule=pad)
    elif tokenizer.pad_token_id is None:
        tokenizer.pad_token = named["unk"] or named["eos"]


def _set_start(tokenizer: Any, token: str | None) -> None:
    """Put a token ahead of every text, or none."""
    if token is not None:
        tokenizer.bos_token = token
    tokenizer.add_bos_token = token is not None
    found = tokenizer("")["input_ids"][:1]
    if found != ([] if token is None else [tokenizer.bos_token_id]):
        raise UserError(
            f"tokens.bos: the tokenizer of {tokenizer.name_or_path} puts {tokenizer.convert_ids_to_tokens(found)} ahead "
            "of a text whatever it is told; leave the rule out"
        )


def _known_token(tokenizer: Any, token: str | None, field: str, *, rule: str | None = None) -> str:
    if token is None or token not in tokenizer.get_vocab():
        raise UserError(f"tokens.{field}: the tokenizer of {tokenizer.name_or_path} has no '{rule or token}'")
    return token
