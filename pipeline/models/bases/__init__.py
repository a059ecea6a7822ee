"""Base models: downloaded from the hub, converted from a package, or pretrained."""
