"""Share results through DVC: what a step needs to pull, push and pull, and the check of a remote."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError, one_line
from pipeline.results.dvc import path_targets
from pipeline.results.dvc.lock import OBJECT_NAME, read_lock, require_git
from pipeline.results.dvc.partial_pull import check_out_complete_results
from pipeline.results.dvc.summary import IN_GIT
from pipeline.results.dvc.workarounds import (
    clean_up_killed_transfer,
    delete_invalid_rwlock,
    remove_objects,
)
from pipeline.study import Study
from pipeline.study.description.describe import describe_task

# What the report reads besides its inputs: all answers, and of adapters the training curves and costs, not the weights.
REPORT_FILES = {
    "train": ("manifest.json", "run.json", "history.jsonl"),
    "combine": ("manifest.json", "run.json"),
    "generate": ("",),
}
READ_BLOCK_BYTES = 1 << 20


def list_stage_paths(
    study: Study, stage: str, *, model: str | None = None, needed: bool = False
) -> list[str]:
    """Return the paths of a stage's results, or of everything that its jobs read.

    Args:
        study: the study.
        stage: "fetch" to "report".
        model: only results of this base model; None: all.
        needed: what the jobs read instead of what they write.

    Raises:
        UserError: an unknown stage, or the stage has no result of that model.
    """
    if stage not in study.artifacts:
        raise UserError(f"paths: unknown stage '{stage}' (choices: {', '.join(study.artifacts)})")
    artifacts = [
        artifact
        for artifact in study.artifacts[stage]
        if model is None or artifact.label.startswith(f"{model}/")
    ]
    if not artifacts:
        of_model = f" of '{model}'" if model else ""
        raise UserError(f"paths: study '{study.name}' has no {stage}{of_model}")
    if not needed:
        return sorted(str(artifact.path) for artifact in artifacts)
    # a second stage reads answers that jobs of its own stage write
    paths = {
        str(source.path)
        for artifact in artifacts
        for source in artifact.inputs.values()
        if source.stage != stage
    }
    if stage == "report":
        # the report reads of trials what their choice says
        trials = {
            artifact.path
            for trial in study.trials
            for artifact in (trial.adapter, *(trial.results.all_answers if trial.results else ()))
        }
        for source_stage, names in REPORT_FILES.items():
            sources = [source for source in study.artifacts[source_stage] if source.path not in trials]
            paths |= {str(source.path / name) for source in sources for name in names}
        paths |= {str(path) for path in _list_report_data(study)}
    return sorted(paths)


def _list_report_data(study: Study) -> Iterator[Path]:
    """Yield the data that a report reads: it compares protocols by their prompts, and takes clusters from the questions."""
    for task in study.task_names:
        description = describe_task(study, task)
        if len(description.protocols) > 1 or description.clusters:
            yield from description.prompts.values()
        if description.raw:
            yield description.raw


def transfer_results(
    command: str, arguments: Sequence[str], root: Path = Path(), *, folder: Path = Path()
) -> int:
    """Run ``dvc push`` or ``dvc pull``, also after a dvc that was killed; return its exit status.

    Args:
        command: "push" or "pull".
        arguments: the other arguments of the command.
        root: the project's root.
        folder: the folder that the arguments are relative to.

    Raises:
        UserError: there is no git here, dvc.lock is not valid, another dvc is active in the checkout, or a part of an
            output is to be pushed.
    """
    require_git(root)
    # refuses a damaged dvc.lock in one line, before dvc meets it
    outputs = read_lock(root)
    if command == "push":
        paths = [folder.absolute() / argument for argument in arguments if not argument.startswith("-")]
        _refuse_parts(paths, [root.absolute() / output.path for output in outputs])
    delete_invalid_rwlock(root)
    clean_up_killed_transfer(command, arguments, root)
    status = subprocess.run(
        [sys.executable, "-m", path_targets.__name__, command, *arguments], cwd=folder, check=False
    ).returncode
    if status and command == "pull":
        check_out_complete_results(arguments, root, folder=folder)
    return status


def _refuse_parts(paths: Sequence[Path], outputs: Sequence[Path]) -> None:
    """Refuse to push a part of an output.

    DVC 3.67.1 then sends the listing of the whole output too, takes it as proof that the remote has all that it lists, and
    never sends the rest.
    """
    for path in paths:
        path = Path(os.path.normpath(path))
        whole = next((output for output in outputs if output in path.parents), None)
        if whole:
            raise UserError(
                f"push: {path} is a part of an output, and DVC would never send the rest; push {whole}, or everything"
            )


@dataclass(frozen=True)
class RemoteStatus:
    """The objects of a DVC remote.

    Attributes:
        count: how many there are.
        damaged: objects whose content does not match their name.
        incomplete: listings of folders of which an object is damaged or missing.
        missing: paths in dvc.lock whose own object is missing.
    """

    count: int
    damaged: tuple[str, ...]
    incomplete: tuple[str, ...]
    missing: tuple[str, ...]


def check_remote(name: str | None, root: Path = Path(), *, remove: bool = False) -> RemoteStatus:
    """Read every object of a DVC remote and compare it with its name.

    Args:
        name: of the remote; None: the default remote.
        root: the project's root.
        remove: delete damaged objects, and the listings that refer to them. DVC does not send an object that is present,
            and takes all objects of a listing that is present for present.

    Raises:
        UserError: there is no git here or no such remote, it cannot be read, or dvc.lock is not valid.
    """
    from dvc.repo import Repo

    require_git(root)
    outputs = read_lock(root)
    try:
        with Repo(str(root)) as repo:
            objects = repo.cloud.get_remote_odb(name, "check-remote")
            # a killed transfer leaves files with other names, which are not objects
            present = {oid for oid in objects.all() if re.match(OBJECT_NAME, oid)}
            damaged = {oid for oid in present if _object_md5(objects, oid) != oid.removesuffix(".dir")}
            intact = present - damaged
            incomplete = {
                oid
                for oid in intact
                if oid.endswith(".dir") and not intact.issuperset(_listed_objects(objects, oid))
            }
            if remove and (damaged or incomplete):
                remove_objects(objects, damaged | incomplete)
    # each kind of remote has its own exceptions
    except Exception as error:
        raise UserError(f"check-remote: {one_line(error)}") from error
    missing = {output.path for output in outputs if output.md5 not in present and output.path not in IN_GIT}
    return RemoteStatus(
        len(present), tuple(sorted(damaged)), tuple(sorted(incomplete)), tuple(sorted(missing))
    )


def _listed_objects(objects: Any, oid: str) -> Iterator[str]:
    with objects.fs.open(objects.oid_to_path(oid), "rb") as file:
        yield from (entry["md5"] for entry in json.load(file))


def _object_md5(objects: Any, oid: str) -> str:
    # DVC names objects by md5; systems that forbid md5 for security allow it with this argument
    digest = hashlib.md5(usedforsecurity=False)
    with objects.fs.open(objects.oid_to_path(oid), "rb") as file:
        while block := file.read(READ_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def print_remote_status(status: RemoteStatus, *, removed: bool) -> None:
    """Print the objects that need attention, a line each, and the counts.

    Raises:
        UserError: the remote is damaged or incomplete and nothing was removed.
    """
    note = ", removed" if removed else ""
    for oid in status.damaged:
        print(f"damaged{note}: {oid}")
    for oid in status.incomplete:
        print(f"incomplete folder{note}: {oid}")
    for path in status.missing:
        print(f"missing: {path}")
    print(
        f"{status.count} objects, {len(status.damaged)} damaged, {len(status.incomplete)} incomplete folders"
    )
    print(f"dvc.lock: {len(status.missing)} results are missing in the remote")
    push = "python -m pipeline push, in a checkout that has them"
    if (status.damaged or status.incomplete) and not removed:
        raise UserError(
            f"check-remote: damaged; run check-remote --remove, then send the objects: {push} (docs/dvc.md)"
        )
    if status.missing and not removed:
        raise UserError(f"check-remote: incomplete; send the missing results: {push}")
    if status.damaged or status.incomplete or status.missing:
        print(f"now send them: {push}")
