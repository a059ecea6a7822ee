"""What a report reads of a finished study, and how its tables and figures refer to it."""

from pipeline.report.data.cells import Cell, Section, Selection, list_sections, score_key
from pipeline.report.data.report_data import ReportData, keep_first_of_shared, read_report_data

__all__ = [
    "Cell",
    "ReportData",
    "Section",
    "Selection",
    "keep_first_of_shared",
    "list_sections",
    "read_report_data",
    "score_key",
]
