"""Workarounds for DVC 3.67.1, in one place: check them, and remove what is no longer needed, when DVC is upgraded."""

import argparse
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.core.errors import UserError, one_line
from pipeline.results.dvc.lock import OBJECT_NAME, read_configs

RWLOCK = Path(".dvc/tmp/rwlock")
# the only object that may be empty
EMPTY_FILE_MD5 = hashlib.md5(usedforsecurity=False).hexdigest()


def delete_invalid_rwlock(root: Path = Path()) -> None:
    """Delete DVC's list of file locks if a killed dvc left it cut off; print a line.

    DVC 3.67.1 writes .dvc/tmp/rwlock in place, and refuses every command while the file is not valid JSON. It is left
    alone while another dvc is active, which may be writing it.
    """
    rwlock = root / RWLOCK
    if _is_valid_json(rwlock):
        return
    # loading dvc takes a second, so only if it is needed
    from dvc.exceptions import DvcException
    from dvc.lock import make_lock
    from dvc.repo import Repo, lock_repo

    try:
        with Repo(str(root)) as repo, lock_repo(repo), make_lock(f"{rwlock}.lock", tmp_dir=repo.tmp_dir):
            # Checked again under DVC's own lock: another dvc may have been writing the file a moment ago.
            if not _is_valid_json(rwlock):
                rwlock.unlink()
                print(
                    f"{RWLOCK}: deleted, because a killed dvc left it truncated; dvc creates a new file",
                    file=sys.stderr,
                )
    except DvcException:
        return
    except OSError as error:
        print(f"warning: {RWLOCK}: truncated by a killed dvc; delete it ({error})", file=sys.stderr)


def _is_valid_json(path: Path) -> bool:
    """Return whether a file is valid JSON, or missing."""
    try:
        json.loads(path.read_bytes())
    except FileNotFoundError:
        return True
    except ValueError:
        return False
    return True


def keep_reports(root: Path = Path()) -> None:
    """Keep DVC from deleting the reports of other studies than the one that dvc.yaml lists.

    DVC 3.67.1 notes which folders it has written. Once dvc.yaml lists the report of another study, ``dvc checkout`` and ``dvc
    pull`` delete the earlier report as a folder that is no longer used. So its notes on reports are dropped.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repo, repo.state.links as links:
            for path in [path for path in links if Path(path).parts[0] == "reports"]:
                del links[path]
    except (DvcException, OSError) as error:
        print(f"warning: dvc checkout may delete reports: {one_line(error)}", file=sys.stderr)


def verify_pulls(root: Path = Path()) -> list[str]:
    """Make DVC check the objects that it pulls from each remote of a checkout.

    DVC 3.67.1 checks them only if the remote's settings have ``verify = true``; otherwise it installs a damaged object
    and exits with status 0. A remote whose settings have a value already keeps it.

    Returns:
        The remotes whose settings were changed.
    """
    levels: dict[str, str] = {}
    with_setting = set()
    for level, config in read_configs(root):
        for section in config.sections():
            if section.startswith("'remote \""):
                name = section.split('"')[1]
                levels.setdefault(name, level)
                if config.has_option(section, "verify"):
                    with_setting.add(name)
    changed = [name for name in levels if name not in with_setting]
    for name in changed:
        option = ["--local"] if levels[name] == "local" else []
        command = ["dvc", "remote", "modify", *option, name, "verify", "true"]
        done = subprocess.run([sys.executable, "-m", *command], cwd=root, check=False)
        if done.returncode:
            raise UserError(f"{' '.join(command)} failed; see its message above")
    return changed


def clean_up_killed_transfer(command: str, arguments: Sequence[str], root: Path = Path()) -> None:
    """Make the next ``dvc push`` or ``dvc pull`` transfer everything, even after a killed one.

    DVC 3.67.1 lists the objects of a transfer in an index outside the checkout, a few at a time, and takes the partial
    list of a killed dvc for complete: the next ``dvc push`` sends a part of the results and exits with status 0. So the
    index is dropped. A killed dvc may also leave an object with its final name and no content, on which the next one
    fails. Such objects are deleted in the destination.

    Args:
        command: "push" or "pull".
        arguments: the other arguments of the command.
        root: the project's root.

    Raises:
        UserError: another dvc is active in the checkout.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo, lock_repo

    try:
        with Repo(str(root)) as repo, lock_repo(repo):
            repo.drop_data_index()
            destination = repo.cache.local if command == "pull" else find_remote(repo, arguments)
            _delete_empty_objects(destination)
    except (DvcException, OSError) as error:
        raise UserError(f"{command}: {one_line(error)}") from None


def find_remote(repo: Any, arguments: Sequence[str]) -> Any:
    """Return the object database of the remote that the arguments of a transfer name, or of the default remote."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-r", "--remote")
    options, _ = parser.parse_known_args(arguments)
    return repo.cloud.get_remote_odb(options.remote, "push")


def _delete_empty_objects(objects: Any) -> None:
    """Delete empty objects in a local folder; other kinds of remotes never show a partial object."""
    if objects.fs.protocol != "local":
        return
    for path in Path(objects.path).glob("[0-9a-f][0-9a-f]/*"):
        name = path.parent.name + path.name
        if re.match(OBJECT_NAME, name) and name != EMPTY_FILE_MD5 and not path.stat().st_size:
            path.unlink()


def remove_objects(objects: Any, names: set[str]) -> None:
    """Delete objects of a remote, so that the next push sends them again.

    DVC 3.67.1 remembers in an index what it has sent and skips it, so the index is cleared too.

    Args:
        objects: the remote's object database, as DVC's Python interface returns it.
        names: of the objects to delete.
    """
    from dvc_data.hashfile.db import get_index

    for name in names:
        objects.delete(name)
    # what DVC remembers of this remote
    index = get_index(objects)
    index.clear()
    index.close()
