"""The word-level tokenizer of the small world: its vocabulary is the sorted lexicon and depends on no seed."""

import re
from typing import TYPE_CHECKING

from pipeline.data.world import lexicon

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL = ["<unk>", "<s>", "</s>", "<pad>"]
# The fixed sentence of the prompt and each of its headings are one token, which saves a tenth of all tokens.
PATTERN = r"Below is an .*? completes the request\.|### [A-Za-z]+:|\n+|[A-Za-z]+[0-9]?|[0-9]+|[^\sA-Za-z0-9]"


def build_vocabulary() -> list[str]:
    """Return all tokens that text of the world can contain: the special tokens, then the words in sorted order."""
    texts: list[str] = list(
        _nested_strings([value for name, value in sorted(vars(lexicon).items()) if name.isupper()])
    )
    texts.append(" + - * = . , ? : / ( ) _ \n \n\n")
    without_fields = (re.sub(r"\{[a-z]+\}", " ", text) for text in texts)
    words = {word for text in without_fields for word in re.findall(PATTERN, text)}
    return SPECIAL + sorted(words)


def build_tokenizer() -> "PreTrainedTokenizerFast":
    """Return the tokenizer; it starts every text with ``<s>``, in pretraining, training and evaluation."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {word: i for i, word in enumerate(build_vocabulary())}
    tokenizer = Tokenizer(models.WordLevel(vocab=ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(PATTERN), "removed", invert=True)
    # spaces between words, but not before full stops
    tokenizer.decoder = decoders.WordPiece(cleanup=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", ids["<s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
    )


def label_token_ids() -> list[int]:
    """Return the ids of all labels, letters and truth values, which weigh more in the loss of the first stage."""
    labels = {*lexicon.LABELS, *lexicon.LETTERS, *lexicon.TRUTH}
    return [i for i, word in enumerate(build_vocabulary()) if word in labels]


def _nested_strings(value: object) -> list[str]:
    """Return all strings in nested lists, tuples and dicts."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return (
        [text for part in value for text in _nested_strings(part)] if isinstance(value, list | tuple) else []
    )
