"""Push and pull the results of one study, or of one of its models.

DVC records a whole folder, such as results/adapters, as one output with one listing of its files. DVC 3.67.1 takes a
listing in a remote as proof that the remote has all of these files, and would never send the rest. So the push of a model
sends the files of its results, and the listings under another name, where DVC does not look for them.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError, one_line
from pipeline.results.dvc.lock import LockedOutput, cached_object, read_lock, require_git
from pipeline.results.dvc.remotes import transfer_results
from pipeline.results.dvc.summary import IN_GIT
from pipeline.results.dvc.workarounds import clean_up_killed_transfer, find_remote
from pipeline.study import Study
from pipeline.study.artifacts import list_with_inputs

# folder of a remote, beside DVC's own `files`
LISTINGS = "listings"


def list_results(study: Study, *, model: str | None = None) -> list[str]:
    """Return the paths of a study's results and of their records; with a model, of its results and all that they are made from.

    Raises:
        UserError: the study has no such model.
    """
    if model is None:
        artifacts = study.named()
    else:
        targets = [
            artifact
            for stage in study.artifacts.values()
            for artifact in stage
            if artifact.label.startswith(f"{model}/")
        ]
        if not targets:
            raise UserError(
                f"--model: study '{study.name}' has no model '{model}' (choices: {', '.join(study.card.models)})"
            )
        artifacts = list_with_inputs(targets)
    paths = {path for artifact in artifacts for path in (artifact.path, artifact.record)}
    # the page, tables and figures lie beside the report's manifest
    return sorted({str(path.parent if path == study.report.path else path) for path in paths})


def push_study(arguments: Sequence[str], study: Study, *, model: str | None = None) -> int:
    """Send the results of a study, or of one of its models, to a DVC remote; return the exit status.

    Args:
        arguments: the other arguments of the command; with a model, ``--remote NAME`` and ``--jobs N`` alone.
        study: it must be what dvc.lock records.
        model: only results of this base model, and what they are made from.

    Raises:
        UserError: see ``transfer_results``; dvc.lock records another study; or, with a model, see ``list_results``, dvc.lock
            does not record all of these results, DVC's cache lacks some of them, or the remote cannot be written.
    """
    _require_recorded("push", study)
    if model is None:
        # all outputs of dvc.lock belong to the study that it records
        outputs = [output for output in read_lock() if output.path not in IN_GIT]
        size = sum(output.size for output in outputs)
        print(
            f"push: study '{study.name}' has {size / 1e6:,.1f} MB in {len(outputs)} outputs; DVC sends what the remote lacks",
            flush=True,
        )
        return transfer_results("push", arguments)
    paths = list_results(study, model=model)
    options = _read_push_options(arguments)
    require_git()
    outputs = [output for output in read_lock() if output.path not in IN_GIT]
    objects = _select_objects(outputs, paths, study=study)
    clean_up_killed_transfer("push", arguments)
    try:
        return _send(objects, outputs, arguments, jobs=options.jobs)
    except UserError:
        # files are missing
        raise
    # each kind of remote has its own exceptions
    except Exception as error:
        raise UserError(f"push: {one_line(error)}") from error


def pull_study(arguments: Sequence[str], study: Study, *, model: str | None = None) -> int:
    """Run ``dvc pull`` for the results of a study, or of one of its models; return its exit status.

    Args:
        arguments: the other arguments of the command.
        study: it must be what dvc.lock records.
        model: only results of this base model, and what they are made from.

    Raises:
        UserError: see ``transfer_results`` and ``list_results``; or dvc.lock does not record all of these results.
    """
    paths = list_results(study, model=model)
    _require_recorded("pull", study)
    _get_listings(arguments)
    status = transfer_results("pull", [*arguments, *paths])
    missing = [path for path in paths if not Path(path).exists()]
    if not status and missing:
        raise _not_recorded("pull", study, missing, count=len(paths))
    return status


def _require_recorded(command: str, study: Study) -> None:
    recorded = [output.path for output in read_lock() if Path(output.path).parent == Path("reports")]
    if str(study.report.path.parent) not in recorded:
        raise UserError(
            f"{command}: dvc.lock of this commit records {', '.join(recorded) or 'no report'}, not study '{study.name}'"
        )


def _not_recorded(command: str, study: Study, missing: Sequence[str], *, count: int) -> UserError:
    return UserError(
        f"{command}: dvc.lock of this commit does not record {len(missing)} of {count} results of "
        f"study '{study.name}', for example {missing[0]}"
    )


def _read_push_options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("-r", "--remote")
    parser.add_argument("-j", "--jobs", type=int)
    try:
        options, others = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise UserError(f"push: {error}") from None
    if others:
        raise UserError(f"push: with --model only --remote NAME and --jobs N are possible (got {others[0]})")
    return options


def _select_objects(outputs: Sequence[LockedOutput], paths: Sequence[str], *, study: Study) -> set[str]:
    """Return the names of the objects of results: those of their files, and those of outputs that are files.

    Raises:
        UserError: the cache has no listing of an output, or dvc.lock does not record a result.
    """
    chosen = {Path(path) for path in paths}
    remaining = set(chosen)
    names = set()
    for output in outputs:
        for file, name in _list_files(output):
            owners = chosen.intersection((file, *file.parents))
            if owners:
                names.add(name)
                remaining -= owners
    if missing := sorted(map(str, remaining)):
        raise _not_recorded("push", study, missing, count=len(paths))
    return names


def _list_files(output: LockedOutput) -> Iterator[tuple[Path, str]]:
    """Yield the path and the object of each file of an output."""
    path = Path(output.path)
    if not output.md5.endswith(".dir"):
        yield path, output.md5
        return
    try:
        listing = json.loads(cached_object(output.md5).read_bytes())
    except FileNotFoundError:
        raise UserError(
            f"push: DVC's cache has no listing of {path}; run: python -m pipeline commit"
        ) from None
    for entry in listing:
        yield path / entry["relpath"], entry["md5"]


def _send(
    names: set[str], outputs: Sequence[LockedOutput], arguments: Sequence[str], *, jobs: int | None
) -> int:
    # loading dvc takes a second
    from dvc.repo import Repo
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.transfer import transfer

    from pipeline.results.dvc.byte_progress import TransferProgress

    progress = TransferProgress("pushing")

    def begin(status: Any) -> None:
        if status.missing:
            raise UserError(
                f"push: {len(status.missing)} of {len(names)} files are neither in DVC's cache nor in the remote; "
                "run: python -m pipeline commit"
            )
        if status.new:
            size = _count_bytes(status.new)
            print(
                f"pushing {len(status.new)} of {len(names)} files, {size / 1e6:,.1f} MB; the remote has the rest",
                flush=True,
            )
            progress.show(size)

    with Repo() as repo:
        remote = find_remote(repo, arguments)
        ids = {HashInfo("md5", name) for name in names}
        with progress:
            result = transfer(
                repo.cache.local, remote, ids, jobs=jobs, validate_status=begin, callback=progress
            )
        for output in outputs:
            if output.md5.endswith(".dir") and not remote.fs.exists(remote.oid_to_path(output.md5)):
                remote.fs.put_file(str(cached_object(output.md5)), _listing_path(remote, output.md5))
    size = _count_bytes(result.transferred)
    print(
        f"{len(result.transferred)} of {len(names)} files pushed, {size / 1e6:,.1f} MB; the remote had the rest"
    )
    if result.failed:
        print(f"push: {len(result.failed)} files were not sent; repeat the command", file=sys.stderr)
    return 1 if result.failed else 0


def _count_bytes(ids: Iterable[Any]) -> int:
    """Return the bytes of objects in DVC's cache."""
    return sum(cached_object(str(oid.value)).stat().st_size for oid in ids)


