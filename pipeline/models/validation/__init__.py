"""The validation of a training: its loss on held-out examples, and what that decides."""
