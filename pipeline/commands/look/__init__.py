"""Commands that show what the project has: results, models, methods and datasets."""
