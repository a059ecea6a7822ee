"""Tuning: the choice between trials, and what fewer trials would have chosen."""
