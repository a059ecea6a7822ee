"""The special tokens of a tokenizer: start, end and padding."""

from collections.abc import Mapping
from typing import Any

from pipeline.core.errors import UserError

# value of a card's rule that keeps the tokenizer's own token
TOKENIZERS_OWN = "tokenizer"


def set_special_tokens(tokenizer: Any, rules: Mapping[str, str]) -> None:
    """Set a tokenizer's start, end and pad tokens by the ``tokens`` of a model card, and its padding to the right.

    Without a rule, the tokenizer's own tokens hold; a tokenizer without a pad token pads with its unknown token, else
    with its end token. LLaMA's unknown token has id 0, the pad token of the published commands. Padding is always
    masked, so the choice of the pad token changes no result. The settings are saved with the tokenizer.

    Args:
        tokenizer: a tokenizer of transformers.
        rules: "bos", "eos" and "pad", each optional, with the values of ``pipeline.params.models.Tokens``.

    Raises:
        UserError: the tokenizer lacks the token or has no end token, or adds another start token in spite of the rule.

    Source of the pad token: AGI-Edgerunners/LLM-Adapters at commit 8166572, finetune.py (tokenizer.pad_token_id = 0).
    """
    tokenizer.padding_side = "right"
    if (end := rules.get("eos", TOKENIZERS_OWN)) != TOKENIZERS_OWN:
        tokenizer.eos_token = _check_in_vocabulary(tokenizer, end, "eos")
    if (start := rules.get("bos", TOKENIZERS_OWN)) != TOKENIZERS_OWN:
        _set_start(tokenizer, None if start == "none" else _check_in_vocabulary(tokenizer, start, "bos"))
    special = {"unk": tokenizer.unk_token, "eos": tokenizer.eos_token}
    pad = rules.get("pad", TOKENIZERS_OWN)
    if pad != TOKENIZERS_OWN:
        tokenizer.pad_token = _check_in_vocabulary(tokenizer, special.get(pad, pad), "pad", rule=pad)
    elif tokenizer.pad_token_id is None:
        tokenizer.pad_token = special["unk"] or special["eos"]
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"tokens.eos: the tokenizer of {tokenizer.name_or_path} has no end token, so a response would have no end; "
            "set tokens.eos in the model's card to a token of its vocabulary"
        )


def check_embedded(model: Any, tokenizer: Any) -> None:
    """Check that a model has embeddings of the special tokens that its examples contain.

    Raises:
        UserError: with the token, its id and the number of embeddings.
    """
    count = len(model.get_input_embeddings().weight)
    ids = {"eos": tokenizer.eos_token_id, "pad": tokenizer.pad_token_id}
    if start := tokenizer("")["input_ids"][:1]:
        ids["bos"] = start[0]
    for field, token_id in ids.items():
        if token_id >= count:
            raise UserError(
                f"tokens.{field}: '{tokenizer.convert_ids_to_tokens(token_id)}' of the tokenizer of "
                f"{tokenizer.name_or_path} has the id {token_id}, but the model has {count} embeddings; set tokens.{field} in "
                "the model's card to a token that it knows"
            )


def _set_start(tokenizer: Any, token: str | None) -> None:
    """Make the tokenizer start every text with a token, or with none."""
    if token is not None:
        tokenizer.bos_token = token
    tokenizer.add_bos_token = token is not None
    start = tokenizer("")["input_ids"][:1]
    if start != ([] if token is None else [tokenizer.bos_token_id]):
        raise UserError(
            f"tokens.bos: the tokenizer of {tokenizer.name_or_path} starts every text with "
            f"{tokenizer.convert_ids_to_tokens(start)} despite the rule; remove the rule"
        )


def _check_in_vocabulary(tokenizer: Any, token: str | None, field: str, *, rule: str | None = None) -> str:
    if token is None or token not in tokenizer.get_vocab():
        raise UserError(f"tokens.{field}: the tokenizer of {tokenizer.name_or_path} has no '{rule or token}'")
    return token
