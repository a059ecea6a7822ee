"""Base models: downloaded from the hub, found in a folder, converted from a package or pretrained; and their placement on cards."""
