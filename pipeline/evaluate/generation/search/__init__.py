"""The searches of the decoder: greedy, beams, and transformers' continuous batching."""
