"""Generate answers: decoding, likelihoods, loading of models."""
