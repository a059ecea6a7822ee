"""The first screen of a report: what the study is, its headline, and what can be concluded from it."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.report.data import ReportData
from pipeline.report.summary.conclusions import write_conclusions
from pipeline.report.summary.headline import Headline, RankedSection, build_headline
from pipeline.report.summary.origin import describe_limits, describe_repetition
from pipeline.report.summary.provenance import Fact, Newest, find_newest, list_facts
from pipeline.report.summary.ranking import rank_methods


@dataclass(frozen=True)
class Summary:
    """What the page says before its tables, and about them.

    Attributes:
        sentence: the first of the study's description.
        limits: what the study's numbers say nothing about; empty for a study of released models and real data.
        newest: date, commit and machine of the newest run.
        headline: the table of macro averages.
        conclusions: two or three sentences on what the paired tests allow to conclude.
        repetition: why the contamination table of a small world is full; empty for real data.
        facts: the lines of the provenance section.
    """

    sentence: str
    limits: str
    newest: Newest
    headline: Headline
    conclusions: Sequence[str]
    repetition: str
    facts: Sequence[Fact]


def summarize(data: ReportData) -> Summary:
    """Return the summary of a report."""
    ranked = [RankedSection(section, rank_methods(data, section)) for section in data.sections]
    return Summary(
        sentence=_cut_first_sentence(data.study.description),
        limits=describe_limits(data),
        newest=find_newest(data),
        headline=build_headline(data, ranked),
        conclusions=write_conclusions(data, ranked),
        repetition=describe_repetition(data),
        facts=list_facts(data),
    )


def _cut_first_sentence(text: str) -> str:
    first, stop, _ = text.partition(". ")
    return first + "." if stop else text
