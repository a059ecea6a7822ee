"""DVC experiments (behaviour 8) and `dvc repro` after a change in each kind of card; DVC and Snakemake agree after each."""

import csv
import io
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from tests.conftest import ROOT
from tests.e2e.conftest import STAGES, Checkout, copy_checkout, find_processes

PROTOCOL = (ROOT / "params/protocols/strict.yaml").read_text()
VERSION = re.findall(r"^version: (\d+)$", PROTOCOL, re.M)[0]


@pytest.fixture
def project(checkout) -> Checkout:
    """Return a checkout with its results committed."""
    checkout.run("git", "add", "--all")
    checkout.run("git", "commit", "--quiet", "--message", "results")
    return checkout


def assert_clean(checkout: Checkout, *changed: str) -> None:
    """Check that DVC and Snakemake have nothing to do, and that git reports only these files as changed.

    The accuracies in git may have changed with the results.
    """
    assert "up to date" in checkout.run("dvc", "status")
    assert checkout.planned() == {}
    lines = checkout.run("git", "status", "--porcelain").splitlines()
    assert {name for line in lines if not (name := line[3:]).startswith("results/")} == set(changed)


def count_jobs(checkout: Checkout) -> dict[str, int]:
    """Return how many jobs of each stage have run in the checkout."""
    logs = checkout.folder / "logs"
    return {stage: len(list((logs / stage).rglob("*.log"))) for stage in STAGES.values()}


def read_experiment_column(checkout: Checkout, key: str) -> dict[str, str]:
    """Return a column of `dvc exp show`: experiment -> value."""
    rows = csv.DictReader(io.StringIO(checkout.run("dvc", "exp", "show", "--csv")))
    return {row["Experiment"] or row["rev"]: row[key] for row in rows}


@pytest.mark.exhaustive
@pytest.mark.exhaustive
def test_experiments_run_in_a_temporary_folder_and_in_a_queue_and_are_shared(project, tmp_path):
    before, lock = count_jobs(project), (project.folder / "dvc.lock").read_bytes()
    title, version = "params/study/small.yaml:title", "params/protocols/strict.yaml:version"

    project.run(
        "dvc", "exp", "run", "--quiet", "--name", "temporary", "--temp", "--set-param", f"{title}=temporary"
    )
    assert_clean(project)
    project.run("dvc", "exp", "run", "--queue", "--name", "second", "--set-param", f"{version}=902")
    assert project.run("dvc", "queue", "status").count("Queued") == 1
    project.run("dvc", "exp", "run", "--quiet", "--run-all")
    assert project.run("dvc", "queue", "status").count("Success") == 1
    assert_clean(project)
    # each experiment ran in its own folder
    assert count_jobs(project) == before
    assert (project.folder / "dvc.lock").read_bytes() == lock

    names = {"workspace": VERSION, "master": VERSION, "temporary": VERSION, "second": "902"}
    assert read_experiment_column(project, "params/protocols/strict.yaml:version") == names
    assert read_experiment_column(project, "params/study/small.yaml:title")["temporary"] == "temporary"

    project.run("dvc", "exp", "apply", "second")
    assert_clean(project, "dvc.lock", "params/protocols/strict.yaml")
    differences = json.loads(project.run("dvc", "params", "diff", "--json"))
    (version,) = differences.pop("params/protocols/strict.yaml").values()
    assert differences == {}
    assert (version["old"], version["new"]) == (int(VERSION), 902)
    project.run("git", "checkout", "--quiet", ".")
    project.run("dvc", "checkout", "--quiet")
    assert_clean(project)

    project.run("dvc", "exp", "branch", "second", "better")
    assert "version: 902" in project.run("git", "show", "better:params/protocols/strict.yaml")
    project.run("git", "branch", "--delete", "--force", "better")
    share_experiment(project, tmp_path)


