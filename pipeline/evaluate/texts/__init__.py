"""Likelihoods of texts: passages that a model was not trained on, and references of instructions."""
