"""Load a study, and find runs by the names that people use and the files that they need. Imports no torch."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.core.errors import UserError
from pipeline.params.protocols import Decoding
from pipeline.params.reading import PARAMS, read_card, read_yaml
from pipeline.study.artifacts import STORE, list_artifacts
from pipeline.study.checks import check_study_card, refuse_aliases
from pipeline.study.grid import Study
from pipeline.study.run import Run, is_endpoint

_FINGERPRINT = re.compile(r"[0-9a-f]{12}")
# choices that a message lists
_LISTED = 8


def default_study() -> str:
    """The study that params/params.yaml selects."""
    settings = read_yaml(PARAMS / "params.yaml")
    if not isinstance(settings, dict) or set(settings) != {"study"}:
        raise UserError("params/params.yaml: must contain the key 'study' and no others")
    return str(settings["study"])


def load_study(name: str | None = None, *, seeds: int | None = None) -> Study:
    """Return a study that has been checked as a whole: every card is read and every artifact resolved.

    Args:
        name: of a file in params/study/; None: the one that params/params.yaml selects.
        seeds: use only so many of the study's seeds, the first; None: all.

    Raises:
        UserError: in one line with file, key, value and choices.
    """
    name = name or default_study()
    study = _use_first_seeds(Study(name, read_card("study", name)), seeds)
    check_study_card(study.card, where=study.where)
    # resolves everything, so that any mistake of a card is reported here
    refuse_aliases(study.named(), where=study.where)
    return study


def _use_first_seeds(study: Study, count: int | None) -> Study:
    """Return a study with the first ``count`` of its seeds."""
    if count is None:
        return study
    seeds = study.card.seeds
    if not seeds:
        raise UserError(f"{study.where}: seeds: the study trains nothing, so it has no seeds (got {count})")
    if not 1 <= count <= len(seeds):
        listed = ", ".join(map(str, seeds))
        raise UserError(
            f"{study.where}: seeds: cannot use the first {count} of {len(seeds)} ({listed}); choose from 1 to {len(seeds)}"
        )
    # all of them are the study itself, whose report says how to make it again
    return (
        Study(study.name, study.card.model_copy(update={"seeds": seeds[:count]}), count)
        if count < len(seeds)
        else study
    )


def find_run(name: str, study_name: str | None) -> tuple[Study, Run]:
    """Return the run that a name refers to, and its study.

    Args:
        name: the fingerprint of its adapter, answers or scores, or the start of one; or its folders,
            MODEL/METHOD/TRAINSET/seedN (TRAINSET@ARM where arms share a training set) or MODEL/bare, or the first of
            them; or the path of its results.
        study_name: of a file in params/study/; None: the default study, then all others.

    Raises:
        UserError: no run, or several; the message lists the nearest, or the choices.
    """
    if not _split_folders(name.strip()):
        raise UserError(
            f"'{name}' is not the name of a run; use MODEL/METHOD/TRAINSET/seedN, MODEL/bare, a fingerprint, or the path of a result"
        )
    searched = [load_study(study_name)]
    matches = _match_runs(name, searched[0])
    if not matches and study_name is None:
        for other_name in list_cards("study"):
            if other_name == searched[0].name:
                continue
            searched.append(load_study(other_name))
            matches += _match_runs(name, searched[-1])
            if matches and _FINGERPRINT.fullmatch(_last_part(name)):
                # a whole fingerprint is of one run, and loading all studies takes seconds
                break
    unique: dict[str, tuple[Study, Run]] = {}
    for study, run in matches:
        # a run that several studies have is one run
        unique.setdefault(_run_fingerprints(study, run)[0], (study, run))
    if len(unique) == 1:
        return next(iter(unique.values()))
    if unique:
        raise UserError(f"run '{name}' is ambiguous: {_list_runs(list(unique.values()))}; choose one of them")
    raise _unknown_run(name, searched)


def require_model(study: Study, run: Run) -> tuple[Path, Path | None]:
    """Return the directories of a run's base and adapter; a bare base has no adapter.

    Raises:
        UserError: one is missing, and the message has the command that makes it; or the model is behind an endpoint.
    """
    if is_endpoint(run.model):
        raise UserError(
            f"{run.name}: the model is behind an endpoint, so there are no weights on this machine; choose another run"
        )
    for artifact in (run.adapter, run.base):
        if artifact is not None and not artifact.path.exists():
            action = "trained" if artifact.stage == "train" else "made"
            command = make_command(study, artifact.path)
            raise UserError(f"{artifact.path}: not {action} yet; run: {command}")
    return run.base.path, run.adapter.path if run.adapter else None


class ResultPaths(NamedTuple):
    """The score file of a run, the folder of its answers, and that of its second stages if it has any."""

    scores: Path
    answers: Path
    second_answers: Path | None


def require_results(study: Study, run: Run) -> ResultPaths:
    """Return the paths of a run's answers and scores.

    Raises:
        UserError: one is missing; the message has the command that makes it.
    """
    results = study.results(run)
    scores, answers = results.scores.path, results.answers.path
    second = results.second_answers.path if results.second_answers else None
    for path in (answers, second, scores):
        if path and not path.exists():
            raise UserError(f"{path}: does not exist yet; run: {make_command(study, scores)}")
    return ResultPaths(scores, answers, second)


def make_command(study: Study, path: Path) -> str:
    """Return the command that makes an artifact of a study."""
    return f"snakemake {path}{snakemake_options(study)}"


def snakemake_options(study: Study) -> str:
    """Return the end of a snakemake command that selects a study and its number of seeds; empty for the default study."""
    settings = [f" {key}={value}" for key, value in _study_settings(study).items()]
    return f" --config{''.join(settings)}" if settings else ""


def command_options(study: Study) -> str:
    """Return the end of a command of the pipeline that selects a study and its number of seeds."""
    return "".join(f" --{key} {value}" for key, value in _study_settings(study).items())


def _study_settings(study: Study) -> dict[str, str | int]:
    """Return what differs from the default study with all its seeds."""
    settings: dict[str, str | int] = {}
    if study.name != default_study():
        settings["study"] = study.name
    if study.seed_count is not None:
        settings["seeds"] = study.seed_count
    return settings


def choose_decoding(study: Study, run: Run, protocol: str | None) -> Decoding:
    """Return the decoding of a run under a protocol; of tasks that differ, the one with the most new tokens.

    Args:
        study: of the run.
        run: the evaluated model.
        protocol: one under which the model generates one text, and no second stage; None: the study's first such.

    Raises:
        UserError: the study does not have the protocol, or the model generates no text under it.
    """
    generating = [
        task
        for task in study.tasks(run)
        if "max_new_tokens" in task.decoding and "samples" not in task.decoding and not task.first
    ]
    choices = list(dict.fromkeys(task.protocol.name for task in generating))
    name = protocol or next(iter(choices), None)
    decodings = [task.decoding for task in generating if task.protocol.name == name]
    if not decodings:
        raise UserError(
            f"protocol: study '{study.name}' has no '{name}' (choices: {', '.join(choices) or 'none that generates one text'})"
        )
    # a copy, since a caller changes it and the task's own decoding is part of its fingerprint
    return max(decodings, key=lambda decoding: decoding["max_new_tokens"]).copy()


def _match_runs(name: str, study: Study) -> list[tuple[Study, Run]]:
    """Return the runs of a study that a name may refer to: by whole fingerprint, else by folders, else by a start."""
    last, folders = _last_part(name), _split_folders(name.strip())
    if _FINGERPRINT.fullmatch(last):
        runs = [run for run in study.runs if last in _run_fingerprints(study, run)]
    else:
        runs = [run for run in study.runs if folders and _is_in_folders(run, folders)]
        if not runs and len(folders) == 1:
            runs = [
                run
                for run in study.runs
                if any(fingerprint.startswith(last) for fingerprint in _run_fingerprints(study, run))
            ]
    return [(study, run) for run in runs]


def _is_in_folders(run: Run, folders: Sequence[str]) -> bool:
    """Whether a run's name, or the path of its results, begins with ``folders``."""
    return any(_split_folders(name)[: len(folders)] == folders for name in (run.name, run.label))


