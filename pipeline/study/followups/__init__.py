"""Follow-ups: publications that reuse a training set, and the runs of a study that repeat their rows."""
