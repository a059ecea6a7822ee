"""``compare`` and ``audit-protocol`` in a real checkout: what they print is what the files of answers and scores say."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
from scipy.stats import binomtest

LORA, SERIES, BARE = (
    "small-llama/lora/world-math/seed0",
    "small-llama/series/world-math/seed0",
    "small-llama/bare",
)
ASKED = """
title: asked
description: the small study's adapters under four protocols, on other tasks
models: [small-llama]
methods: [lora, {method: series, bottleneck_size: 8}]
seeds: [0]
arms:
  - {name: arithmetic, training_set: world-math, tasks: [world-multiarith, world-aqua], limit: 40}
protocols: [paper, paper-unmasked, strict, likelihood]
limit: 12
max_new_tokens: 12
training: {max_steps: 4, batch_size: 4, warmup_steps: 1, logging_steps: 1, learning_rate: 1.0e-2}
"""


@pytest.fixture(scope="module")
def asked(finished, tmp_path_factory):
    """A copy of the finished checkout in which a second study has been run too; it trains nothing anew."""
    folder = tmp_path_factory.mktemp("asked") / "a project"
    shutil.copytree(finished.folder, folder, symlinks=True)
    checkout = type(finished)(folder)
    (folder / "params/study/asked.yaml").write_text(ASKED)
    checkout.snakemake("--config", "study=asked")
    return checkout


def told(checkout, *arguments: str) -> str:
    return checkout.run("python", "-m", "pipeline", *arguments)


def one_line(checkout, *arguments: str) -> str:
    """What a refused command prints: one line, and an exit code of its own."""
    printed = checkout.run("python", "-m", "pipeline", *arguments, ok=False)
    (line,) = printed.splitlines()
    return line


def scores(checkout, run: str, *, of: str) -> tuple[dict, str]:
    """The scores of a run that a task's name tells from those of another study, and their fingerprint."""
    for path in sorted((checkout.folder / "results/scores" / run).glob("*.json")):
        tasks = json.loads(path.read_text())["tasks"]
        if of in tasks:
            return tasks, path.stem
    raise AssertionError(f"{run}: no scores of {of}")


def rows_of(printed: str, start: str) -> list[list[str]]:
    return [re.split(r"\s{2,}", line.strip()) for line in printed.splitlines() if line.startswith(start)]


def test_the_comparison_of_two_runs_is_that_of_their_files(asked):
    pair = [scores(asked, run, of="world-addsub-strict")[0]["world-addsub-strict"] for run in (LORA, BARE)]
    found = json.loads(told(asked, "compare", LORA, BARE, "--json", "--limit", "99"))
    assert (found["first"], found["second"]) == (LORA, BARE)
    (row,) = found["comparisons"]
    assert [row[key] for key in ("task", "protocol", "n")] == ["world-addsub", "strict", 6]
    assert [row["first"], row["second"]] == [one["accuracy"] for one in pair]
    items = list(zip(*(one["items"] for one in pair), strict=True))
    alone = [
        sum(a["correct"] > b["correct"] for a, b in pairs) for pairs in (items, [i[::-1] for i in items])
    ]
    wanted = binomtest(alone[0], sum(alone)).pvalue if sum(alone) else 1.0
    assert row["p_value"] == pytest.approx(wanted)
    assert row["difference"] == pytest.approx((alone[0] - alone[1]) / 6)
    differing = {a["id"]: (a["parsed"], b["parsed"]) for a, b in items if a["parsed"] != b["parsed"]}
    read = {one["id"]: (one["first"]["parsed"], one["second"]["parsed"]) for one in found["changes"]}
    assert read == differing
    printed = told(asked, "compare", LORA, BARE, "--limit", "1")
    ((_, protocol, n, first, second, *_),) = rows_of(printed, "world-addsub")
    assert (protocol, n) == ("strict", "6")
    assert [first, second] == [f"{100 * one['accuracy']:.1f}" for one in pair]
    assert f"answers that differ: {len(differing)}; shown: {min(1, len(differing))}" in printed


def test_a_run_against_itself_differs_in_nothing(asked):
    found = json.loads(told(asked, "compare", SERIES, SERIES, "--json"))
    assert [(row["difference"], row["p_value"]) for row in found["comparisons"]] == [(0.0, 1.0)]
    assert found["changes"] == []


