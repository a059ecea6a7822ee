"""Commands that run a study: its stages, and what goes with them."""
