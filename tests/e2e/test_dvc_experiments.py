"""Experiments (behaviour 8) and `dvc repro` after a change in any kind of card; both tools clean after each."""

import csv
import io
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT
from tests.e2e.conftest import STAGES, Checkout

PROTOCOL = (ROOT / "params/protocols/strict.yaml").read_text()
VERSION = re.findall(r"^version: (\d+)$", PROTOCOL, re.M)[0]


@pytest.fixture
def project(recorded) -> Iterator[Checkout]:
    """The module's checkout; what a test leaves changed is put back."""
    yield recorded
    recorded.run("git", "checkout", "--quiet", ".")


@pytest.fixture(scope="module")
def recorded(finished, tmp_path_factory) -> Checkout:
    """A checkout with its results committed, which the tests of this module leave as they found it."""
    folder = tmp_path_factory.mktemp("experiments") / "a project"
    shutil.copytree(finished.folder, folder, symlinks=True)
    checkout = Checkout(folder)
    checkout.run("git", "add", "--all")
    checkout.run("git", "commit", "--quiet", "--message", "results")
    return checkout


def assert_clean(checkout: Checkout, *changed: str) -> None:
    """Both tools have nothing to do, and git sees only these files changed."""
    assert "up to date" in checkout.run("dvc", "status")
    assert checkout.planned() == {}
    lines = checkout.run("git", "status", "--porcelain").splitlines()
    assert {line[3:] for line in lines} == set(changed)


def jobs(checkout: Checkout) -> dict[str, int]:
    """How many jobs of each stage have run in the checkout."""
    logs = checkout.folder / "logs"
    return {stage: len(list((logs / stage).rglob("*.log"))) for stage in STAGES.values()}


def shown(checkout: Checkout, key: str) -> dict[str, str]:
    """What `dvc exp show` says of a column: experiment -> value."""
    rows = csv.DictReader(io.StringIO(checkout.run("dvc", "exp", "show", "--csv")))
    return {row["Experiment"] or row["rev"]: row[key] for row in rows}


def test_experiments_run_queued_and_apart_and_are_shared(project, tmp_path):
    before, lock = jobs(project), (project.folder / "dvc.lock").read_bytes()
    title, version = "params/study/small.yaml:title", "params/protocols/strict.yaml:version"

    project.run("dvc", "exp", "run", "--quiet", "--name", "apart", "--temp", "--set-param", f"{title}=apart")
    assert_clean(project)
    project.run("dvc", "exp", "run", "--queue", "--name", "second", "--set-param", f"{version}=902")
    assert project.run("dvc", "queue", "status").count("Queued") == 1
    project.run("dvc", "exp", "run", "--quiet", "--run-all")
    assert project.run("dvc", "queue", "status").count("Success") == 1
    assert_clean(project)
    assert jobs(project) == before  # each ran in a folder of its own
    assert (project.folder / "dvc.lock").read_bytes() == lock

    names = {"workspace": VERSION, "master": VERSION, "apart": VERSION, "second": "902"}
    assert shown(project, "params/protocols/strict.yaml:version") == names
    assert shown(project, "params/study/small.yaml:title")["apart"] == "apart"

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
    _push_and_pull(project, tmp_path)


def _push_and_pull(project: Checkout, folder: Path) -> None:
    """Experiments through a bare repository and a remote: a colleague applies one and has its results."""
    project.run("git", "clone", "--quiet", "--bare", str(project.folder), str(folder / "bare.git"))
    project.run("git", "remote", "add", "origin", str(folder / "bare.git"))
    place = ("dvc", "remote", "modify", "--quiet", "--local", "shared", "url", str(folder / "remote"))
    project.run(*place)
    project.run("dvc", "push", "--quiet")
    project.run("dvc", "exp", "push", "--quiet", "origin", "second")
    project.run("git", "clone", "--quiet", str(folder / "bare.git"), str(folder / "clone"))
    clone = Checkout(folder / "clone")
    clone.run(*place)
    assert "second" in clone.run("dvc", "exp", "list", "origin")
    clone.run("dvc", "exp", "pull", "--quiet", "origin", "second")
    clone.run("dvc", "exp", "apply", "second")
    clone.run("dvc", "checkout", "--quiet")
    assert_clean(clone, "dvc.lock", "params/protocols/strict.yaml")
    assert not (clone.folder / "logs").exists()
    project.run("git", "remote", "remove", "origin")
    assert_clean(project)


WAIT_S = 3000.0  # for the queue, which takes two minutes on four cores