def share_experiment(project: Checkout, folder: Path) -> None:
    """Push an experiment to a bare repository and a remote, and apply it with its results in a clone."""
    project.run("git", "clone", "--quiet", "--bare", str(project.folder), str(folder / "bare.git"))
    project.run("git", "remote", "add", "origin", str(folder / "bare.git"))
    set_remote = ("dvc", "remote", "modify", "--quiet", "--local", "shared", "url", str(folder / "remote"))
    project.run(*set_remote)
    project.run("dvc", "push", "--quiet")
    project.run("dvc", "exp", "push", "--quiet", "origin", "second")
    project.run("git", "clone", "--quiet", str(folder / "bare.git"), str(folder / "clone"))
    clone = Checkout(folder / "clone")
    clone.run(*set_remote)
    assert "second" in clone.run("dvc", "exp", "list", "origin")
    clone.run("dvc", "exp", "pull", "--quiet", "origin", "second")
    clone.run("dvc", "exp", "apply", "second")
    clone.run("dvc", "checkout", "--quiet")
    assert_clean(clone, "dvc.lock", "params/protocols/strict.yaml")
    assert not (clone.folder / "logs").exists()
    project.run("git", "remote", "remove", "origin")
    assert_clean(project)


# the queue takes two minutes on four cores
QUEUE_TIMEOUT_S = 3000.0


def wait_until(condition: Callable[[], bool], description: str, checkout: Checkout) -> None:
    """Wait until a condition holds that the queue brings about."""
    deadline = time.monotonic() + QUEUE_TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            status = checkout.run("dvc", "queue", "status")
            pytest.fail(f"not within {QUEUE_TIMEOUT_S:.0f} s: {description}\n{status}")
        time.sleep(0.5)


@pytest.fixture
def queue(project) -> Iterator[Checkout]:
    """Yield a checkout with an empty queue; end the workers that a failed test leaves."""
    yield project
    while processes := find_processes(project.folder):
        for process in processes:
            process.kill()
        psutil.wait_procs(processes)


def start_workers(checkout: Checkout, *, count: int = 1) -> None:
    """Start workers of the queue.

    Their output is discarded: they inherit it, and a caller that reads it would wait until they end.
    """
    checkout.run("sh", "-c", f"dvc queue start --jobs {count} > /dev/null 2>&1")


@pytest.mark.exhaustive
def test_two_workers_run_a_queue_in_the_background_and_end(queue):
    card, adapters = "params/methods/lora.yaml", "results/adapters"
    before, lock = count_jobs(queue), (queue.folder / "dvc.lock").read_bytes()
    for name, rank in (("narrow", 3), ("wide", 6), ("removed", 9)):
        queue.run("dvc", "exp", "run", "--queue", "--name", name, "-S", f"{card}:r={rank}")
    queue.run("dvc", "queue", "remove", "removed")
    assert queue.run("dvc", "queue", "status").count("Queued") == 2
    start_workers(queue, count=2)
    copies = queue.folder / ".dvc/tmp/exps"
    wait_until(lambda: len([*copies.glob("*/logs/train")]) == 2, "two experiments train in parallel", queue)
    wait_until(lambda: not find_processes(queue.folder), "the workers end after the last experiment", queue)
    status = queue.run("dvc", "queue", "status")
    assert (status.count("Success"), status.count("Queued"), status.count("Failed")) == (2, 0, 0), status
    assert "train small-llama/lora/world-math/seed0" in queue.run("dvc", "queue", "logs", "wide")
    assert_clean(queue)
    # each experiment ran in its own folder
    assert count_jobs(queue) == before
    assert (queue.folder / "dvc.lock").read_bytes() == lock

    ranks, accuracies, folders = (
        read_experiment_column(queue, column)
        for column in (f"{card}:r", "results/summary/small-llama/lora.json:arithmetic", adapters)
    )
    assert {name: ranks[name] for name in ("workspace", "narrow", "wide")} == {
        "workspace": "32",
        "narrow": "3",
        "wide": "6",
    }
    assert len({folders[name] for name in ("workspace", "narrow", "wide")}) == 3
    for name in ("narrow", "wide"):
        queue.run("dvc", "exp", "apply", name)
        assert_clean(queue, "dvc.lock", card)
        assert folders[name] in (queue.folder / "dvc.lock").read_text()
        (config,) = queue.folder.glob(f"{adapters}/small-llama/lora/*/*/*/adapter_config.json")
        assert str(json.loads(config.read_text())["r"]) == ranks[name]
        metrics = json.loads((queue.folder / "reports/small/metrics.json").read_text())
        # the average of an arm with one task, as DVC shows it
        assert metrics["strict"]["small-llama"]["lora"]["world-addsub"] == pytest.approx(
            float(accuracies[name]), abs=1e-4
        )
    queue.run("git", "checkout", "--quiet", ".")
    queue.run("dvc", "checkout", "--quiet")
    assert_clean(queue)


