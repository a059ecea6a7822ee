"""The command `commit`: the present results in dvc.lock."""

from pipeline.commands.options import SeedsOption, StudyOption
from pipeline.study import load_study


def commit_command(study: StudyOption = None, seeds: SeedsOption = None) -> None:
    """Prune, then record the results of the default study in dvc.lock, and compare them with the last git commit."""
    from pipeline.results.dvc.commit import commit_results

    commit_results(load_study(study, seeds=seeds), chosen=study is not None or seeds is not None)
