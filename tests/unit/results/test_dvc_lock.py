"""A truncated dvc.lock is reported in one line, and an invalid list of DVC's own locks is deleted."""

import subprocess
import sys

import pytest
import yaml

from pipeline.core.errors import UserError
from pipeline.results.dvc.lock import INVALID_LOCK, LOCK, read_lock, warn_of_invalid_lock
from pipeline.results.dvc.workarounds import RWLOCK, delete_invalid_rwlock
from tests.conftest import ROOT

INPUT_MD5 = "0cc175b9c0f1b6a831c399e269772661"
OUTPUT_MD5 = "92eb5ffee6ae2fec3ad71c777531578f.dir"


def lock_stage(name: str, output: str) -> str:
    return f"""  {name}:
    cmd: echo {name} > {output}
    deps:
    - path: input.txt
      hash: md5
      md5: {INPUT_MD5}
      size: 4
    params:
      params.yaml:
        title: 'a title that is folded

          over two lines'
        values:
        - 1
        - 2
    outs:
    - path: {output}
      hash: md5
      md5: {OUTPUT_MD5}
      size: 7
      nfiles: 2
"""


HEADER = "schema: '2.0'\nstages:\n"
VALID_LOCK = HEADER + lock_stage("first", "a") + lock_stage("second", "b")
# within the checksum of an output
CUT = len(HEADER + lock_stage("first", "a")) - 50


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkout")
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet", "--no-scm"], cwd=folder, check=True)
    return folder


def test_outputs_have_path_and_checksum(tmp_path):
    (tmp_path / LOCK).write_text(VALID_LOCK)
    assert [(output.path, output.md5) for output in read_lock(tmp_path)] == [
        ("a", OUTPUT_MD5),
        ("b", OUTPUT_MD5),
    ]


def test_without_a_lock_there_are_no_outputs(tmp_path):
    assert read_lock(tmp_path) == []


def test_a_lock_cut_off_anywhere_is_reported_unless_dvc_can_read_it(tmp_path):
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA

    accepted = 0
    for end in range(len(VALID_LOCK) + 1):
        (tmp_path / LOCK).write_text(VALID_LOCK[:end])
        try:
            read_lock(tmp_path)
        except UserError:
            continue
        accepted += 1
        # DVC's schema accepts a hash function that it does not know
        assert "hash: m" not in VALID_LOCK[:end].replace("hash: md5\n", "")
        COMPILED_LOCKFILE_SCHEMA(yaml.safe_load(VALID_LOCK[:end]))
    assert accepted < len(VALID_LOCK) / 3


@pytest.mark.parametrize(
    "text",
    [
        "",
        HEADER,
        VALID_LOCK[:CUT],
        VALID_LOCK + "<<<<<<< HEAD\n" + lock_stage("third", "c")[:50],
        "{{{",
        "a: 1",
        "schema: '3.0'\nstages: {}\n",
        "\0" * len(VALID_LOCK),
    ],
    ids=[
        "empty",
        "header",
        "cut off",
        "merge conflict",
        "no YAML",
        "other YAML",
        "other schema",
        "lost block",
    ],
)
def test_an_invalid_lock_is_reported_in_one_line_and_not_changed(tmp_path, capsys, text):
    (tmp_path / LOCK).write_text(text)
    with pytest.raises(UserError, match=r"git checkout dvc.lock && python -m pipeline commit$"):
        read_lock(tmp_path)
    warn_of_invalid_lock(tmp_path)
    assert capsys.readouterr().err == f"warning: {INVALID_LOCK}\n"
    assert (tmp_path / LOCK).read_text() == text


def test_a_stage_without_outputs_is_valid(tmp_path):
    (tmp_path / LOCK).write_text(VALID_LOCK + "  publish:\n    cmd: ./publish\n")
    assert len(read_lock(tmp_path)) == 2


@pytest.mark.parametrize("content", ["", '{"write": {'])
def test_a_cut_off_list_of_locks_is_deleted(checkout, capsys, content):
    (checkout / RWLOCK).parent.mkdir(parents=True, exist_ok=True)
    (checkout / RWLOCK).write_text(content)
    delete_invalid_rwlock(checkout)
    assert str(RWLOCK) in capsys.readouterr().err
    assert not (checkout / RWLOCK).exists()


def test_the_list_of_locks_stays_while_another_dvc_is_active(checkout):
    from dvc.repo import Repo, lock_repo

    (checkout / RWLOCK).write_text("")
    with Repo(str(checkout)) as repo, lock_repo(repo):
        delete_invalid_rwlock(checkout)
    assert (checkout / RWLOCK).exists()
    delete_invalid_rwlock(checkout)
    assert not (checkout / RWLOCK).exists()


def test_checks_of_undamaged_files_do_not_load_dvc(tmp_path):
    (tmp_path / LOCK).write_text(VALID_LOCK)
    code = (
        "import sys; from pathlib import Path\n"
        "from pipeline.results.dvc import lock, workarounds\n"
        f"root = Path({str(tmp_path)!r}); lock.read_lock(root); workarounds.delete_invalid_rwlock(root)\n"
        "assert 'dvc' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
