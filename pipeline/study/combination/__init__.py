"""Combinations in a study: several of its trained adapters as one more adapter, planned before any training runs."""
