"""Evaluation: generate a model's answers, parse them and score them. Imports no torch."""

from pipeline.evaluate.parsing.extract import parse_answer

__all__ = ["parse_answer"]
