"""Score answers: parsers, gold labels, task scores."""
