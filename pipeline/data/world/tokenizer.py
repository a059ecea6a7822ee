"""The word-level tokenizer of the small world: its vocabulary is the lexicon, sorted, whatever text is drawn."""

import re
from typing import TYPE_CHECKING

from pipeline.data.world import lexicon

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL = ["<unk>", "<s>", "</s>", "<pad>"]
# The fixed sentence and the headings of the prompt are one token each, which saves a tenth of all tokens.
PATTERN = r"Below is an .*? completes the request\.|### [A-Za-z]+:|\n+|[A-Za-z]+[0-9]?|[0-9]+|[^\sA-Za-z0-9]"


def vocabulary() -> list[str]:
    """Return every token that text of the world can hold, sorted, the special ones first."""
    texts: list[str] = list(
        _strings([value for name, value in sorted(vars(lexicon).items()) if name.isupper()])
    )
    texts.append(" + - * = . , ? : / ( ) _ \n \n\n")
    without_fields = (re.sub(r"\{[a-z]+\}", " ", text) for text in texts)
    words = {word for text in without_fields for word in re.findall(PATTERN, text)}
    return SPECIAL + sorted(words)


def word_tokenizer() -> "PreTrainedTokenizerFast":
    """Return the tokenizer; it puts ``<s>`` before every text, in pretraining, training and evaluation alike."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {word: i for i, word in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.WordLevel(vocab=ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(PATTERN), "removed", invert=True)
    tokenizer.decoder = decoders.WordPiece(cleanup=True)  # spaces between words, none before full stops
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


def label_ids() -> list[int]:
    """Return the ids of all labels, letters and truth values: the tokens that the first stage weighs more."""
    labels = {*lexicon.LABELS, *lexicon.LETTERS, *lexicon.TRUTH}
    return [i for i, word in enumerate(vocabulary()) if word in labels]


def _strings(value: object) -> list[str]:
    """Return all strings in nested lists, tuples and dicts."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [text for part in value for text in _strings(part)] if isinstance(value, list | tuple) else []
