"""Whether the order of the methods holds: under other seeds, protocols and training settings, and after correction."""
