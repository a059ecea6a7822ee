"""What MLflow is spared: points of long curves, a server that is down, and SQLite on a network file system."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from pipeline.results.mlflow import outage
from pipeline.results.mlflow.curves import MAX_POINTS, Curves, list_curves, planned_steps
from pipeline.results.mlflow.entry import RunFiles
from pipeline.results.mlflow.mounts import find_network_file_system

MOUNTS = """\
/dev/vda / ext4 rw,relatime 0 0
server:/home /home nfs4 rw,vers=4.2 0 0
/dev/vdb /home/anna/local xfs rw 0 0
scratch /scratch lustre rw 0 0
gpfs0 /gpfs gpfs rw 0 0
anna@host:/data /mnt/with\\040blank fuse.sshfs rw 0 0
overlay /box fuse.fuse-overlayfs rw 0 0
incomplete
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/ben/study/mlflow.db", "nfs4"),
        ("/scratch/mlflow.db", "lustre"),
        ("/gpfs/project/mlflow.db", "gpfs"),
        ("/mnt/with blank/mlflow.db", "fuse.sshfs"),
        # a local disk inside a network file system
        ("/home/anna/local/mlflow.db", None),
        ("/homes/mlflow.db", None),
        ("/box/mlflow.db", None),
        ("/tmp/mlflow.db", None),
    ],
)
def test_a_network_file_system_is_detected(path, kind):
    assert find_network_file_system(Path(path), MOUNTS) == kind


def test_the_later_of_two_mounts_at_the_same_folder_counts():
    assert find_network_file_system(Path("/home/x"), MOUNTS + "/dev/vdc /home ext4 rw 0 0\n") is None
    assert find_network_file_system(Path("/home/x"), "") is None


def write_history(folder, *, steps, interval):
    rows = [
        {"step": step, "epoch": round(step / 10_000, 4), "loss": 1 / step}
        for step in range(interval, steps + 1, interval)
    ]
    rows.append({"step": steps, "epoch": steps / 10_000, "val_loss": 0.5})
    path = folder / "history.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows, RunFiles(run_info=folder / "run.json", history=path)


def test_a_long_curve_is_thinned_evenly_and_keeps_its_last_point(tmp_path):
    rows, files = write_history(tmp_path, steps=31_890, interval=10)
    points = [point for point in list_curves(files, logged={}) if point.key == "loss"]
    steps = [point.step for point in points]
    assert MAX_POINTS * 0.95 < len(steps) <= MAX_POINTS + 1
    assert steps[-1] == 31_890
    gaps = [later - earlier for earlier, later in pairwise(steps)]
    assert max(gaps) <= 80
    assert len(rows) == 3_190


def test_a_short_curve_is_whole(tmp_path):
    rows, files = write_history(tmp_path, steps=4_000, interval=10)
    assert len([point for point in list_curves(files, logged={}) if point.key == "loss"]) == len(rows) - 1


def test_a_watched_training_gets_no_more_points_and_none_twice(tmp_path):
    rows, files = write_history(tmp_path, steps=30_000, interval=10)
    live = Curves()
    sent = []
    for start in range(0, len(rows), 37):
        part = rows[start : start + 37]
        sent += live.thin(part, total_steps=planned_steps(part[-1], {"max_steps": None, "epochs": 3}))
    logged = {
        key: {point.step for point in sent if point.key == key} for key in ("loss", "epoch", "val_loss")
    }
    added = list_curves(files, logged=logged)
    assert not [point for point in added if point.step in logged[point.key]]
    losses = [point for point in [*sent, *added] if point.key == "loss"]
    assert len({point.step for point in losses}) == len(losses)
    assert len(losses) <= MAX_POINTS + 40
    assert 30_000 in {point.step for point in losses}


def test_jobs_leave_a_server_alone_for_a_while(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    address = "http://anna:secret@host:5000"
    assert outage.find_outage(address) is None
    outage.report_outage(address, "no response from http://host:5000")
    assert "secret" not in outage.OUTAGE.read_text()
    assert outage.find_outage(address).startswith(
        "no response from http://host:5000; not tried again before "
    )
    assert outage.find_outage("http://elsewhere:5000") is None
    content = json.loads(outage.OUTAGE.read_text())
    for seconds in (-outage.OUTAGE_S, 10 * outage.OUTAGE_S):
        # it is over, or the clock was set back
        outage.OUTAGE.write_text(json.dumps({**content, "until": content["until"] + seconds}))
        assert outage.find_outage(address) is None
    # what a killed writer of another version left
    outage.OUTAGE.write_text("{")
    assert outage.find_outage(address) is None


def test_runs_that_were_not_recorded_are_counted_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert outage.describe_unrecorded("study") is None
    for run in ("tiny/lora/seed0", "tiny/series/seed0", "tiny/lora/seed0"):
        outage.add_unrecorded("study", run, "no response from http://host:5000")
    assert outage.describe_unrecorded("study") == (
        "2 runs are not recorded in MLflow (no response from http://host:5000)"
    )
    assert outage.describe_unrecorded("elsewhere") is None
    outage.clear_unrecorded("study")
    assert outage.describe_unrecorded("study") is None
