"""Results on disk: their records, their state, and what DVC and MLflow see of them."""