def test_several_tasks_and_protocols_are_one_family_of_comparisons(asked):
    found = json.loads(told(asked, "compare", LORA, BARE, "--study", "asked", "--json"))
    rows = Counter((row["task"], row["protocol"]) for row in found["comparisons"])
    averages = {("macro average", p) for p in ("paper", "paper-unmasked", "strict")}
    assert averages <= set(rows)
    assert ("world-aqua", "likelihood") in rows
    assert ("world-multiarith", "likelihood") not in rows
    smallest = min(found["comparisons"], key=lambda row: row["p_value"])
    assert smallest["holm"] == pytest.approx(min(1.0, len(rows) * smallest["p_value"]))


def test_what_cannot_be_compared_is_one_line(asked):
    _, other = scores(asked, LORA, of="world-aqua-strict")
    assert "has a run 'small-llama/lorra' (nearest: small-llama/lora" in one_line(
        asked, "compare", "small-llama/lorra", BARE
    )
    line = one_line(asked, "compare", "small-llama", BARE)
    assert "'small-llama' could be" in line
    assert all(run in line for run in (LORA, SERIES, BARE))
    line = one_line(asked, "compare", LORA, other)
    assert "no answers in common" in line
    assert all(name in line for name in ("world-addsub-strict", "world-multiarith-paper"))
    assert "of task 'world-svamp'" in one_line(asked, "compare", LORA, BARE, "--task", "world-svamp")
    line = one_line(asked, "compare", LORA, BARE, "--study", "small", "--protocol", "paper")
    assert "under 'paper'" in line


def test_runs_that_were_asked_other_examples_are_not_paired(asked):
    (asked.folder / "params/study/fewer.yaml").write_text(
        ASKED.replace("limit: 12", "limit: 5").replace("paper, paper-unmasked, strict, likelihood", "strict")
    )
    asked.run("snakemake", "--cores", "2", "--config", "study=fewer", "--until", "score")
    others = {
        path.stem: json.loads(path.read_text())
        for path in Path(asked.folder, "results/scores", LORA).glob("*")
    }
    five = next(name for name, one in others.items() if next(iter(one["tasks"].values()))["n"] == 5)
    _, twelve = scores(asked, SERIES, of="world-aqua-paper")
    line = one_line(asked, "compare", five, twelve)
    assert "asked other examples (5 and 12" in line
    line = one_line(asked, "compare", f"results/scores/{LORA}/{five}.json", "--study", "asked", SERIES)
    assert "study 'asked' has no run" in line


def test_the_audit_counts_what_the_files_say(asked):
    found = json.loads(told(asked, "audit-protocol", "asked", "--json", "--limit", "999"))
    runs = {run: scores(asked, run, of="world-aqua-paper")[0] for run in (LORA, SERIES, BARE)}
    pairs = {(one["task"], *one["protocols"]): one for one in found}
    assert set(pairs) >= {
        ("world-multiarith", "paper", "paper-unmasked"),
        ("world-aqua", "strict", "likelihood"),
    }
    for (task, *protocols), one in pairs.items():
        sides = [
            [item for tasks in runs.values() for item in tasks[f"{task}-{name}"]["items"]]
            for name in protocols
        ]
        items = list(zip(*sides, strict=True))
        assert (one["runs"], one["n"]) == (3, 36)
        assert one["changed"] == sum(a["parsed"] != b["parsed"] for a, b in items)
        assert one["lost"] == sum(a["correct"] > b["correct"] for a, b in items)
        assert one["gained"] == sum(a["correct"] < b["correct"] for a, b in items)
        assert one["unread"] == [
            sum(a["parsed"] is None and b["parsed"] is not None for a, b in items),
            sum(b["parsed"] is None and a["parsed"] is not None for a, b in items),
        ]
        assert sum(one["causes"].values()) == one["changed"] == len(one["changes"])
        assert Counter(change["cause"] for change in one["changes"]) == Counter(one["causes"])
    printed = told(asked, "audit-protocol", "asked")
    lines = {tuple(row[:2]): row for row in rows_of(printed, "world-")}
    assert len(lines) == len(pairs)
    for (task, *protocols), one in pairs.items():
        assert f"{one['changed']} ({100 * one['changed'] / 36:.1f} %)" in lines[task, " / ".join(protocols)]


def test_what_cannot_be_audited_is_one_line(asked):
    assert "'askd'" in one_line(asked, "audit-protocol", "askd")
    assert "evaluates no task under two protocols" in one_line(asked, "audit-protocol", "small")
    (asked.folder / "params/study/later.yaml").write_text(
        ASKED.replace("seeds: [0]", "seeds: [7]\nbare: false")
    )
    line = one_line(asked, "audit-protocol", "later")
    assert "no run of 'later' is scored; run: snakemake " in line
    assert "study=later" in line
