"""The command `ui`: a study's runs in MLflow's user interface."""

from typing import Annotated

import typer

from pipeline.commands.options import StudyOption
from pipeline.study import default_study


def ui_command(
    study: StudyOption = None,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port of the server.")] = 5000,
) -> None:
    """Start MLflow's user interface and print the address of a study's runs."""
    from pipeline.results.mlflow.server import serve_runs

    serve_runs(study or default_study(), port=port)
