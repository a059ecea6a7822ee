"""Tuning: what the key ``tune`` of a study may contain, and which settings its trials have."""
