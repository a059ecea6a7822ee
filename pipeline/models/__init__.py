"""Base models and their training: download, pretraining, fine-tuning. Import the modules; this file imports no torch."""
