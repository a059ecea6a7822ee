"""Files, errors, processes and devices: what every room uses and what does not depend on studies."""
