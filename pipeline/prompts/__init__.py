"""Prompts: from a dataset's records to the tokens that a model reads."""

from pipeline.params.templates import build_prompt
from pipeline.prompts.encode import encode, encode_example, render_example
from pipeline.prompts.rows import PromptRow
from pipeline.prompts.write import read_prompts, write_prompts

__all__ = [
    "PromptRow",
    "build_prompt",
    "encode",
    "encode_example",
    "read_prompts",
    "render_example",
    "write_prompts",
]
