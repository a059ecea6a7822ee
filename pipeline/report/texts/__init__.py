"""Likelihoods of texts in the report: their table, a column of the cost table, and accuracy against forgetting."""
