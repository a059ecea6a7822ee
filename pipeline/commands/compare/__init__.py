"""Commands that compare runs, protocols and datasets."""
