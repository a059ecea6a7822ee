"""Tuning in a study: its trials and choices as artifacts, and the chosen settings once they are known."""
