"""Full disks, damaged files, wrong clocks: a clear error or the right result, never a wrong number."""

import base64
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.chaos.conftest import RECORDS, report, results, wait_until_nothing_works
from tests.e2e.conftest import Checkout

DAY_NS = 86_400_000_000_000
LORA = "small-llama/lora/world-math/seed0"
PRIVATE = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")  # mounts that no other process sees


def one(checkout: Checkout, pattern: str) -> Path:
    (found,) = checkout.folder.glob(pattern)
    return found


def made(checkout: Checkout, *stages: str) -> str:
    """Take LoRA's results of these stages and the report away; return the fingerprint of the first."""
    paths = [one(checkout, f"results/{stage}/{LORA}/[!.]*") for stage in stages]
    for path in paths:
        checkout.run("rm", "-r", str(path))
    checkout.run("rm", "-r", "reports")
    return paths[0].name.removesuffix(".json")


def in_one_line(output: str) -> str:
    (line,) = [line for line in output.splitlines() if line.startswith("error:")]
    assert "Traceback" not in output
    return line


@pytest.fixture
def private_mounts():
    if subprocess.run([*PRIVATE, "mount -t tmpfs tmpfs /mnt"], capture_output=True, check=False).returncode:
        pytest.skip("no private mounts for this user here, so no disk of its own to fill")


def test_a_second_snakemake_is_refused_and_harms_nothing(copy, undisturbed):
    made(copy, "adapters", "answers", "scores")
    (copy.folder / ".run.lock").unlink()
    first = subprocess.Popen(
        ["snakemake", "--cores", "1"],
        cwd=copy.folder,
        env=copy.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lock = copy.folder / ".run.lock"
    while not (lock.exists() and lock.read_text()):
        assert first.poll() is None
        time.sleep(0.05)
    first.send_signal(signal.SIGSTOP)  # it is still at work when the second has planned
    try:
        assert f"(process {first.pid} on " in in_one_line(copy.run("snakemake", "--cores", "1", ok=False))
        assert "dry-run" in copy.run("snakemake", "--dry-run")
    finally:
        first.send_signal(signal.SIGCONT)
    told = first.communicate()[0]
    assert first.returncode == 0, told
    assert results(copy.folder) == results(undisturbed.folder)
    wait_until_nothing_works(copy.folder)


def test_marks_of_a_killed_job_whose_result_is_whole_hide_no_work(copy):
    base = one(copy, "results/bases/small-llama/[!.]*").relative_to(copy.folder)
    made(copy, "adapters", "answers", "scores")
    mark = copy.folder / ".snakemake/incomplete" / base64.b64encode(str(base).encode()).decode()
    mark.parent.mkdir(exist_ok=True)
    mark.touch()
    assert set(copy.planned()) == {"train", "generate", "score", "report"}


@pytest.mark.parametrize(
    ("file", "stages", "command"),
    [
        ("results/adapters/{run}/*/adapter_model.safetensors", ("answers", "scores"), "generate"),
        ("data/prompts/world-math/train-*.parquet", ("adapters", "answers", "scores"), "train"),
        ("results/answers/{run}/*/world-addsub-strict.jsonl", ("scores",), "score"),
    ],
)
def test_nothing_is_made_from_a_damaged_file(copy, file, stages, command):
    path = one(copy, file.format(run=LORA))
    fingerprint = made(copy, *stages)
    whole = path.read_bytes()
    for damaged in (whole[:-200], whole[:300] + b"\x01" + whole[301:]):  # truncated; one byte flipped
        path.write_bytes(damaged)
        line = in_one_line(copy.run("python", "-m", "pipeline", command, fingerprint, ok=False))
        assert str(path.relative_to(copy.folder)) in line
        assert "dvc checkout" in line
    assert not any((copy.folder / f"results/{stages[0]}/{LORA}").glob("[!.]*"))


def test_a_damaged_file_without_a_record_is_one_line_too(copy):
    path = one(copy, f"results/adapters/{LORA}/*/adapter_model.safetensors")
    fingerprint = made(copy, "answers", "scores")
    copy.run("rm", "-r", str(copy.folder / RECORDS))
    path.write_bytes(path.read_bytes()[:-200])
    line = in_one_line(copy.run("python", "-m", "pipeline", "generate", fingerprint, ok=False))
    assert "adapter cannot be loaded" in line


def test_a_damaged_tracking_database_costs_no_result(copy, undisturbed):
    fingerprint = made(copy, "scores")
    database = copy.folder / "mlflow.db"
    database.write_bytes(b"no database" * 1000)
    told = copy.run("python", "-m", "pipeline", "score", fingerprint)
    assert "database is damaged; move it away" in told
    assert results(copy.folder) == results(undisturbed.folder)
    assert "were not recorded" in in_one_line(copy.run("python", "-m", "pipeline", "track", ok=False))
    database.unlink()
    copy.run("python", "-m", "pipeline", "track")


def test_files_from_the_future(copy, undisturbed):
    copy.run("rm", "-r", *(str(copy.folder / name) for name in ("data/prompts", "results/audit", "reports")))
    later = time.strftime("%Y-%m-%d", time.localtime(time.time() + 3 * 86400))
    for folder in ("data", "results"):
        copy.run("find", folder, "-exec", "touch", "--no-dereference", "--date", later, "{}", "+")
    copy.snakemake()
    assert results(copy.folder) == results(undisturbed.folder)
    assert report(copy.folder) == report(undisturbed.folder)


@pytest.mark.skipif(not shutil.which("faketime"), reason="no faketime here to set a clock back with")
def test_a_method_added_after_the_clock_was_set_back_a_day(copy, undisturbed):
    copy.edit("params/study/small.yaml", "methods: [lora, {", "methods: [{")
    copy.snakemake()
    copy.run("python", "-m", "pipeline", "prune")
    copy.run("python", "-m", "pipeline", "prune", "--store", "--all", "--yes")
    copy.edit("params/study/small.yaml", "methods: [{", "methods: [lora, {")
    for path in copy.folder.rglob("*"):
        if (
            not path.is_symlink()
        ):  # faketime takes a day off the dates of files as well, and only new ones are to have it
            os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + DAY_NS))
    yesterday = ("faketime", "--exclude-monotonic", "-f", "-1d")
    copy.run(*yesterday, "snakemake", "--cores", "2")
    assert results(copy.folder) == results(undisturbed.folder)
    assert report(copy.folder) == report(undisturbed.folder)
    assert "Nothing to be done" in copy.run(*yesterday, "snakemake", "--dry-run")
    record = one(copy, f"{RECORDS}train/{LORA}/*.json")
    assert json.loads(record.read_text())["run"]["started"] < time.strftime("%Y-%m-%d", time.gmtime())


