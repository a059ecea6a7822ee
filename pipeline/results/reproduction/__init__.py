"""Reproduce a result: what to reproduce, how it was produced, and whether the outcome is the same."""
