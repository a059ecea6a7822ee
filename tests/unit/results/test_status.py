"""Whether dvc.lock lists the results on disk, without DVC."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.results import status
from pipeline.study import load_study
from pipeline.study.artifacts import Artifact
from pipeline.study.stages import STAGES
from tests.conftest import ROOT

ADAPTER = Artifact("train", "tiny/lora/set/seed0/", {"seed": 0})
RAW = Artifact("fetch", "set/train-", {})


@pytest.fixture
def root(tmp_path) -> Path:
    """A project with a dataset and an adapter, both in dvc.lock and in DVC's cache."""
    (tmp_path / RAW.path.parent).mkdir(parents=True)
    (tmp_path / RAW.path).write_text("{}\n")
    (tmp_path / ADAPTER.path).mkdir(parents=True)
    listings = {folder: [] for folder in (row.folder for row in STAGES.values())}
    listings["data/raw"] = [{"relpath": str(RAW.path.relative_to("data/raw"))}]
    adapter = ADAPTER.path.relative_to("results/adapters")
    listings["results/adapters"] = [{"relpath": f"{adapter}/{name}"} for name in ("a.json", "b.json")]
    lines = ["schema: '2.0'", "stages:"]
    for number, (folder, listing) in enumerate(listings.items()):
        md5 = f"{number:02d}{'a' * 30}"
        (tmp_path / ".dvc/cache/files/md5" / md5[:2]).mkdir(parents=True)
        (tmp_path / ".dvc/cache/files/md5" / md5[:2] / f"{md5[2:]}.dir").write_text(json.dumps(listing))
        lines += [f"  stage{number}:", "    cmd: true-command", "    outs:"]
        lines += [f"    - path: {folder}", "      hash: md5", f"      md5: {md5}.dir", "      size: 1"]
    (tmp_path / "dvc.lock").write_text("\n".join(lines))
    return tmp_path


def test_a_lock_with_the_results_on_disk_is_current(root):
    assert status.compare_lock(root=root) is True


def test_an_adapter_that_is_not_in_the_lock_is_noticed(root):
    (root / ADAPTER.path).rename((root / ADAPTER.path).with_name("0" * 12))
    assert status.compare_lock(root=root) is False


def test_without_the_cache_the_answer_is_unknown(root):
    next((root / ".dvc/cache").rglob("*.dir")).unlink()
    assert status.compare_lock(root=root) is None


def test_without_a_lock_nothing_is_recorded(root):
    (root / "dvc.lock").unlink()
    assert status.compare_lock(root=root) is False


class DefaultStudy:
    """The part of the default study that the reminder needs."""

    name = status.default_study()
    seed_count = None


@pytest.mark.parametrize("in_dvc", [False, True])
def test_the_reminder_is_for_users_not_for_dvc(root, monkeypatch, capsys, in_dvc):
    (root / "dvc.lock").unlink()
    if in_dvc:
        monkeypatch.setenv("DVC_STAGE", "train")
    status.remind_of_commit(DefaultStudy(), root=root)
    assert ("python -m pipeline commit" in capsys.readouterr().err) is not in_dvc


def stage_status(*, to_run, last_s=0.0, untimed=0, new=0):
    return status.StageStatus(
        total=9, present=0, in_store=0, to_run=to_run, last_s=last_s, untimed=untimed, new=new
    )


@pytest.mark.parametrize(
    ("counts", "cell"),
    [
        (stage_status(to_run=3, untimed=3, new=3), "never run"),
        (stage_status(to_run=3, last_s=46.2), "46 s"),
        (stage_status(to_run=3, last_s=46.2, untimed=1, new=1), "46 s + 1 new"),
        # an earlier result whose record has no time
        (stage_status(to_run=3, last_s=46.2, untimed=2, new=1), "46 s + 1 new + 1 unknown"),
        (stage_status(to_run=3, untimed=3, new=1), "1 new + 2 unknown"),
        (stage_status(to_run=3, untimed=3), "unknown"),
    ],
)
def test_the_last_time_of_a_stage_tells_new_jobs_from_those_without_a_time(counts, cell):
    assert status.describe_last_time(counts) == cell


def test_a_study_that_was_never_run_has_no_last_time(tmp_path, capsys):
    status.print_status(load_study("quickstart"), as_json=False, root=tmp_path)
    printed = capsys.readouterr().out
    assert "unknown" not in printed
    assert "last time: none, all of these are new; run: snakemake\n" in printed


def test_looking_at_results_loads_no_torch():
    code = "import sys, pipeline.commands.app, pipeline.results.status, pipeline.results.verify; print({'torch', 'pandas', 'mlflow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "set()\n"
