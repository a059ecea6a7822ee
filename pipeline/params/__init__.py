"""Typed cards: everything that a user may write in params/, checked before a job is planned."""

from pipeline.params.base import AnswerForm, Training, TrainingOverlay
from pipeline.params.datasets import Dataset
from pipeline.params.protocols import Decoding, Protocol
from pipeline.params.reading import PARAMS, parse_card, read_card, read_yaml
from pipeline.params.recipes import PretrainingRecipe
from pipeline.params.studies import Arm, Entry, StudyCard

__all__ = [
    "PARAMS",
    "AnswerForm",
    "Arm",
    "Dataset",
    "Decoding",
    "Entry",
    "PretrainingRecipe",
    "Protocol",
    "StudyCard",
    "Training",
    "TrainingOverlay",
    "parse_card",
    "read_card",
    "read_yaml",
]
