"""Dataset cards: what DVC reports of a changed card, and a new card from a local file to the report."""

import json
import re

import pytest

CARD = """
name: mine
title: Mine
answer_form: number
splits:
  train: {rows: null, sources: [{kind: local, path: mine.jsonl}]}
  test: {rows: null, sources: [{kind: local, path: mine-test.json}]}
licence: mine
citation: nowhere
"""


def make_sums(start: int, count: int) -> list[dict[str, str]]:
    """Return ``count`` rows with sums of two numbers below 20."""
    pairs = [(number % 20, number * 7 % 20) for number in range(start, start + count)]
    return [
        {
            "instruction": f"What is {first} + {second}?",
            "input": "",
            "output": f"The answer is {first + second}.",
            "answer": str(first + second),
        }
        for first, second in pairs
    ]


def changed_data(checkout) -> set[tuple[str, str]]:
    """Return what ``dvc diff`` reports of the files in data/: state and path without fingerprint."""
    report = json.loads(checkout.run("dvc", "diff", "--json"))
    paths = {
        (state, entry["path"]) for state, entries in report.items() for entry in entries if "path" in entry
    }
    return {
        (state, re.sub(r"-?[0-9a-f]{12}.*", "", path))
        for state, path in paths
        if path.startswith("data/") and not path.endswith("/")
    }


@pytest.mark.exhaustive
def test_dvc_diff_lists_the_files_of_a_changed_dataset_card(checkout):
    checkout.run("git", "add", "dvc.lock")
    checkout.run("git", "commit", "--quiet", "--message", "results")
    assert changed_data(checkout) == set()
    card = "params/datasets/world-addsub.yaml"
    checkout.edit(card, "citation:", "defects: [none that count]\ncitation:")
    checkout.run("dvc", "repro", "--quiet", "prompts")
    # a description of the dataset changes no data
    assert changed_data(checkout) == set()
    checkout.edit(card, "seed: 7001", "seed: 7002")
    checkout.run("dvc", "repro", "--quiet", "prompts")
    files = {"data/raw/world-addsub/test", "data/prompts/world-addsub/test-strict"}
    assert changed_data(checkout) == {(state, path) for state in ("added", "deleted") for path in files}


def test_a_new_dataset_needs_a_card_and_no_code(checkout, tmp_path):
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in make_sums(0, 40)))
    (tmp_path / "mine-test.json").write_text(json.dumps(make_sums(40, 6), indent=4))
    (checkout.folder / "params/datasets/mine.yaml").write_text(CARD)
    checkout.edit("params/study/small.yaml", "training_set: world-math", "training_set: mine")
    checkout.edit("params/study/small.yaml", "tasks: [world-addsub]", "tasks: [mine]")
    checkout.edit("params/study/small.yaml", "[lora, {method: series, bottleneck_size: 8}]", "[lora]")
    assert "well-formed" in checkout.run("python", "-m", "pipeline", "check")
    examples = checkout.run("python", "-m", "pipeline", "show", "mine", "--data-root", str(tmp_path))
    assert "What is 0 + 0?" in examples
    checkout.snakemake("--config", f"data_root={tmp_path}")
    page = (checkout.folder / "reports/small/index.html").read_text()
    assert "Mine" in page
    lock = (checkout.folder / "params/lock.yaml").read_text()
    assert "dataset mine/train:\n  rows: 40\n" in lock
    assert "dataset mine/test:\n  rows: 6\n" in lock
    checkout.run("python", "-m", "pipeline", "datasets", "--write")
    assert "| `mine` | Mine | number |" in (checkout.folder / "data/README.md").read_text()
    # DVC's stages depend on the whole folder of cards, so dvc.yaml needs no edit
    assert "- params/datasets\n" in (checkout.folder / "dvc.yaml").read_text()
    checkout.run("python", "-m", "pipeline", "commit")
