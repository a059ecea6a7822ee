"""Disk space: what of the store and of unfinished work a user may delete."""
