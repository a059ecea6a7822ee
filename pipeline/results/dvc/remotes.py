"""DVC's side of sharing: what a step must have pulled, remotes that are checked, and a lock that loses nothing."""

import argparse
import configparser
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.core.errors import UserError, one_line
from pipeline.study import Study

# What the report reads of results that it is not named by: answers, and of adapters the curves and costs, not the weights.
REPORT_READS = {"train": ("manifest.json", "run.json", "history.jsonl"), "generate": ("",)}
_OBJECT = re.compile(r"[0-9a-f]{32}(\.dir)?")
_EMPTY = hashlib.md5(usedforsecurity=False).hexdigest()  # the name of what is empty by right


def paths(study: Study, stage: str, *, model: str | None = None, needed: bool = False) -> list[str]:
    """Return the paths of a stage's results, or of all that its jobs read.

    Args:
        study: what names them.
        stage: "fetch" to "report".
        model: only results of this base; None: all.
        needed: what the jobs read, instead of what they write.

    Raises:
        UserError: no such stage, or no result of that model in it.
    """
    if stage not in study.artifacts:
        raise UserError(f"paths: unknown stage '{stage}' (choices: {', '.join(study.artifacts)})")
    made = [one for one in study.artifacts[stage] if model is None or one.label.startswith(f"{model}/")]
    if not made:
        raise UserError(f"paths: study '{study.name}' has no {stage} of '{model}'")
    if not needed:
        return sorted(str(one.path) for one in made)
    read = {str(path.path) for one in made for path in one.inputs.values()}
    if stage == "report":
        for source, names in REPORT_READS.items():
            read |= {str(one.path / name) for one in study.artifacts[source] for name in names}
    return sorted(read)


def verify_remotes(root: Path = Path()) -> list[str]:
    """Have DVC check what it pulls from every remote of this checkout; return those that it did not check.

    DVC has this by the remote only, and off: without it a damaged object is installed, with exit status 0.
    """
    unchecked = [(name, place) for name, place, given in _remotes(root) if "verify" not in given]
    for name, place in unchecked:
        _dvc("remote", "modify", *(["--local"] if place == "local" else []), name, "verify", "true", at=root)
    return [name for name, _ in unchecked]


def lost(study: Study, root: Path = Path()) -> list[str]:
    """Return the files of the study's results that dvc.lock has and this checkout has not: to record now would lose them."""
    named = {one.path for one in study.named()}
    kept = (path for path in _recorded(root) if path in named or not named.isdisjoint(path.parents))
    return sorted(str(path) for path in kept if not (root / path).exists())


