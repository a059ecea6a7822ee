"""Commands that hand results to others."""
