"""The command line: one file per command, grouped as `--help` shows them."""
