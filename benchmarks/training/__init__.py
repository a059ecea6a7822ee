"""Speed of training on a real pretrained model, compared with other trainers: ``python -m benchmarks.training``."""
