r"""The part of a model's text that is its answer: not its thoughts, and not what follows the answer.

- "<think>5? no.</think> 12" is "12", and a block of thoughts that is not closed leaves nothing.
- "The answer is 5.\n\n### Instruction:\nNext?" and "The answer is 5.</s> Next" are "The answer is 5.".
- "5 apples.\n\nI hope this helps!" is "5 apples.".
- Headings of the answer itself ("### Input values", "#### Day 2") begin no other example.
"""

import re
from typing import NamedTuple

_THOUGHTS = re.compile(
    r"<(?P<close>/?)(?:think|thinking|thoughts?|reasoning)>|\[(?P<end>/?)THINK\]", re.IGNORECASE
)
# no part of any text, wherever they are
_PADDING = re.compile(r"<s>|<bos>|<unk>|<pad>|\[PAD\]|<\|begin_of_text\|>")
_END = (
    r"</s>|<eos>|<\|endoftext\|>|<\|end_of_text\|>|<\|im_end\|>|<\|eot_id\|>|<\|end\|>|<end_of_turn>"
    r"|<｜end▁of▁sentence｜>"
)
_CHAT = (
    r"\[/?INST\]|<</?SYS>>|<\|im_start\|>(?:\w+\n)?|<start_of_turn>(?:\w+\n)?|<\|(?:user|assistant|system)\|>"
    r"|<\|start_header_id\|>\w*(?:<\|end_header_id\|>)?"
)
# The heads at which generation stops. They need the colon: "### Input" may still become another word.
_TEMPLATE_HEADS = r"(?<!\#)\#{2,}+\s*+(?:instruction|input|response)\s*+:|^[^\S\n]*+(?:q|question)\s*+:"
# Further heads, which do not stop generation, but whose text is no answer: "### Response", "**Question 2:**", "Human:".
_FURTHER_HEADS = (
    r"^[#*_> \t]{0,12}(?:"
    r"(?<=\#)\s?(?:instruction|input|response)[*_]{0,2}[^\S\n]*+$"
    r"|(?:q|question|problem|exercise|human|user|assistant)[*_]{0,2}[^\S\n]?:"
    r"|(?:q|question|problem|exercise|example)[^\S\n]?\#?\d{1,3}[*_]{0,2}[^\S\n]?(?::|$)"
    r"|(?<=\#\s)(?:example|task|query)[*_]{0,2}[^\S\n]?:)"
)
# Which special tokens the stop rule ignores, as it always did.
_SPECIAL_TOKEN = re.compile(r"</?s>|<unk>|<pad>|<\|endoftext\|>")
_STOP = re.compile(_TEMPLATE_HEADS, re.IGNORECASE | re.MULTILINE)
_BOUNDARY = re.compile(
    f"(?P<end>{_END})|{_CHAT}|{_TEMPLATE_HEADS}|{_FURTHER_HEADS}", re.IGNORECASE | re.MULTILINE
)
# "I hope this helps!", "Let me know if you have any questions."
_CLOSING = re.compile(
    r"(?:^|(?<=[.!?\n]))[^\w\n]*+"
    r"(?:i\s+hope\s+(?:this|that|it)\s+(?:helps|is\s+clear|makes\s+sense)|hope\s+(?:this|that|it)\s+helps"
    r"|(?:please\s+)?(?:let\s+me\s+know|feel\s+free)\b|if\s+you\s+(?:have|need)\s+(?:any|more|further)\b"
    r"|is\s+there\s+anything\s+else\b|(?:have\s+a|good\s+luck|happy\s+to\s+help|you['’]re\s+welcome|thank\s+you)\b)"
    r"[^\n\d.!?]{0,200}[^\w\n]*+$",
    re.IGNORECASE,
)
# characters at the end of a text in which a closing line is looked for
_TAIL = 400


class OwnAnswer(NamedTuple):
    """A model's own answer, and whether it ended: by itself, or by what follows it."""

    text: str
    ended: bool


def cut_to_first_answer(text: str, *, ended: bool = True) -> OwnAnswer:
    """Return the answer without thoughts and special tokens, up to an end mark or another example of the model's own.

    Args:
        text: what the model wrote.
        ended: whether it ended. A text that was cut off behind its answer counts as ended.
    """
    text, closed = _drop_thoughts(text.replace("\r\n", "\n").replace("\r", "\n"), opened_before=True)
    text = _PADDING.sub(" ", text)
    start = 0
    for match in _BOUNDARY.finditer(text):
        if text[start : match.start()].strip():
            text, ended = text[start : match.start()], True
            break
        start = match.end()
    else:
        # thoughts within another example are not about this answer
        if not closed:
            return OwnAnswer("", False)
        text = text[start:]
    text = text.strip()
    return OwnAnswer(_drop_closing_lines(text) if ended else text, ended)


def is_complete(text: str) -> bool:
    """Return whether a model has answered and begun another example, so that nothing that follows changes its answer.

    A complete text stays complete, whatever is appended to it. The marks are fewer than those that end an answer in
    ``cut_to_first_answer``: what is generated must not change with each version of the parser.
    """
    # text within thoughts that are still open may belong to the answer
    text, _ = _drop_thoughts(text, opened_before=False)
    text = _SPECIAL_TOKEN.sub(" ", text)
    begin = len(text) - len(text.lstrip())
    return any(match.start() > begin for match in _STOP.finditer(text))


def _drop_thoughts(text: str, *, opened_before: bool) -> tuple[str, bool]:
    """Return the text outside its blocks of thoughts, and whether the last of them is closed.

    With ``opened_before``, thoughts may have begun in the prompt, so a closing mark without an opening one ends them.
    """
    parts: list[str] = []
    position, thinking = 0, False
    for mark in _THOUGHTS.finditer(text):
        closing = bool(mark["close"] or mark["end"])
        if thinking and closing:
            thinking, position = False, mark.end()
        elif not thinking and not closing:
            parts.append(text[position : mark.start()])
            thinking = True
        elif not thinking and opened_before:
            parts.clear()
            position = mark.end()
    return "\n".join(parts if thinking else [*parts, text[position:]]), not thinking


def _drop_closing_lines(text: str) -> str:
    # "I hope this helps! Let me know if ..."
    for _ in range(3):
        tail = max(0, len(text) - _TAIL)
        match = _CLOSING.search(text, tail)
        if not match or not text[: match.start()].strip():
            return text
        text = text[: match.start()].rstrip()
    return text
