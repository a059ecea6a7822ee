"""Follow-ups: published rows on the same data beside ours, and how many points of each difference belong to the protocol."""

from pipeline.report.followups.tables import build_followup_tables

__all__ = ["build_followup_tables"]