def transfer(command: str, arguments: Sequence[str], root: Path = Path(), *, at: Path = Path()) -> int:
    """Run ``dvc push`` or ``dvc pull``, also after a dvc that was killed; return its exit status.

    DVC lists what there is to transfer in an index outside the checkout, some entries at a time, and takes a list that a
    killed dvc began for whole: ``dvc push`` then sends a part, with exit status 0. So it begins a new one here. And a killed
    dvc may leave an object in a folder with its name and without its content, which the next one trips over; such are
    deleted where the transfer goes to.

    Args:
        command: "push" or "pull".
        arguments: further ones of the command.
        root: of the checkout.
        at: folder that the arguments are relative to.

    Raises:
        UserError: another dvc is at work in the checkout.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo, lock_repo

    try:
        with Repo(str(root)) as repo, lock_repo(repo):
            repo.drop_data_index()
            goes_to = repo.cache.local if command == "pull" else _remote_of(repo, arguments)
            _delete_empty(goes_to)
    except (DvcException, OSError) as error:
        raise UserError(f"{command}: {one_line(error)}") from None
    return subprocess.run([sys.executable, "-m", "dvc", command, *arguments], cwd=at, check=False).returncode


def _remote_of(repo: Any, arguments: Sequence[str]) -> Any:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-r", "--remote")
    named, _ = parser.parse_known_args(arguments)
    return repo.cloud.get_remote_odb(named.remote, "push")


def _delete_empty(objects: Any) -> None:
    """Delete the objects of a folder that have no content but should: no object of a remote elsewhere is seen half-made."""
    if objects.fs.protocol != "local":
        return
    for path in Path(objects.path).glob("[0-9a-f][0-9a-f]/*"):
        name = path.parent.name + path.name
        if _OBJECT.fullmatch(name) and name != _EMPTY and not path.stat().st_size:
            path.unlink()


@dataclass(frozen=True)
class Remote:
    """The objects of a DVC remote: how many, and what of them is damaged or absent.

    ``damaged`` have another content than their name says; ``lacking`` are folders' listings of which an object is damaged or
    not there; ``absent`` are the results of dvc.lock whose own object is not there.
    """

    count: int
    damaged: tuple[str, ...]
    lacking: tuple[str, ...]
    absent: tuple[str, ...]


def check_remote(name: str | None, root: Path = Path(), *, remove: bool = False) -> Remote:
    """Read every object of a DVC remote.

    Args:
        name: of the remote; None: the default.
        root: of the checkout.
        remove: delete there what is damaged, and the listings that name it: DVC sends no object that it takes to be there,
            and where a folder's listing is, it takes all that it lists to be there.

    Raises:
        UserError: no such remote, or one that cannot be read.
    """
    from dvc.repo import Repo
    from dvc_data.hashfile.db import get_index

    try:
        with Repo(str(root)) as repo:
            objects = repo.cloud.get_remote_odb(name, "check-remote")
            every = {
                one for one in objects.all() if _OBJECT.fullmatch(one)
            }  # not what a killed transfer left
            damaged = {one for one in every if _md5(objects, one) != one.removesuffix(".dir")}
            sound = every - damaged
            lacking = {one for one in sound if one.endswith(".dir") and not _listed(objects, one) <= sound}
            if remove and (damaged or lacking):
                for one in damaged | lacking:
                    objects.delete(one)
                index = get_index(objects)  # what DVC remembers to have sent
                index.clear()
                index.close()
    except Exception as error:  # each kind of remote has exceptions of its own
        raise UserError(f"check-remote: {one_line(error)}") from error
    absent = {out["path"] for out in _outs(root) if out["md5"] not in every}
    return Remote(len(every), tuple(sorted(damaged)), tuple(sorted(lacking)), tuple(sorted(absent)))


def _listed(objects: Any, name: str) -> set[str]:
    with objects.fs.open(objects.oid_to_path(name), "rb") as file:
        return {one["md5"] for one in json.load(file)}


def _md5(objects: Any, name: str) -> str:
    with objects.fs.open(objects.oid_to_path(name), "rb") as file:
        digest = hashlib.md5(usedforsecurity=False)
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _configs(root: Path) -> Iterator[tuple[str, configparser.ConfigParser]]:
    for place, name in (("repo", "config"), ("local", "config.local")):
        config = configparser.ConfigParser(interpolation=None)
        try:
            config.read(root / ".dvc" / name, encoding="utf-8")
        except configparser.Error as error:
            raise UserError(f".dvc/{name}: cannot be read ({one_line(error)})") from None
        yield place, config


def _remotes(root: Path) -> list[tuple[str, str, dict[str, str]]]:
    """Every remote: name, where it was first set ("repo" or "local"), what all files together say of it."""
    found: dict[str, tuple[str, dict[str, str]]] = {}
    for place, config in _configs(root):
        for section in config.sections():
            if section.startswith("'remote \""):
                name = section.split('"')[1]
                first, given = found.get(name, (place, {}))
                found[name] = first, {**given, **config[section]}
    return [(name, place, given) for name, (place, given) in found.items()]


def _recorded(root: Path) -> Iterator[Path]:
    """The files that dvc.lock has under folders of results, as far as DVC's cache knows them."""
    for out in _outs(root):
        listing = cached(out["md5"], root)
        if out["md5"].endswith(".dir") and listing.is_file():
            yield from (Path(out["path"], one["relpath"]) for one in json.loads(listing.read_bytes()))


def cached(name: str, root: Path = Path()) -> Path:
    """Return where DVC's cache has the object of that name, if it has it."""
    folder = "cache"
    for _, config in _configs(root):
        folder = config.get("cache", "dir", fallback=folder)
    return root / ".dvc" / folder / "files/md5" / name[:2] / name[2:]


def _outs(root: Path) -> list[dict[str, Any]]:
    """What dvc.lock has of results: path, sum (``md5``) and more of each."""
    lock = root / "dvc.lock"
    if not lock.is_file():
        return []
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        stages = yaml.load(lock.read_text(encoding="utf-8"), loader)["stages"]
        return [out for stage in stages.values() for out in stage.get("outs", [])]
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"dvc.lock: is not as dvc writes it ({one_line(error)}); git checkout dvc.lock, or, after a killed"
            " dvc, python -m pipeline commit, which mends it"
        ) from None


def _dvc(*arguments: str, at: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=at, check=False)
    if done.returncode:
        raise UserError(f"dvc {' '.join(arguments)} failed (its message stands above)")
