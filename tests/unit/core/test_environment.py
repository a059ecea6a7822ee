"""The state of the code in a record: the difference from the commit, as a patch that restores it."""

import subprocess
from pathlib import Path

import pytest

from pipeline.core import environment


def git(folder: Path, *arguments: str) -> str:
    """Run git with a user; return its output."""
    command = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def project(tmp_path) -> Path:
    """Return a committed project in a subfolder of its repository."""
    folder = tmp_path / "repository" / "a project"
    (folder / "params").mkdir(parents=True)
    (folder / "params/lora.yaml").write_text("r: 8\n")
    (folder / "dvc.lock").write_text("old\n")
    (folder / "results").mkdir()
    (folder / "results/accuracies.json").write_text("{}\n")
    git(tmp_path / "repository", "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "start")
    return folder


def test_recorded_results_and_files_outside_the_code_are_no_difference(project):
    (project / "dvc.lock").write_text("new\n")
    (project / "results/accuracies.json").write_text("[]\n")
    (project / "notes.txt").write_text("beside the code\n")
    assert environment.git_diff(project) == b""


def test_the_patch_restores_edits_and_new_files(project, tmp_path):
    (project / "params/lora.yaml").write_text("r: 4\n")
    (project / "params/mine.yaml").write_text("r: 2\n")
    (project / "params/weights.bin").write_bytes(bytes(range(256)))
    patch = environment.git_diff(project)
    git(project, "worktree", "add", "--detach", "--quiet", str(tmp_path / "restored"))
    subprocess.run(["git", "-C", tmp_path / "restored", "apply", "-"], input=patch, check=True)
    for name in ("lora.yaml", "mine.yaml", "weights.bin"):
        path = tmp_path / "restored" / "a project/params" / name
        assert path.read_bytes() == (project / "params" / name).read_bytes()


def test_the_difference_is_unknown_outside_git(tmp_path):
    assert environment.git_diff(tmp_path) is None


def test_of_a_long_difference_only_the_checksum_is_recorded(monkeypatch):
    monkeypatch.setattr(environment, "git_diff", lambda: b"x" * (environment.MAX_DIFF + 1))
    state = environment.code_state()
    assert state["diff"] is None
    assert len(state["diff_sha256"]) == 64