def at_work(checkout: Checkout) -> list[psutil.Process]:
    """The processes that work in the checkout or in an experiment's copy of it."""
    found = []
    for process in psutil.process_iter(["cwd"]):
        place = process.info["cwd"]
        if place and Path(place).is_relative_to(checkout.folder) and process.status() != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def wait_until(true: Callable[[], bool], what: str, checkout: Checkout) -> None:
    """Wait for something that the queue does."""
    end = time.monotonic() + WAIT_S
    while not true():
        told = "" if time.monotonic() < end else checkout.run("dvc", "queue", "status")
        assert time.monotonic() < end, f"not in {WAIT_S:.0f} s: {what}\n{told}"
        time.sleep(0.5)


@pytest.fixture
def queue(project) -> Iterator[Checkout]:
    """The module's checkout with an empty queue; what a failed test leaves of it is ended and taken out."""
    project.run("dvc", "queue", "remove", "--all")
    yield project
    while left := at_work(project):
        for process in left:
            process.kill()
        psutil.wait_procs(left)
    project.run("dvc", "queue", "remove", "--all")


def start(checkout: Checkout, *, workers: int = 1) -> None:
    """Start workers; they keep the output that they were started with, so whoever reads that would wait for their end."""
    checkout.run("sh", "-c", f"dvc queue start --jobs {workers} > /dev/null 2>&1")


def test_a_queue_in_the_background_is_worked_off_by_two_at_once_and_leaves_no_worker(queue):
    card, adapters = "params/methods/lora.yaml", "results/adapters"
    before, lock = jobs(queue), (queue.folder / "dvc.lock").read_bytes()
    for name, rank in (("narrow", 3), ("wide", 6), ("other", 9)):
        queue.run("dvc", "exp", "run", "--queue", "--name", name, "-S", f"{card}:r={rank}")
    queue.run("dvc", "queue", "remove", "other")
    assert queue.run("dvc", "queue", "status").count("Queued") == 2
    start(queue, workers=2)
    copies = queue.folder / ".dvc/tmp/exps"
    wait_until(
        lambda: len([*copies.glob("*/logs/train")]) == 2, "two experiments run beside each other", queue
    )
    wait_until(lambda: not at_work(queue), "the workers end when all is done", queue)
    told = queue.run("dvc", "queue", "status")
    assert (told.count("Success"), told.count("Queued"), told.count("Failed")) == (2, 0, 0), told
    assert "Fine-tuning small-llama with lora" in queue.run("dvc", "queue", "logs", "wide")
    assert_clean(queue)
    assert jobs(queue) == before  # each ran in a folder of its own
    assert (queue.folder / "dvc.lock").read_bytes() == lock

    ranks, accuracies, made = (
        shown(queue, column) for column in (f"{card}:r", "strict.small-llama.lora.world-addsub", adapters)
    )
    assert {name: ranks[name] for name in ("workspace", "narrow", "wide")} == {
        "workspace": "32",
        "narrow": "3",
        "wide": "6",
    }
    assert len({made[name] for name in ("workspace", "narrow", "wide")}) == 3
    for name in ("narrow", "wide"):
        queue.run("dvc", "exp", "apply", name)
        assert_clean(queue, "dvc.lock", card)
        assert made[name] in (queue.folder / "dvc.lock").read_text()
        (config,) = queue.folder.glob(f"{adapters}/small-llama/lora/*/*/*/adapter_config.json")
        assert str(json.loads(config.read_text())["r"]) == ranks[name]
        metrics = json.loads((queue.folder / "reports/small/metrics.json").read_text())
        assert metrics["strict"]["small-llama"]["lora"]["world-addsub"] == float(accuracies[name])
    queue.run("git", "checkout", "--quiet", ".")
    queue.run("dvc", "checkout", "--quiet")
    assert_clean(queue)


def test_a_stopped_queue_leaves_no_process_and_the_checkout_as_it_was(queue):
    queue.run("dvc", "exp", "run", "--queue", "--name", "killed", "-S", "params/methods/lora.yaml:r=4")
    start(queue)
    copies = queue.folder / ".dvc/tmp/exps"

    wait_until(lambda: any(copies.glob("*/logs/train/*.log")), "an experiment trains", queue)
    queue.run("dvc", "queue", "stop", "--kill")
    wait_until(lambda: not at_work(queue), "the worker and all below it end", queue)
    assert queue.run("dvc", "queue", "status").count("Failed") == 1
    queue.run("dvc", "queue", "remove", "--failed")
    assert "killed" not in queue.run("dvc", "exp", "list")
    assert_clean(queue)


