"""The command `track`: a study's runs in MLflow."""

from pipeline.commands.options import SeedsOption, StudyOption
from pipeline.study import load_study


def track_command(study: StudyOption = None, seeds: SeedsOption = None) -> None:
    """Record every finished run of a study in MLflow."""
    from pipeline.results.mlflow import runs

    runs.track_study(load_study(study, seeds=seeds))
