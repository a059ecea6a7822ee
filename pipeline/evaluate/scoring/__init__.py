"""Score answers: gold labels, likelihoods, task scores, metrics."""
