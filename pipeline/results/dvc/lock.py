"""What a killed dvc leaves half-written, put right: dvc.lock, and DVC's own file of locks.

DVC writes both in place (dvc 3.67.1). For a dvc.lock of thousands of lines that takes seconds at the end of each stage; a
kill, Ctrl-C or a full disk then cuts the file off, and every later dvc command ends with "dvc.lock is invalid".
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import yaml

from pipeline.core.errors import UserError
from pipeline.core.io import atomic_file

LOCK = Path("dvc.lock")
RWLOCK = Path(".dvc/tmp/rwlock")
_HEADER = "schema: '2.0'\nstages:\n"
_SUM = re.compile(r"[0-9a-f]{32}(\.dir)?")
_STAGE = re.compile(r"^  (?=[\w.@-]+:\n)", re.M)


def mend(root: Path = Path()) -> list[str]:
    """Put right what a killed dvc left half-written in a checkout; return what was done, a line each.

    Stages that dvc.lock still has whole stay; the others become what the last commit has of them. What that loses is the
    record of work that is there: the next ``dvc repro`` or ``python -m pipeline commit`` writes it again. Nothing is
    touched while another dvc is at work, which may be writing just now.
    """
    lock, rwlock = root / LOCK, root / RWLOCK
    if not (is_cut_off(lock) or _is_no_json(rwlock)):
        return []
    from dvc.exceptions import DvcException
    from dvc.lock import make_lock
    from dvc.repo import Repo, lock_repo

    done = []
    try:
        with Repo(str(root)) as repo, lock_repo(repo), make_lock(f"{rwlock}.lock", tmp_dir=repo.tmp_dir):
            if _is_no_json(rwlock):
                rwlock.unlink()
                done.append(f"{RWLOCK}: a killed dvc left it half-written; deleted (dvc makes it anew)")
            if is_cut_off(lock):
                done.append(_mend_lock(root))
    except DvcException:
        return done
    except OSError as error:
        raise UserError(f"{LOCK}: half-written by a killed dvc, and cannot be mended: {error}") from None
    return done


def is_cut_off(lock: Path) -> bool:
    """Whether a dvc.lock ends within a stage.

    One that does not begin as DVC writes it, or has the marks of a merge's conflict, is a person's to put right.
    """
    if not lock.is_file():
        return False
    text = lock.read_text(encoding="utf-8", errors="replace")
    stages = _stages(text)
    of_dvc = text[: len(_HEADER)] == _HEADER[: len(text)] and "\n<<<<<<< " not in text
    return of_dvc and (not stages or not _is_whole(list(stages.values())[-1]))


def show(done: Iterable[str]) -> None:
    """Tell a person what was mended."""
    for line in done:
        print(line, file=sys.stderr)


def _mend_lock(root: Path) -> str:
    found = _stages((root / LOCK).read_text(encoding="utf-8", errors="replace"))
    whole = {name: block for name, block in found.items() if _is_whole(block)}
    committed = {name: block for name, block in _stages(_committed(root)).items() if _is_whole(block)}
    stages = {**whole, **{name: block for name, block in committed.items() if name not in whole}}
    if stages:
        with atomic_file(root / LOCK) as path:
            path.write_text(_HEADER + "".join(stages.values()), encoding="utf-8")
    else:
        (root / LOCK).unlink()
    again = ", ".join(name for name in stages if name not in whole)
    return (
        f"{LOCK}: a killed dvc left it cut off; kept {len(whole)} stages"
        + (f", took from the last commit: {again}" if again else "")
        + "; dvc repro or python -m pipeline commit records the rest again"
    )


def _committed(root: Path) -> str:
    try:
        done = subprocess.run(
            ["git", "show", f"HEAD:./{LOCK}"], cwd=root, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:  # no git here
        return ""
    return done.stdout if not done.returncode else ""


def _stages(text: str) -> dict[str, str]:
    """The lines of each stage of a dvc.lock, by its name."""
    _, *blocks = _STAGE.split(text)
    return {block.partition(":")[0]: f"  {block}" for block in blocks}


def _is_whole(block: str) -> bool:
    """Whether the lines are a stage as DVC reads it: what is cut off later than this has lost nothing but its end."""
    try:
        [stage] = yaml.load(block, getattr(yaml, "CSafeLoader", yaml.SafeLoader)).values()
        outs, deps = (stage.get(part, [{"path": ""}]) for part in ("outs", "deps"))
        named = deps and outs and all("path" in one and None not in one.values() for one in [*deps, *outs])
        sums = [one["md5"] for one in [*deps, *outs] if "md5" in one]
        known = all(map(_SUM.fullmatch, sums)) and ("outs" not in stage or all("size" in one for one in outs))
        params = all(isinstance(values, dict) for values in stage.get("params", {"": {}}).values())
        return bool(stage["cmd"] and named and known and params)
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _is_no_json(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        json.loads(path.read_bytes())
    except ValueError:
        return True
    return False
