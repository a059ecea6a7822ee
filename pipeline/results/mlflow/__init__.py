"""Runs in MLflow: for a view of them; no result is ever read from it."""

import os

# mlflow reads these when it is imported, which only modules of this package do
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
# mlflow's defaults, 120 s and seven retries, would hold up a study for minutes
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