def _listing_path(remote: Any, name: str) -> str:
    # the path of an object database is REMOTE/files/md5
    root = remote.fs.parent(remote.fs.parent(remote.path))
    return str(remote.fs.join(root, LISTINGS, name))


def _get_listings(arguments: Sequence[str]) -> None:
    """Copy the listings that ``push_study`` has sent into the cache, for outputs of which the remote has only a part.

    DVC then pulls the results, since it looks for listings in the cache first.
    """
    lacking = [
        output
        for output in read_lock()
        if output.md5.endswith(".dir")
        and output.path not in IN_GIT
        and not cached_object(output.md5).is_file()
    ]
    if not lacking or not Path(".git").exists():
        return
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            remote = find_remote(repo, arguments)
            for output in lacking:
                path = _listing_path(remote, output.md5)
                if remote.fs.exists(remote.oid_to_path(output.md5)) or not remote.fs.exists(path):
                    continue
                with remote.fs.open(path, "rb") as file:
                    content = file.read()
                # a damaged copy is as good as none
                if hashlib.md5(content, usedforsecurity=False).hexdigest() == output.md5.removesuffix(".dir"):
                    repo.cache.local.add_bytes(output.md5, content)
    # Each kind of remote has its own exceptions. DVC says next why the remote cannot be read.
    except Exception:
        return
