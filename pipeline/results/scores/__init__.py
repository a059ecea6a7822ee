"""Score files beside the files that say which of their examples belong together."""
