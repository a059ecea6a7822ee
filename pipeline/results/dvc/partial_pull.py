"""Results that a failed pull brought: DVC leaves them in its cache, and says only how many files it lacks.

DVC 3.67.1 brings nothing into the checkout if the remote lacks a single object, not even results of other folders.
"""

import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pipeline.core.io import read_json
from pipeline.results.dvc import path_targets
from pipeline.results.dvc.lock import LockedOutput, cache_folder, object_in, read_lock
from pipeline.results.dvc.summary import IN_GIT
from pipeline.results.dvc.workarounds import find_remote
from pipeline.study.artifacts import fingerprint_in_path

# of the results that are missing; more lines would hide the last one, which says what to do
MAX_LINES = 10
# arguments of one call; each is a path, and the kernel limits their length
TARGETS_PER_CALL = 5000


def check_out_complete_results(
    arguments: Sequence[str], root: Path = Path(), *, folder: Path = Path()
) -> None:
    """Bring the results of which every file is in DVC's cache into the checkout, and print those that lack a file.

    Args:
        arguments: of the pull that failed; its paths limit what is brought.
        root: the project's root.
        folder: the folder that the arguments are relative to.
    """
    outputs = [output for output in read_lock(root) if output.path not in IN_GIT]
    try:
        listings = _read_listings(outputs, arguments, root)
    # Each kind of remote has its own exceptions. DVC has just printed why the remote cannot be read.
    except Exception:
        return
    complete, missing = _split_results(outputs, listings, cache_folder(root))
    paths = [Path(folder.absolute(), argument) for argument in arguments if not argument.startswith("-")]
    # a value of an option, such as the name of a remote, is no path of a result
    if chosen := [
        path for path in paths if any(_overlap(path, root.absolute() / output.path) for output in outputs)
    ]:
        complete, missing = (_select(results, chosen, root.absolute()) for results in (complete, missing))
    # Without either, the remote was not the reason, or could not be read at all: DVC's own message says why.
    if not complete or not missing:
        return
    for first in range(0, len(complete), TARGETS_PER_CALL):
        targets = [str(path) for path in complete[first : first + TARGETS_PER_CALL]]
        command = [sys.executable, "-m", path_targets.__name__, "checkout", "--quiet", *targets]
        subprocess.run(command, cwd=root, check=False)
    for path in missing[:MAX_LINES]:
        print(f"the remote lacks files of {path}", file=sys.stderr)
    if len(missing) > MAX_LINES:
        print(f"and of {len(missing) - MAX_LINES} more", file=sys.stderr)
    print(
        f"pull: {len(complete)} results are here, {len(missing)} are not; snakemake makes them again, or send them from a "
        "checkout that has them: python -m pipeline check-remote --remove, then python -m pipeline push",
        file=sys.stderr,
    )


def _select(results: Iterable[Path], chosen: Sequence[Path], root: Path) -> list[Path]:
    return [result for result in results if any(_overlap(root / result, path) for path in chosen)]


def _overlap(one: Path, other: Path) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)


def _read_listings(
    outputs: Iterable[LockedOutput], arguments: Sequence[str], root: Path
) -> dict[str, list[dict[str, str]]]:
    """Return the files of each folder that the cache or the remote has a listing of, by the listing's name.

    DVC brings no listing of which a file is missing.
    """
    # loading dvc takes a second, so only after a failure
    from dvc.repo import Repo

    listings = {}
    with Repo(str(root)) as repo:
        remote = find_remote(repo, arguments)
        for name in [output.md5 for output in outputs if output.md5.endswith(".dir")]:
            path = remote.oid_to_path(name)
            if (cached := object_in(cache_folder(root), name)).is_file():
                listings[name] = read_json(cached)
            elif remote.fs.exists(path):
                with remote.fs.open(path, "rb") as file:
                    listings[name] = json.load(file)
    return listings


def _split_results(
    outputs: Iterable[LockedOutput], listings: Mapping[str, list[dict[str, str]]], cache: Path
) -> tuple[list[Path], list[Path]]:
    """Return the results with all files in the cache, and those that lack a file; an output without a listing is one."""
    complete: list[Path] = []
    missing: list[Path] = []
    for output in outputs:
        objects: dict[Path, list[str]] = defaultdict(list)
        for entry in listings.get(output.md5, []):
            objects[_containing_result(Path(output.path), Path(entry["relpath"]))].append(entry["md5"])
        for path, names in (objects or {Path(output.path): [output.md5]}).items():
            is_complete = all(object_in(cache, name).is_file() for name in names)
            (complete if is_complete else missing).append(path)
    return complete, missing


def _containing_result(output: Path, file: Path) -> Path:
    """Return the artifact or the record that a file of an output is or belongs to; of a report the whole output."""
    parents = (Path(*file.parts[: count + 1]) for count in range(len(file.parts)))
    return next((output / path for path in parents if fingerprint_in_path(path)), output)
