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


def test_recorded_results_do_not_make_a_checkout_dirty(project):
    commit = git(project, "rev-parse", "HEAD").strip()
    (project / "dvc.lock").write_text("new\n")
    (project / "results/accuracies.json").write_text("[]\n")
    assert environment.read_git_state(project) == (commit, False)
    (project / "params/lora.yaml").write_text("r: 4\n")
    assert environment.read_git_state(project) == (commit, True)


@pytest.mark.parametrize("name", ["a [new] project", "plain"])
def test_code_in_a_folder_called_results_is_a_difference(tmp_path, name):
    """The package pipeline.results is one; git reads brackets in a path as a pattern."""
    folder = tmp_path / "repository" / name
    files = ["pipeline/results/store.py", "tests/results/dvc.lock", "results/summary/a.json"]
    for file in files:
        (folder / file).parent.mkdir(parents=True)
        (folder / file).write_text("old\n")
    git(tmp_path / "repository", "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "start")
    for file in files:
        (folder / file).write_text("new\n")
    git(folder, "config", "diff.relative", "true")
    patch = environment.git_diff(folder).decode()
    assert f"+++ b/{name}/pipeline/results/store.py" in patch
    assert [file in patch for file in files] == [True, True, False]


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
    assert environment.read_git_state(tmp_path) == (None, None)


def test_of_a_long_difference_only_the_checksum_is_recorded(monkeypatch):
    monkeypatch.setattr(environment, "git_diff", lambda: b"x" * (environment.MAX_DIFF + 1))
    state = environment.code_state()
    assert state["diff"] is None
    assert len(state["diff_sha256"]) == 64
