"""The command `status`: what of a study is up to date, and what is stale and why."""

from pipeline.commands.options import JsonOption, SeedsOption, StudyOption
from pipeline.study import load_study


def status_command(study: StudyOption = None, seeds: SeedsOption = None, as_json: JsonOption = False) -> None:
    """Print which results of a study are up to date, and which are stale and why."""
    from pipeline.results.status import print_status

    print_status(load_study(study, seeds=seeds), as_json=as_json)
