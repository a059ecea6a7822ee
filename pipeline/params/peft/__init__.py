"""The fields of the pinned peft's configs, and which of their values a card may set. Imports no torch."""
