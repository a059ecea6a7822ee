"""The tuning of a study in its report: what trials chose, and what fewer of them would have concluded."""
