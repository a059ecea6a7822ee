"""DVC records one study; results of another one stay where they are, and a clone compares its own with the committed ones."""

import json
import shutil

from tests.e2e.conftest import Checkout
from tests.e2e.test_dvc_experiments import assert_clean


def commit(checkout: Checkout, *options: str, ok: bool = True) -> str:
    return checkout.run("python", "-m", "pipeline", "commit", *options, ok=ok)


def test_commit_moves_nothing_of_another_study_and_checkout_deletes_no_report(checkout):
    card = (checkout.folder / "params/study/small.yaml").read_text()
    (checkout.folder / "params/study/other.yaml").write_text(card.replace("limit: 6", "limit: 5"))
    checkout.snakemake("--config", "study=other")
    scores = sorted((checkout.folder / "results/scores").rglob("*.json"))
    message = commit(checkout, ok=False)
    assert "belong to study 'other'" in message
    assert "commit --study small" in message
    assert "params.yaml, 'small'" in commit(checkout, "--study", "other", ok=False)
    assert sorted((checkout.folder / "results/scores").rglob("*.json")) == scores
    # as the message says, for either study
    assert "study 'small' is recorded" in commit(checkout, "--study", "small")
    (checkout.folder / "params/params.yaml").write_text("study: other\n")
    checkout.snakemake()
    assert "study 'other' is recorded" in commit(checkout, "--study", "other")
    checkout.run("dvc", "checkout")
    for study in ("small", "other"):
        assert (checkout.folder / f"reports/{study}/index.html").is_file()


def test_a_clone_without_a_pull_sees_how_far_its_results_are_from_the_committed_ones(checkout, tmp_path):
    checkout.run("git", "add", "--all")
    checkout.run("git", "commit", "--quiet", "--message", "results")
    clone = Checkout(tmp_path / "clone")
    checkout.run("git", "clone", "--quiet", str(checkout.folder), str(clone.folder))
    # as if they were made there
    for folder in ("data/raw", "data/prompts", "results", "reports"):
        shutil.copytree(checkout.folder / folder, clone.folder / folder, dirs_exist_ok=True)
    assert "6 of 6 accuracies are as in the last git commit" in commit(clone)
    assert_clean(clone)
    assert clone.run("git", "status", "--porcelain") == ""
    metrics = clone.folder / "reports/small/metrics.json"
    content = json.loads(metrics.read_text())
    content["strict"]["small-llama"]["lora"] = {"average arithmetic": 0.25, "world-addsub": 0.25}
    metrics.write_text(json.dumps(content))
    assert "4 of 6 accuracies are as in the last git commit; the largest difference is 25.0 points" in commit(
        clone
    )
    difference = json.loads(clone.run("dvc", "metrics", "diff", "--json"))
    ((path, change),) = difference.items()
    assert path == "results/summary/small-llama/lora.json"
    assert change["arithmetic"]["new"] == 0.25
