"""Which answers are asked at one load of their base, where ``--config adapters_per_load`` asks for that.

Such a job (the rule ``ask``) leaves all its answers but their names; each ``generate`` job then only names its own.
"""

from pathlib import Path

from pipeline.study import Study
from pipeline.study.artifacts import Artifact, fingerprint_of

ALL = "all"


def loads(study: Study, size: int | str, *, root: Path = Path()) -> dict[str, list[Artifact]]:
    """Return the answers that are not there yet, by the load of their base that they are asked at.

    Args:
        study: whose runs are asked.
        size: the most models that share a load, or "all" of a base. 1: each job loads its own, so there is none to name.
        root: the project's.

    Returns:
        Names that stay the same while these answers are made, and change with any of their params.
    """
    if size == 1:
        return {}
    of_base: dict[str, list[Artifact]] = {}
    for run in study.runs:
        of_base.setdefault(run.base.fingerprint, []).append(study.answers(run))
    found = {}
    for answers in of_base.values():
        step = len(answers) if size == ALL else int(size)
        for start in range(0, len(answers), step):
            some = answers[start : start + step]
            missing = [one for one in some if not (root / one.path).exists()]
            if missing:
                found[fingerprint_of([one.fingerprint for one in some])] = missing
    return found


def load_of(found: dict[str, list[Artifact]], fingerprint: str) -> str | None:
    """Return the name of the load at which answers are asked; None: they are asked by themselves."""
    names = (name for name, answers in found.items() if fingerprint in {one.fingerprint for one in answers})
    return next(names, None)


def inputs(answers: list[Artifact]) -> list[str]:
    """Return the paths that a load's job reads."""
    return sorted({str(path.path) for one in answers for path in one.inputs.values()})
