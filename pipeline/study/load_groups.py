"""Groups of runs that share one load of their base (``snakemake --config adapters_per_load=N``, or ``all``).

Loading a large base can take longer than evaluating an adapter on it. The rule ``generate_group`` therefore evaluates a
group of runs on one loaded base. It writes all their answers but leaves the last step, the rename, to the ``generate``
job of each run: the rest of the DAG is the same with and without groups.
"""

from pathlib import Path

from pipeline.study import Study
from pipeline.study.artifacts import Artifact, compute_fingerprint
from pipeline.study.run import is_endpoint

ALL = "all"


def group_answers(study: Study, size: int | str, *, root: Path = Path()) -> dict[str, list[Artifact]]:
    """Return the missing answers by the group in which they are generated.

    Args:
        study: whose runs are evaluated.
        size: the most runs in a group, or "all" runs of a base. 1: every job loads its own base, so there are no groups.
        root: the project's.

    Returns:
        Name of a group -> its missing answers. The name is a fingerprint of all answers of the group, so that it stays
        the same while they are generated, and changes with any of their params.
    """
    if size == 1:
        return {}
    # second stages, which read the other answers, are groups of their own
    by_base: dict[tuple[str, int], list[Artifact]] = {}
    for run in study.evaluated_runs:
        # behind an endpoint nothing is loaded
        if is_endpoint(run.model):
            continue
        for stage, artifact in enumerate(study.results(run).all_answers):
            by_base.setdefault((run.base.fingerprint, stage), []).append(artifact)
    groups = {}
    for answers in by_base.values():
        step = len(answers) if size == ALL else int(size)
        for start in range(0, len(answers), step):
            # from all answers, not from the missing ones, so that groups stay the same while answers arrive
            group = answers[start : start + step]
            missing = [artifact for artifact in group if not (root / artifact.path).exists()]
            if missing:
                groups[compute_fingerprint([artifact.fingerprint for artifact in group])] = missing
    return groups


def find_group(groups: dict[str, list[Artifact]], fingerprint: str) -> str | None:
    """Return the name of the group that generates the answers with a fingerprint; None if no group does."""
    for name, answers in groups.items():
        if any(artifact.fingerprint == fingerprint for artifact in answers):
            return name
    return None


def group_inputs(answers: list[Artifact]) -> list[str]:
    """Return the paths that the job of a group reads."""
    return sorted({str(source.path) for artifact in answers for source in artifact.inputs.values()})
