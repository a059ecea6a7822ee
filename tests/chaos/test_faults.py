"""Full disks, damaged files and wrong clocks give a clear error or the right result, never a wrong number."""

import base64
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.chaos.conftest import RECORDS, read_report_tables, read_results, wait_until_idle
from tests.e2e.conftest import Checkout, find_errors

DAY_NS = 86_400_000_000_000
LORA = "small-llama/lora/world-math/seed0"
# runs a shell command with mounts that no other process sees
PRIVATE_MOUNTS = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")


def find_path(checkout: Checkout, pattern: str) -> Path:
    """Return the only path that matches a pattern."""
    (path,) = checkout.folder.glob(pattern)
    return path


def remove_lora_results(checkout: Checkout, *stage_folders: str) -> str:
    """Remove LoRA's results in these folders and the report; return the fingerprint of the first."""
    paths = [find_path(checkout, f"results/{folder}/{LORA}/[!.]*") for folder in stage_folders]
    for path in paths:
        checkout.run("rm", "-r", str(path))
    checkout.run("rm", "-r", "reports")
    return paths[0].name.removesuffix(".json")


def error_line(output: str) -> str:
    """Return the only error of an output, which must have no traceback."""
    (line,) = find_errors(output)
    assert "Traceback" not in output
    return line


@pytest.fixture
def private_mounts():
    """Skip the test if this user cannot create private mounts."""
    command = [*PRIVATE_MOUNTS, "mount -t tmpfs tmpfs /mnt"]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("skipped: this user cannot create private mounts")


def test_a_second_snakemake_is_refused_and_harms_nothing(copy, undisturbed):
    remove_lora_results(copy, "adapters", "answers", "scores")
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
    # paused, so that it is still active when the second snakemake has planned
    first.send_signal(signal.SIGSTOP)
    try:
        assert f"(process {first.pid} on " in error_line(copy.run("snakemake", "--cores", "1", ok=False))
        assert "what would run" in copy.run("snakemake", "--dry-run")
    finally:
        first.send_signal(signal.SIGCONT)
    output = first.communicate()[0]
    assert first.returncode == 0, output
    assert read_results(copy.folder) == read_results(undisturbed.folder)
    wait_until_idle(copy.folder)


def test_an_incomplete_mark_on_a_complete_result_does_not_hide_missing_results(copy):
    """Snakemake leaves such a mark if it is killed after a job has written its result and before it notices."""
    base = find_path(copy, "results/bases/small-llama/[!.]*").relative_to(copy.folder)
    remove_lora_results(copy, "adapters", "answers", "scores")
    mark = copy.folder / ".snakemake/incomplete" / base64.b64encode(str(base).encode()).decode()
    mark.parent.mkdir(exist_ok=True)
    mark.touch()
    assert set(copy.planned()) == {"train", "generate", "score", "report"}


@pytest.mark.parametrize(
    ("file", "stage_folders", "command"),
    [
        ("results/adapters/{run}/*/adapter_model.safetensors", ("answers", "scores"), "generate"),
        ("data/prompts/world-math/train-*.parquet", ("adapters", "answers", "scores"), "train"),
        ("results/answers/{run}/*/world-addsub-strict.jsonl", ("scores",), "score"),
    ],
)
def test_nothing_is_produced_from_a_damaged_file(copy, file, stage_folders, command):
    path = find_path(copy, file.format(run=LORA))
    fingerprint = remove_lora_results(copy, *stage_folders)
    content = path.read_bytes()
    truncated, flipped = content[:-200], content[:300] + b"\x01" + content[301:]
    for damaged in (truncated, flipped):
        path.write_bytes(damaged)
        line = error_line(copy.run("python", "-m", "pipeline", command, fingerprint, ok=False))
        assert str(path.relative_to(copy.folder)) in line
        assert "dvc checkout" in line
    assert not any((copy.folder / f"results/{stage_folders[0]}/{LORA}").glob("[!.]*"))


def test_a_damaged_file_without_a_record_is_an_error_in_one_line(copy):
    path = find_path(copy, f"results/adapters/{LORA}/*/adapter_model.safetensors")
    fingerprint = remove_lora_results(copy, "answers", "scores")
    copy.run("rm", "-r", str(copy.folder / RECORDS))
    path.write_bytes(path.read_bytes()[:-200])
    line = error_line(copy.run("python", "-m", "pipeline", "generate", fingerprint, ok=False))
    assert "adapter cannot be loaded" in line


def test_a_damaged_tracking_database_loses_no_result(copy, undisturbed):
    fingerprint = remove_lora_results(copy, "scores")
    database = copy.folder / "mlflow.db"
    database.write_bytes(b"no database" * 1000)
    output = copy.run("python", "-m", "pipeline", "score", fingerprint)
    assert "database is damaged; move it away" in output
    assert read_results(copy.folder) == read_results(undisturbed.folder)
    assert "were not recorded" in error_line(copy.run("python", "-m", "pipeline", "track", ok=False))
    database.unlink()
    copy.run("python", "-m", "pipeline", "track")