@pytest.mark.exhaustive
def test_a_stopped_queue_leaves_no_process_and_an_unchanged_checkout(queue):
    queue.run("dvc", "exp", "run", "--queue", "--name", "killed", "-S", "params/methods/lora.yaml:r=4")
    start_workers(queue)
    copies = queue.folder / ".dvc/tmp/exps"

    wait_until(lambda: any(copies.glob("*/logs/train/*.log")), "an experiment trains", queue)
    queue.run("dvc", "queue", "stop", "--kill")
    wait_until(lambda: not find_processes(queue.folder), "the worker and its child processes end", queue)
    assert queue.run("dvc", "queue", "status").count("Failed") == 1
    queue.run("dvc", "queue", "remove", "--failed")
    assert "killed" not in queue.run("dvc", "exp", "list")
    assert_clean(queue)


def read_outputs(lock: Path) -> dict[str, str]:
    """Return the checksum of every output that a dvc.lock records."""
    stages = yaml.safe_load(lock.read_text())["stages"].values()
    return {output["path"]: output["md5"] for stage in stages for output in stage["outs"]}


@pytest.mark.exhaustive
def test_an_experiment_in_the_checkout_changes_a_value_and_a_revert_restores_the_lock(project):
    before, lock = count_jobs(project), (project.folder / "dvc.lock").read_bytes()
    outputs = read_outputs(project.folder / "dvc.lock")
    project.run("dvc", "exp", "run", "--quiet", "--name", "changed", "-S", "params/methods/lora.yaml:r=4")
    assert_clean(project, "dvc.lock", "params/methods/lora.yaml")
    ran = {stage: count - before[stage] for stage, count in count_jobs(project).items()}
    assert ran == {**dict.fromkeys(before, 0), "train": 1, "generate": 1, "score": 1, "report": 1}
    assert "r: 4\n" in (project.folder / "params/methods/lora.yaml").read_text()

    trained = count_jobs(project)["train"]
    project.run("dvc", "exp", "run", "--quiet", "--name", "reverted", "-S", "params/methods/lora.yaml:r=32")
    assert count_jobs(project)["train"] == trained
    # DVC has changed the layout of the card, and so the checksum of its folder; all results are the earlier ones
    assert read_outputs(project.folder / "dvc.lock") == outputs
    project.run("git", "checkout", "--quiet", "params")
    project.run("python", "-m", "pipeline", "commit")
    assert (project.folder / "dvc.lock").read_bytes() == lock
    assert_clean(project)


# file, text, its replacement, the stages that have jobs to run
CHANGES = [
    (
        "params/datasets/world-addsub.yaml",
        "world_seed: 1",
        "world_seed: 2",
        "fetch prompts audit generate score report",
    ),
    ("params/protocols/strict.yaml", "num_beams: 1", "num_beams: 2", "generate score report"),
    ("params/models/small-llama.yaml", "steps: 20", "steps: 10", "base train generate score report"),
    ("params/study/small.yaml", "limit: 40", "limit: 30", "prompts audit train generate score report"),
    ("params/study/small.yaml", "title: small", "title: other", "report"),
]


