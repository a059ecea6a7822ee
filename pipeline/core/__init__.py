"""Files, errors, processes and devices: what every room uses and what knows nothing of studies."""
