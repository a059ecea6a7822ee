"""The command line: one file per command, in the groups that `python -m pipeline --help` shows."""
