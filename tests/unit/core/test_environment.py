"""The state of the code in a record: what differs from the commit, as a patch that gives it back."""

import subprocess
from pathlib import Path

import pytest

from pipeline.core import environment


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def project(tmp_path) -> Path:
    """A committed project in a sub-folder of its repository."""
    folder = tmp_path / "repository" / "a project"
    (folder / "params").mkdir(parents=True)
    (folder / "params/lora.yaml").write_text("r: 8\n")
    (folder / "dvc.lock").write_text("old\n")
    git(tmp_path / "repository", "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "start")
    return folder


def test_nothing_differs_from_a_commit_but_dvc_lock(project):
    (project / "dvc.lock").write_text("new\n")
    (project / "notes.txt").write_text("beside the code\n")
    assert environment.git_diff(project) == b""


def test_the_difference_gives_edits_and_new_files_back(project, tmp_path):
    (project / "params/lora.yaml").write_text("r: 4\n")
    (project / "params/mine.yaml").write_text("r: 2\n")
    (project / "params/weights.bin").write_bytes(bytes(range(256)))
    patch = environment.git_diff(project)
    git(project, "worktree", "add", "--detach", "--quiet", str(tmp_path / "again"))
    subprocess.run(["git", "-C", tmp_path / "again", "apply", "-"], input=patch, check=True)
    for name in ("lora.yaml", "mine.yaml", "weights.bin"):
        path = tmp_path / "again" / "a project/params" / name
        assert path.read_bytes() == (project / "params" / name).read_bytes()


def test_outside_git_there_is_no_difference_to_tell(tmp_path):
    assert environment.git_diff(tmp_path) is None


def test_a_long_difference_is_kept_by_its_sum_alone(monkeypatch):
    monkeypatch.setattr(environment, "git_diff", lambda: b"x" * (environment.MAX_DIFF + 1))
    state = environment.code_state()
    assert state["diff"] is None
    assert len(state["diff_sha256"]) == 64
