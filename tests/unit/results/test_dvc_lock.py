"""What a killed dvc leaves half-written: wherever dvc.lock was cut off, it is whole again and DVC reads it."""

import subprocess
import sys

import pytest
import yaml

from pipeline.results.dvc.lock import LOCK, RWLOCK, is_cut_off, mend

SUMS = {"a": "0cc175b9c0f1b6a831c399e269772661", "b": "92eb5ffee6ae2fec3ad71c777531578f.dir"}


def stage(name: str, out: str) -> str:
    return f"""  {name}:
    cmd: echo {name} > {out}
    deps:
    - path: given.txt
      hash: md5
      md5: {SUMS["a"]}
      size: 4
    params:
      params.yaml:
        title: 'a title that is folded

          and goes on'
        values:
        - 1
        - 2
    outs:
    - path: {out}
      hash: md5
      md5: {SUMS["b"]}
      size: 7
      nfiles: 2
"""


CUT = len(stage("first", "one")) - 50  # within the sum of an output
WHOLE = "schema: '2.0'\nstages:\n" + stage("first", "one") + stage("second", "two") + stage("third", "three")
COMMITTED = WHOLE.replace("size: 7", "size: 3")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkout")
    for command in (["git", "init", "--quiet"], [sys.executable, "-m", "dvc", "init", "--quiet"]):
        subprocess.run(command, cwd=folder, check=True)
    (folder / LOCK).write_text(COMMITTED)
    subprocess.run(["git", "add", "--all"], cwd=folder, check=True)
    identity = ["-c", "user.email=test@example.org", "-c", "user.name=test"]
    subprocess.run(["git", *identity, "commit", "--quiet", "--message", "results"], cwd=folder, check=True)
    return folder


def test_what_is_not_taken_to_be_cut_off_dvc_can_read(tmp_path):
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA

    taken = 0
    for end in range(len(WHOLE) + 1):
        (tmp_path / LOCK).write_text(WHOLE[:end])
        if not is_cut_off(tmp_path / LOCK):
            taken += 1
            COMPILED_LOCKFILE_SCHEMA(yaml.safe_load(WHOLE[:end]))
    assert taken < len(WHOLE) / 3
    assert not is_cut_off(tmp_path / LOCK)


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_the_stages_that_are_whole_stay_and_the_others_are_the_last_commits(checkout, kept):
    end = WHOLE.index(["  first:", "  second:", "  third:"][kept]) + CUT
    (checkout / LOCK).write_text(WHOLE[:end])
    [told] = mend(checkout)
    assert f"kept {kept} stages" in told
    assert "third" in told
    mended, whole = (yaml.safe_load(text)["stages"] for text in ((checkout / LOCK).read_text(), WHOLE))
    committed = yaml.safe_load(COMMITTED)["stages"]
    names = list(whole)
    assert mended == {name: (whole if names.index(name) < kept else committed)[name] for name in names}
    assert list(mended) == names
    assert (checkout / LOCK).read_text().startswith(WHOLE[: WHOLE.index(f"  {names[kept]}:")])
    assert mend(checkout) == []


def test_an_empty_one_becomes_the_last_commits(checkout):
    (checkout / LOCK).write_text("")
    mend(checkout)
    assert (checkout / LOCK).read_text() == COMMITTED


def test_without_a_commit_the_whole_stages_stay_and_a_lock_without_any_goes(tmp_path):
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet", "--no-scm"], cwd=tmp_path, check=True)
    (tmp_path / LOCK).write_text(WHOLE[: WHOLE.index("  second:") + CUT])
    mend(tmp_path)
    assert (tmp_path / LOCK).read_text() == "schema: '2.0'\nstages:\n" + stage("first", "one")
    (tmp_path / LOCK).write_text(WHOLE[:CUT])
    mend(tmp_path)
    assert not (tmp_path / LOCK).exists()


def test_it_is_left_to_a_dvc_that_is_at_work(checkout):
    from dvc.repo import Repo, lock_repo

    (checkout / LOCK).write_text(WHOLE[:CUT])
    with Repo(str(checkout)) as repo, lock_repo(repo):
        assert mend(checkout) == []
    assert (checkout / LOCK).read_text() == WHOLE[:CUT]
    assert mend(checkout)


@pytest.mark.parametrize(
    "text",
    [
        WHOLE + "<<<<<<< HEAD\n" + stage("fourth", "four")[:50],
        "{{{",
        "a: 1",
        "schema: '3.0'\nstages:\n",
        "<<<<<<< HEAD\n" + WHOLE[:CUT],
    ],
    ids=["merge", "no YAML", "other YAML", "other schema", "merge at the start"],
)
def test_what_is_none_of_dvcs_doing_is_left_to_people(checkout, text):
    (checkout / LOCK).write_text(text)
    assert mend(checkout) == []
    assert (checkout / LOCK).read_text() == text


def test_a_stage_without_outputs_is_whole(checkout):
    text = WHOLE + "  publish:\n    cmd: ./publish\n"
    (checkout / LOCK).write_text(text)
    assert mend(checkout) == []
    assert (checkout / LOCK).read_text() == text


@pytest.mark.parametrize("left", ["", '{"write": {'])
def test_dvcs_own_file_of_locks_is_deleted_where_itis_cut_off(checkout, left):
    (checkout / LOCK).write_text(WHOLE)
    (checkout / RWLOCK).parent.mkdir(parents=True, exist_ok=True)
    (checkout / RWLOCK).write_text(left)
    [told] = mend(checkout)
    assert str(RWLOCK) in told
    assert not (checkout / RWLOCK).exists()


def test_nothing_to_mend_is_seen_without_loading_dvc(tmp_path):
    (tmp_path / LOCK).write_text(WHOLE)
    code = f"import sys; from pathlib import Path; from pipeline.results.dvc.lock import mend; mend(Path({str(tmp_path)!r})); assert 'dvc' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