def test_an_experiment_here_changes_one_value_and_its_revert_gives_the_lock_back(project):
    before, lock = jobs(project), (project.folder / "dvc.lock").read_bytes()
    project.run("dvc", "exp", "run", "--quiet", "--name", "here", "-S", "params/methods/lora.yaml:r=4")
    assert_clean(project, "dvc.lock", "params/methods/lora.yaml")
    ran = {stage: count - before[stage] for stage, count in jobs(project).items()}
    assert ran == {**dict.fromkeys(before, 0), "train": 1, "generate": 1, "score": 1, "report": 1}
    assert "r: 4\n" in (project.folder / "params/methods/lora.yaml").read_text()

    trained = jobs(project)["train"]
    project.run("dvc", "exp", "run", "--quiet", "--name", "back", "-S", "params/methods/lora.yaml:r=32")
    assert jobs(project)["train"] == trained
    assert (project.folder / "dvc.lock").read_bytes() == lock  # though the card is laid out otherwise now
    project.run("git", "checkout", "--quiet", ".")
    assert_clean(project)


# file, text, other text, the stages that run, each once for every job that it has
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


@pytest.mark.parametrize(("name", "old", "new", "stages"), CHANGES)
def test_dvc_looks_at_exactly_the_stages_that_a_card_changes(project, tmp_path, name, old, new, stages):
    """The jobs are Snakemake's to find; DVC must not skip a stage of them, and needs no other change to see it."""
    project.edit(name, old, new)
    assert set(project.planned()) == set(stages.split())
    status = json.loads(project.run("dvc", "status", "--json"))
    project.run("git", "checkout", "--quiet", name)
    own = {stage for stage, found in status.items() if any("changed deps" in one for one in found)}
    assert own <= set(stages.split()) | BELOW[name.split("/")[1]]
    assert stages.split()[0] in own


# stages that list this kind of card, and have nothing to do where a key of it is none of theirs
BELOW = {
    "datasets": set(),
    "protocols": {"fetch", "prompts"},
    "models": {"fetch", "prompts"},
    "study": {"fetch", "prompts", "audit", "base", "train", "generate"},
}


def test_snakemake_and_commit_give_the_lock_of_dvc_repro(project):
    project.edit("params/protocols/strict.yaml", f"version: {VERSION}", "version: 905")
    old = (project.folder / "dvc.lock").read_bytes()
    project.snakemake()
    project.run("python", "-m", "pipeline", "commit")
    lock = (project.folder / "dvc.lock").read_bytes()
    (project.folder / "dvc.lock").write_bytes(old)
    ran = jobs(project)
    project.run("dvc", "repro", "--quiet")
    assert jobs(project) == ran
    assert (project.folder / "dvc.lock").read_bytes() == lock != old
    project.run("git", "checkout", "--quiet", ".")
    project.run("dvc", "checkout", "--quiet")
    assert_clean(project)


def test_two_checkouts_share_a_cache_and_a_tracking_store(finished, tmp_path):
    cache, store = tmp_path / "cache", f"sqlite:///{tmp_path}/mlflow.db"
    checkouts = []
    for rank in (4, 2):
        folder = tmp_path / f"r{rank}"
        shutil.copytree(finished.folder, folder, symlinks=True)
        checkout = Checkout(folder)
        checkout.run("dvc", "cache", "dir", str(cache))
        checkout.edit("params/methods/lora.yaml", "r: 32", f"r: {rank}")
        checkouts.append(checkout)
    command = "snakemake --cores 1 && python -m pipeline commit"
    running = [
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
    for process in running:
        assert process.wait() == 0, process.stdout and process.stdout.read()
    for rank, checkout in zip((4, 2), checkouts, strict=True):
        assert "up to date" in checkout.run("dvc", "status")
        assert checkout.planned() == {}
        (adapter,) = checkout.folder.glob("results/adapters/small-llama/lora/*/*/*/adapter_config.json")
        assert json.loads(adapter.read_text())["r"] == rank
    assert _ranks_in(store) == {"4", "2"}


def _ranks_in(store: str) -> set[str]:
    """The ranks of the trained LoRA runs that an MLflow store has, each once."""
    script = (
        "import mlflow, sys, json; mlflow.set_tracking_uri(sys.argv[1]); "
        "c = mlflow.MlflowClient(); "
        "runs = [r for e in c.search_experiments() for r in c.search_runs([e.experiment_id])]; "
        "print(json.dumps([r.data.params['method.r'] for r in runs if r.data.tags.get('method') == 'lora' "
        "and r.info.status == 'FINISHED']))"
    )
    done = subprocess.run([sys.executable, "-c", script, store], capture_output=True, text=True, check=True)
    ranks = json.loads(done.stdout.splitlines()[-1])
    assert len(ranks) == len(set(ranks))
    return set(ranks)
