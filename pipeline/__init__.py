"""Adapter fine-tuning studies that can be rebuilt: fetch, prompts, audit, base, train, generate, score, report."""
