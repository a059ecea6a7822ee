"""What there is, by the names that people use: methods, models, and the runs of studies. Imports no torch."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path

from pipeline.core.errors import UserError
from pipeline.params.protocols import Decoding
from pipeline.params.reading import PARAMS
from pipeline.study import Study, default_study, load_study
from pipeline.study.artifacts import STORE, stored
from pipeline.study.run import Run

_FINGERPRINT = re.compile(r"[0-9a-f]{12}")


def find_run(named: str, study: str | None) -> tuple[Study, Run]:
    """Return the run that people name, and its study.

    Args:
        named: the fingerprint of its adapter, answers or scores, or the beginning of one; or its folders,
            MODEL/METHOD/TRAINSET/seedN or MODEL/bare, or their beginning; or the path of its results.
        study: of a file in params/study/; None: the default study or, where that has no such run, any other.

    Raises:
        UserError: no such run, or several; it names the nearest, or the choices.
    """
    searched = [load_study(study)]
    found = _matches(named, searched[0])
    if not found and study is None:
        for other in (name for name in card_names("study") if name != searched[0].name):
            searched.append(load_study(other))
            found += _matches(named, searched[-1])
            if found and _FINGERPRINT.fullmatch(_last(named)):
                break  # the same in whatever study; reading all of them takes seconds
    unique: dict[str, tuple[Study, Run]] = {}
    for one, run in found:
        unique.setdefault(_fingerprints(one, run)[0], (one, run))
    if len(unique) == 1:
        return next(iter(unique.values()))
    if unique:
        raise UserError(f"run '{named}' could be {_choices(list(unique.values()))}; name one of them")
    raise _unknown(named, searched)


def made(study: Study, run: Run) -> tuple[Path, Path | None]:
    """Return the directories of a run's base and adapter.

    Raises:
        UserError: one is not there; it says which command makes it.
    """
    for artifact in (run.adapter, run.base):
        if artifact is not None and not artifact.path.exists():
            what = "trained" if artifact.stage == "train" else "made"
            raise UserError(f"{artifact.path}: not {what} yet; run: {make(study, artifact.path)}")
    return run.base.path, run.adapter.path if run.adapter else None


def made_results(study: Study, run: Run) -> tuple[Path, Path]:
    """Return a run's directory of answers and file of scores.

    Raises:
        UserError: one is not there; it says which command makes it.
    """
    answers, scores = study.answers(run).path, study.scores(run).path
    for path in (answers, scores):
        if not path.exists():
            raise UserError(f"{path}: not made yet; run: {make(study, scores)}")
    return answers, scores


def make(study: Study, path: Path) -> str:
    """Return the command that makes a result of a study."""
    return f"snakemake {path}" + ("" if study.name == default_study() else f" --config study={study.name}")


def decoding(study: Study, run: Run, protocol: str | None) -> Decoding:
    """Return how a run is asked under a protocol of its study, with the longest of its answers' lengths.

    Args:
        study: the run's.
        run: that is asked.
        protocol: one that has the model write; None: the study's first such.

    Raises:
        UserError: a protocol that the study does not use, or under which the model writes nothing.
    """
    writing = [task for task in study.tasks(run) if "max_new_tokens" in task.decoding]
    choices = list(dict.fromkeys(task.protocol.name for task in writing))
    name = protocol or next(iter(choices), None)
    asked = [task.decoding for task in writing if task.protocol.name == name]
    if not asked:
        raise UserError(
            f"protocol: study '{study.name}' has no '{name}' (choices: {', '.join(choices) or 'none that writes'})"
        )
    return max(asked, key=lambda settings: settings["max_new_tokens"]).copy()


def _matches(named: str, study: Study) -> list[tuple[Study, Run]]:
    """Return the runs of a study that ``named`` may mean: by whole fingerprint, else by folders, else by a beginning."""
    last, folders = _last(named), _folders(named.strip())
    if _FINGERPRINT.fullmatch(last):
        found = [run for run in study.runs if last in _fingerprints(study, run)]
    else:
        found = [run for run in study.runs if folders and _folders(run.label)[: len(folders)] == folders]
        if not found and len(folders) == 1:
            found = [run for run in study.runs if any(f.startswith(last) for f in _fingerprints(study, run))]
    return [(study, run) for run in found]


def _fingerprints(study: Study, run: Run) -> list[str]:
    """Return the fingerprints that name a run; the first is its own."""
    results = [study.answers(run).fingerprint, study.scores(run).fingerprint]
    return [run.adapter.fingerprint, *results] if run.adapter else results


def _last(named: str) -> str:
    """Return the last part of a path, where results have their fingerprint."""
    return named.strip().rstrip("/").removesuffix(".json").rpartition("/")[2]


def _folders(text: str) -> list[str]:
    """Return MODEL, METHOD, ... of a path, whatever stands before it in the results' folders."""
    return [part for part in re.sub(r"^.*\bresults/(adapters|answers|scores)/", "", text).split("/") if part]


def _choices(found: Sequence[tuple[Study, Run]]) -> str:
    told = [f"{run.label.strip('/')} ({_fingerprints(study, run)[0]})" for study, run in found]
    return ", ".join(told[:8]) + (f" and {len(told) - 8} more" if len(told) > 8 else "")


def _unknown(named: str, searched: Sequence[Study]) -> UserError:
    labels = [run.label.strip("/") for study in searched for run in study.runs]
    folders = _folders(named)
    beginnings = dict.fromkeys("/".join(label.split("/")[: len(folders)]) for label in labels)
    near = difflib.get_close_matches("/".join(folders), beginnings, n=3, cutoff=0.5)
    told = f"nearest: {', '.join(dict.fromkeys(near))}" if near else f"runs are named as {labels[-1]}"
    place = f"study '{searched[0].name}' has no" if len(searched) == 1 else "no study has a"
    left = _left(named)
    why = f"; {left} was made of params or code that have changed since" if left else ""
    return UserError(f"{place} run '{named}' ({told}){why}")


def _left(named: str) -> Path | None:
    """Return what lies on disk under a fingerprint that no study names any more."""
    last = _last(named)
    if not _FINGERPRINT.fullmatch(last):
        return None
    places = ((root, stage) for root in (Path(), STORE) for stage in ("train", "generate", "score"))
    found = (root / path for root, stage in places for path in stored(root, stage))
    return next((path for path in found if path.stem == last), None)


def card_names(kind: str) -> list[str]:
    """Return the names of the cards in params/KIND/."""
    return sorted(path.stem for path in (PARAMS / kind).glob("*.yaml"))