# stages that depend on this folder of cards, and have nothing to run if none of the keys that they read changed
WITHOUT_JOBS = {
    "datasets": set(),
    # trials may be judged by accuracy
    "protocols": {"fetch", "prompts", "train"},
    "models": {"fetch", "prompts"},
    "study": {"fetch", "prompts", "audit", "base", "train", "combine", "generate"},
}


@pytest.mark.parametrize(("name", "old", "new", "stages"), CHANGES)
def test_dvc_reruns_the_stages_that_a_card_changes(project, name, old, new, stages):
    """Snakemake selects the jobs; DVC must run each of their stages without any other change."""
    project.edit(name, old, new)
    assert set(project.planned()) == set(stages.split())
    status = json.loads(project.run("dvc", "status", "--json"))
    changed = {
        stage for stage, changes in status.items() if any("changed deps" in change for change in changes)
    }
    assert changed <= set(stages.split()) | WITHOUT_JOBS[name.split("/")[1]]
    assert stages.split()[0] in changed


@pytest.mark.exhaustive
def test_snakemake_and_commit_write_the_same_lock_as_dvc_repro(project):
    project.edit("params/protocols/strict.yaml", f"version: {VERSION}", "version: 905")
    old = (project.folder / "dvc.lock").read_bytes()
    project.snakemake()
    project.run("python", "-m", "pipeline", "commit")
    lock = (project.folder / "dvc.lock").read_bytes()
    (project.folder / "dvc.lock").write_bytes(old)
    before = count_jobs(project)
    project.run("dvc", "repro", "--quiet")
    assert count_jobs(project) == before
    assert (project.folder / "dvc.lock").read_bytes() == lock != old
    project.run("git", "checkout", "--quiet", ".")
    project.run("dvc", "checkout", "--quiet")
    assert_clean(project)


@pytest.mark.exhaustive
@pytest.mark.exhaustive
def test_two_checkouts_share_a_cache_and_a_tracking_store(finished, tmp_path):
    cache, store = tmp_path / "cache", f"sqlite:///{tmp_path}/mlflow.db"
    checkouts = []
    for rank in (4, 2):
        checkout = copy_checkout(finished, tmp_path / f"r{rank}")
        checkout.run("dvc", "cache", "dir", str(cache))
        checkout.edit("params/methods/lora.yaml", "r: 32", f"r: {rank}")
        checkouts.append(checkout)
    command = "snakemake --cores 1 && python -m pipeline commit"
    processes = [
        subprocess.Popen(
            command,
            shell=True,
            cwd=checkout.folder,
            env={**checkout.environment(), "MLFLOW_TRACKING_URI": store},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for checkout in checkouts
    ]
    for process in processes:
        output = process.communicate()[0]
        assert process.returncode == 0, output
    for rank, checkout in zip((4, 2), checkouts, strict=True):
        assert "up to date" in checkout.run("dvc", "status")
        assert checkout.planned() == {}
        (adapter,) = checkout.folder.glob("results/adapters/small-llama/lora/*/*/*/adapter_config.json")
        assert json.loads(adapter.read_text())["r"] == rank
    assert read_ranks(store) == {"4", "2"}


def read_ranks(store: str) -> set[str]:
    """Return the ranks of the trained LoRA runs of an MLflow store, which has each once."""
    script = (
        "import mlflow, sys, json; mlflow.set_tracking_uri(sys.argv[1]); "
        "c = mlflow.MlflowClient(); "
        "runs = [r for e in c.search_experiments() for r in c.search_runs([e.experiment_id])]; "
        "print(json.dumps([r.data.params['method.r'] for r in runs if r.data.tags.get('method') == 'lora' "
        "and r.info.status == 'FINISHED']))"
    )
    process = subprocess.run(
        [sys.executable, "-c", script, store], capture_output=True, text=True, check=True
    )
    ranks = json.loads(process.stdout.splitlines()[-1])
    assert len(ranks) == len(set(ranks))
    return set(ranks)
