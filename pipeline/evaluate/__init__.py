"""Evaluation: answers of a model (generate), what they say (extract), how good they are (score). Imports no torch."""

from pipeline.evaluate.scoring.extract import parse_answer

__all__ = ["parse_answer"]
