"""Contamination: which test questions a training set contains, exactly or nearly, and which questions sets repeat."""

from pipeline.audit.cleaning import find_leaks
from pipeline.audit.matching import find_matches, overlap
from pipeline.audit.questions import ANY, METHODS
from pipeline.audit.write import find_repeats, find_shared_questions, read_removed_rows, write_audit

__all__ = [
    "ANY",
    "METHODS",
    "find_leaks",
    "find_matches",
    "find_repeats",
    "find_shared_questions",
    "overlap",
    "read_removed_rows",
    "write_audit",
]
