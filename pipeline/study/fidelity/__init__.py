"""Fidelity: each published training command beside the run of ours that stands for it, setting by setting."""
