"""Typed cards: everything that params/ may say, checked before a job is planned."""
