"""Commands that keep results and pages in order."""
