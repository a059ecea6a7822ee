"""The command `commit`: the present results in dvc.lock."""

from pipeline.commands.options import SeedsOption, StudyOption
from pipeline.study import load_study


def commit_command(study: StudyOption = None, seeds: SeedsOption = None) -> None:
    """Prune, then record the present results in dvc.lock."""
    from pipeline.results.dvc.commit import commit_results

    commit_results(load_study(study, seeds=seeds))
