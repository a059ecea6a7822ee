"""Answers made elsewhere: tied to our examples by their questions, and scored as our own answers are."""