def _run_fingerprints(study: Study, run: Run) -> list[str]:
    """Return the fingerprints that identify a run, the one of its adapter first."""
    results = study.results(run)
    fingerprints = [artifact.fingerprint for artifact in (*results.all_answers, results.scores)]
    return [run.adapter.fingerprint, *fingerprints] if run.adapter else fingerprints


def _last_part(path: str) -> str:
    """Return the last part of a path, where results have their fingerprint."""
    return path.strip().rstrip("/").removesuffix(".json").rpartition("/")[2]


def _split_folders(path: str) -> list[str]:
    """Return MODEL, METHOD, ... of a path, without the folder of the stage."""
    return [
        part
        for part in re.sub(r"^.*\bresults/(adapters|combined|answers|scores)/", "", path).split("/")
        if part
    ]


def _list_runs(matches: Sequence[tuple[Study, Run]]) -> str:
    names = [f"{run.name} ({_run_fingerprints(study, run)[0]})" for study, run in matches]
    unlisted = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {unlisted} more" if unlisted > 0 else "")


def _unknown_run(name: str, searched: Sequence[Study]) -> UserError:
    names = [run.name for study in searched for run in study.runs]
    if not names:
        return UserError(f"study '{searched[0].name}' has no run '{name}': it evaluates no model")
    folders = _split_folders(name)
    starts = dict.fromkeys("/".join(name.split("/")[: len(folders)]) for name in names)
    near = difflib.get_close_matches("/".join(folders), starts, n=3, cutoff=0.5)
    hint = f"nearest: {', '.join(dict.fromkeys(near))}" if near else f"a run has a name like {names[-1]}"
    subject = f"study '{searched[0].name}' has no" if len(searched) == 1 else "no study has a"
    stale = _find_stale_result(name)
    cause = f"; {stale} is stale: the params or code that it was made from have changed" if stale else ""
    return UserError(f"{subject} run '{name}' ({hint}){cause}")


def _find_stale_result(name: str) -> Path | None:
    """Return a result on disk with the fingerprint ``name``, which no study has any more."""
    fingerprint = _last_part(name)
    if not _FINGERPRINT.fullmatch(fingerprint):
        return None
    for root in (Path(), STORE):
        for stage in ("train", "combine", "generate", "score"):
            for path in list_artifacts(root, stage):
                if path.stem == fingerprint:
                    return root / path
    return None


def list_cards(folder: str) -> list[str]:
    """Return the names of the cards in a folder of params/."""
    return sorted(path.stem for path in (PARAMS / folder).glob("*.yaml"))


def list_trained_methods() -> list[str]:
    """Return the names of the method cards that train an adapter or a model: all but combinations."""
    return [name for name in list_cards("methods") if read_card("methods", name).kind != "combined"]
