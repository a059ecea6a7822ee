"""Fidelity: each published training command beside our corresponding run, setting by setting."""
