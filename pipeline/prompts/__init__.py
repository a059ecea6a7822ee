"""Prompts: from a dataset's rows to the tokens that a model reads."""

from pipeline.params.templates import build_prompt
from pipeline.prompts.encode import encode, encode_example, rendered
from pipeline.prompts.write import read_prompts, write_prompts

__all__ = ["build_prompt", "encode", "encode_example", "read_prompts", "rendered", "write_prompts"]
