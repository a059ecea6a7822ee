r"""Markdown, LaTeX and tags as plain text, so that the other modules need not know them.

- "**Answer**: 12" is "Answer: 12", and "<answer>12</answer>" is "Answer: 12" in a line of its own.
- "\frac{3}{4}", "3½" and "1{,}000" are "3/4", "3 1/2" and "1,000".
- "2**3" and "\sqrt{16}" remain: they are calculations.
"""

import re
import unicodedata

_PLAIN = [
    (re.compile(r"<(?:final[ _]?)?answer>\s*+", re.IGNORECASE), "\nAnswer: "),
    (re.compile(r"</(?:final[ _]?)?answer>", re.IGNORECASE), "\n"),
    # bold, but not the power of "2**3" or "2 ** 3"
    (re.compile(r"(?<![\w)])\*\*(?=\S)|(?<=\S)\*\*(?![\w(])"), ""),
    (re.compile(r"(?<![\w)])__(?=[^\s_])|(?<=[^\s_])__(?!\w)"), ""),
    (re.compile(r"[\u00a0\u2009\u202f]"), " "),
]
# Replacements that turn LaTeX and signs into plain text, in this order.
_MARKUP = [
    # GSM8K's mark of a calculator: "8 * 3 = <<8*3=24>>24"
    (re.compile(r"<<[^<>\n]{0,200}>>"), ""),
    (re.compile(r"\\(?:text|mathrm|mathbf|textbf|mbox)\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"(\d)\s{0,9}\\[dt]?frac\s?\{([\d.]+)\}\s?\{([\d.]+)\}"), r"\1 \2/\3"),
    (re.compile(r"\\[dt]?frac\s?\{([\d.]+)\}\s?\{([\d.]+)\}"), r"\1/\2"),
    # "\frac34"
    (re.compile(r"(\d)\s{0,9}\\[dt]?frac\s?(\d)\s?(\d)(?!\d)"), r"\1 \2/\3"),
    (re.compile(r"\\[dt]?frac\s?(\d)\s?(\d)(?!\d)"), r"\1/\2"),
    (re.compile(r"\\(?:times|cdot)\b"), "×"),
    (re.compile(r"\\div\b"), "÷"),
    (re.compile(r"\\(?:approx|simeq)\b"), "≈"),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\(?:left|right|!|,|;|quad|displaystyle)"), ""),
    (re.compile(r"\\([$%#&])"), r"\1"),
    (re.compile(r"\^\{(-?\d+)\}"), r"^\1"),
    (re.compile(r"\$([^$\n]*[^$\s\\])\$(?!\d)"), r" \1 "),
    (re.compile(r"\\[()\[\]]"), " "),
    (re.compile("\u2212"), "-"),
    (re.compile("\u2044"), "/"),
    # a calculation that continues in the next line
    (re.compile(r"(?<!=)=[^\S\n]*+\n\s*+(?=[\d$€£(.-])|\n[^\S\n]*+=[^\S\n]*+(?![=\n])"), " = "),
]
_HALVES = re.compile(r"(?:(\d) ?)?([¼½¾⅐-⅞])(?!\w)")


def format_plainly(text: str) -> str:
    """Return a text without bold type, tags of answers and uncommon spaces."""
    for pattern, replacement in _PLAIN:
        text = pattern.sub(replacement, text)
    return text


def strip_markup(text: str) -> str:
    """Return a text without its LaTeX and Markdown."""
    text = format_plainly(text)
    for pattern, replacement in _MARKUP:
        text = pattern.sub(replacement, text)
    return _HALVES.sub(_spell_fraction, text)


def _spell_fraction(match: re.Match[str]) -> str:
    """Return "3 1/2" for "3½"."""
    fraction = unicodedata.normalize("NFKC", match[2]).replace("\u2044", "/")
    return f"{match[1]} {fraction}" if match[1] else fraction
