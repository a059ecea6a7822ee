"""Datasets: fetched by card, checked, and turned into records."""
