"""From a teacher's answers to a training set: judged, without duplicates and without test questions."""
