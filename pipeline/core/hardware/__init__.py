"""What a job computes on: the processor, and the GPUs that it claims."""
