"""A fresh clone after `dvc pull` (behaviours 3, 4, 6): each kind of change runs exactly its jobs, a revert trains nothing."""

import shutil

import pytest

from pipeline.results.dvc.lock import INVALID_LOCK
from tests.e2e.conftest import Checkout, copy_checkout
from tests.e2e.test_dvc_experiments import VERSION, assert_clean, count_jobs

STUDY = "params/study/small.yaml"


@pytest.fixture(scope="module")
def pulled(finished, tmp_path_factory) -> Checkout:
    """Return a clone with the results pulled from a remote; tests must not change it."""
    folder = tmp_path_factory.mktemp("clone")
    origin, clone = copy_checkout(finished, folder / "a project"), Checkout(folder / "clone")
    origin.run("dvc", "remote", "modify", "--quiet", "shared", "url", str(folder / "remote"))
    origin.run("git", "add", "--all")
    origin.run("git", "commit", "--quiet", "--message", "results")
    origin.run("dvc", "push", "--quiet")
    origin.run("git", "clone", "--quiet", str(origin.folder), str(clone.folder))
    clone.run("dvc", "pull", "--quiet")
    # so that nothing can be read from there
    shutil.rmtree(origin.folder)
    return clone


@pytest.fixture
def clone(pulled, tmp_path) -> Checkout:
    """Return a copy of the clone."""
    return copy_checkout(pulled, tmp_path / "clone")


def test_a_fresh_clone_has_nothing_to_do_and_matches_its_records(clone):
    assert_clean(clone)
    assert not (clone.folder / "logs").exists()
    assert "all match their records" in clone.run("python", "-m", "pipeline", "verify")


@pytest.mark.exhaustive
def test_a_dvc_lock_cut_off_anywhere_is_restored_by_the_printed_commands(clone):
    lock = clone.folder / "dvc.lock"
    content = lock.read_text()
    train = content.index("  train:")
    # in the header, in a key and in a checksum of a stage, after a stage, and in the last line
    cuts = (
        0,
        20,
        content.index("md5", train) + 2,
        content.index("md5: ", train) + 20,
        train,
        len(content) - 2,
    )
    for end in cuts:
        lock.write_text(content[:end])
        clone.run("git", "checkout", "dvc.lock")
        clone.run("python", "-m", "pipeline", "commit")
        assert lock.read_text() == content, end
    assert_clean(clone)


@pytest.mark.parametrize(
    "command", [("commit",), ("pull", "--quiet"), ("push", "--quiet"), ("check-remote",)]
)
def test_a_command_that_needs_dvc_lock_says_how_to_restore_it(clone, command):
    lock = clone.folder / "dvc.lock"
    content = lock.read_text()
    lock.write_text(content[: content.index("md5", content.index("  train:")) + 2])
    clone.run("dvc", "repro", ok=False)
    assert INVALID_LOCK in clone.run("python", "-m", "pipeline", *command, ok=False)


def test_snakemake_and_status_work_without_a_valid_dvc_lock(clone):
    (clone.folder / "dvc.lock").write_text("")
    output = clone.run("snakemake", "--cores", "1")
    assert output.count(f"warning: {INVALID_LOCK}") == 1
    assert "Nothing to be done" in output
    assert INVALID_LOCK in clone.run("python", "-m", "pipeline", "status")


@pytest.mark.parametrize("command", [("python", "-m", "pipeline", "commit"), ("snakemake", "--cores", "1")])
def test_a_cut_off_list_of_locks_is_deleted(clone, command):
    (clone.folder / ".dvc/tmp/rwlock").write_text('{"write": {')
    clone.run("dvc", "repro", ok=False)
    clone.run(*command)
    assert_clean(clone)


# file, text, its replacement, the number of jobs of each stage; the study has two adapters and the bare base
CHANGES = {
    "method": ("params/methods/lora.yaml", "r: 32", "r: 4", {"train": 1, "generate": 1, "score": 1}),
    "training": (STUDY, "max_steps: 4", "max_steps: 5", {"train": 2, "generate": 2, "score": 2}),
    "seeds": (STUDY, "seeds: [0]", "seeds: [0, 1]", {"train": 2, "generate": 2, "score": 2}),
    "template": (
        STUDY,
        "title: small",
        "title: small\ntemplate: alpaca",
        {"prompts": 1, "audit": 1, "train": 2, "generate": 2, "score": 2},
    ),
    "training set": (
        "params/datasets/world-math.yaml",
        "seed: ",
        "seed: 1",
        {"fetch": 1, "prompts": 1, "audit": 1, "train": 2, "generate": 2, "score": 2},
    ),
    "task": (
        "params/datasets/world-addsub.yaml",
        "world_seed: 1",
        "world_seed: 2",
        {"fetch": 1, "prompts": 1, "audit": 1, "generate": 3, "score": 3},
    ),
    "model": (
        "params/models/small-llama.yaml",
        "steps: 20",
        "steps: 10",
        {"base": 1, "train": 2, "generate": 3, "score": 3},
    ),
    "decoding": ("params/protocols/strict.yaml", "num_beams: 1", "num_beams: 2", {"generate": 3, "score": 3}),
    "parser": ("params/protocols/strict.yaml", f"version: {VERSION}", "version: 905", {"score": 3}),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_change_plans_exactly_its_jobs(clone, kind):
    name, old, new, expected = CHANGES[kind]
    clone.edit(name, old, new)
    planned = {stage: len(paths) for stage, paths in clone.planned().items()}
    assert planned == {**expected, "report": 1}


def run_repro(clone: Checkout) -> dict[str, int]:
    """Run `dvc repro`; return how many jobs of each stage it ran."""
    before = count_jobs(clone)
    clone.run("dvc", "repro", "--quiet")
    return {
        stage: count - before[stage] for stage, count in count_jobs(clone).items() if count > before[stage]
    }


@pytest.mark.exhaustive
def test_repro_runs_exactly_the_jobs_and_a_revert_trains_nothing_and_restores_the_lock(clone):
    lock = (clone.folder / "dvc.lock").read_bytes()
    name, old, new, expected = CHANGES["training"]
    clone.edit(name, old, new)
    assert run_repro(clone) == {**expected, "report": 1}
    assert_clean(clone, "dvc.lock", name)
    assert (clone.folder / "dvc.lock").read_bytes() != lock

    clone.edit(name, new, old)
    assert run_repro(clone) == {"report": 1}
    assert (clone.folder / "dvc.lock").read_bytes() == lock
    assert_clean(clone)

    name, old, new, expected = CHANGES["seeds"]
    clone.edit(name, old, new)
    assert run_repro(clone) == {**expected, "report": 1}
    assert_clean(clone, "dvc.lock", name)
