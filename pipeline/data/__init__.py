"""Datasets: fetched from the sources of their cards, checked, and turned into records."""