@pytest.mark.exhaustive
@pytest.mark.exhaustive
def test_files_dated_in_the_future_do_not_change_results(copy, undisturbed):
    copy.run("rm", "-r", *(str(copy.folder / name) for name in ("data/prompts", "results/audit", "reports")))
    later = time.strftime("%Y-%m-%d", time.localtime(time.time() + 3 * 86400))
    for folder in ("data", "results"):
        copy.run("find", folder, "-exec", "touch", "--no-dereference", "--date", later, "{}", "+")
    copy.snakemake()
    assert read_results(copy.folder) == read_results(undisturbed.folder)
    assert read_report_tables(copy.folder) == read_report_tables(undisturbed.folder)


@pytest.mark.exhaustive
@pytest.mark.skipif(not shutil.which("faketime"), reason="skipped: faketime is not installed")
@pytest.mark.exhaustive
def test_a_method_added_while_the_clock_is_a_day_behind_is_produced(copy, undisturbed):
    copy.edit("params/study/small.yaml", "methods: [lora, {", "methods: [{")
    copy.snakemake()
    copy.run("python", "-m", "pipeline", "prune")
    copy.run("python", "-m", "pipeline", "prune", "--store", "--all", "--yes")
    copy.edit("params/study/small.yaml", "methods: [{", "methods: [lora, {")
    for path in copy.folder.rglob("*"):
        # faketime also takes a day off the dates of existing files, so they get a day more
        if not path.is_symlink():
            os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + DAY_NS))
    yesterday = ("faketime", "--exclude-monotonic", "-f", "-1d")
    copy.run(*yesterday, "snakemake", "--cores", "2")
    assert read_results(copy.folder) == read_results(undisturbed.folder)
    assert read_report_tables(copy.folder) == read_report_tables(undisturbed.folder)
    assert "Nothing to be done" in copy.run(*yesterday, "snakemake", "--dry-run")
    record = find_path(copy, f"{RECORDS}train/{LORA}/*.json")
    assert json.loads(record.read_text())["run"]["started"] < time.strftime("%Y-%m-%d", time.gmtime())


@pytest.mark.usefixtures("private_mounts")
@pytest.mark.parametrize(
    ("stage_folders", "command"),
    [
        pytest.param(("adapters", "answers", "scores"), "train", marks=pytest.mark.exhaustive),
        (("scores",), "score"),
    ],
)
def test_a_full_disk_is_an_error_and_a_later_run_completes_the_job(copy, undisturbed, stage_folders, command):
    fingerprint = remove_lora_results(copy, *stage_folders)
    folder = f"results/{stage_folders[0]}/{LORA}"
    (copy.folder / folder).mkdir(parents=True, exist_ok=True)
    mount = f"mount -t tmpfs -o size=4k,nr_inodes=64 tmpfs {folder}"
    job = f"python -m pipeline {command} {fingerprint}"
    output = copy.run(*PRIVATE_MOUNTS, f"{mount} && {job}; status=$?; ls {folder}; exit $status", ok=False)
    assert "No space left on device" in error_line(output)
    # the last line is what ls lists
    assert fingerprint not in output.splitlines()[-1]
    copy.run("python", "-m", "pipeline", command, fingerprint)
    expected = read_results(undisturbed.folder)
    assert all(expected[path] == content for path, content in read_results(copy.folder).items())


@pytest.mark.usefixtures("private_mounts")
def test_a_read_only_results_folder_is_reported_before_the_work(copy):
    fingerprint = remove_lora_results(copy, "adapters", "answers", "scores")
    mount = "mount --bind results results && mount -o remount,bind,ro results"
    output = copy.run(*PRIVATE_MOUNTS, f"{mount} && python -m pipeline train {fingerprint}", ok=False)
    assert "read-only" in error_line(output)
    assert "steps/s" not in output
    output = copy.run(*PRIVATE_MOUNTS, f"{mount} && snakemake --cores 1", ok=False)
    assert "read-only" in error_line(output)


@pytest.mark.usefixtures("private_mounts")
def test_a_read_only_checkout_is_refused_before_the_dag(copy):
    mount = 'mount --bind . . && mount -o remount,bind,ro . && cd "$PWD"'
    for options in ("", "--dry-run"):
        output = copy.run(*PRIVATE_MOUNTS, f"{mount} && snakemake --cores 1 {options}", ok=False)
        assert f"{copy.folder}: read-only" in error_line(output)
    assert "dvc.lock" in copy.run(*PRIVATE_MOUNTS, f"{mount} && python -m pipeline status")
