"""Training sets that a teacher writes: who the teacher is, and the artifacts of its answers and of what is left of them."""
