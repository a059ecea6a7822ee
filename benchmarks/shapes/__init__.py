"""Memory and speed of training and evaluation, estimated from the shapes of real models: ``python -m benchmarks.shapes``."""