@pytest.mark.usefixtures("private_mounts")
@pytest.mark.parametrize(
    ("stages", "command"), [(("adapters", "answers", "scores"), "train"), (("scores",), "score")]
)
def test_a_full_disk_is_told_and_the_work_is_finished_later(copy, undisturbed, stages, command):
    fingerprint = made(copy, *stages)
    (copy.folder / f"results/{stages[0]}/{LORA}").mkdir(parents=True, exist_ok=True)
    full = f"mount -t tmpfs -o size=4k,nr_inodes=64 tmpfs results/{stages[0]}/{LORA}"
    job = f"python -m pipeline {command} {fingerprint}"
    told = copy.run(
        *PRIVATE, f"{full} && {job}; status=$?; ls results/{stages[0]}/{LORA}; exit $status", ok=False
    )
    assert "No space left on device" in in_one_line(told)
    assert fingerprint not in told.splitlines()[-1]
    copy.run("python", "-m", "pipeline", command, fingerprint)
    expected = results(undisturbed.folder)
    assert all(expected[path] == data for path, data in results(copy.folder).items())


@pytest.mark.usefixtures("private_mounts")
def test_read_only_results_are_told_before_the_work(copy):
    fingerprint = made(copy, "adapters", "answers", "scores")
    alone = "mount --bind results results && mount -o remount,bind,ro results"
    told = copy.run(*PRIVATE, f"{alone} && python -m pipeline train {fingerprint}", ok=False)
    assert "read-only" in in_one_line(told)
    assert "steps/s" not in told
    told = copy.run(*PRIVATE, f"{alone} && snakemake --cores 1", ok=False)
    assert "read-only" in in_one_line(told)
