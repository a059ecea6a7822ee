"""``compare`` and ``audit-protocol`` in a real checkout: their output agrees with the answer and score files."""

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
STUDY = """
title: protocols
description: the adapters of the small study under four protocols, on other tasks
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
def evaluated(finished, tmp_path_factory):
    """A copy of the finished checkout after a second study, which trains nothing again."""
    folder = tmp_path_factory.mktemp("protocols") / "a project"
    shutil.copytree(finished.folder, folder, symlinks=True)
    checkout = type(finished)(folder)
    (folder / "params/study/protocols.yaml").write_text(STUDY)
    checkout.snakemake("--config", "study=protocols")
    return checkout


def run_command(checkout, *arguments: str) -> str:
    return checkout.run("python", "-m", "pipeline", *arguments)


def fail_in_one_line(checkout, *arguments: str) -> str:
    """Return what a command prints that fails: a single line."""
    printed = checkout.run("python", "-m", "pipeline", *arguments, ok=False)
    (line,) = printed.splitlines()
    return line


def read_scores(checkout, run: str, *, task: str) -> tuple[dict, str]:
    """Return the scores by task from the one score file of a run that has ``task``, and its fingerprint."""
    for path in sorted((checkout.folder / "results/scores" / run).glob("*.json")):
        tasks = json.loads(path.read_text())["tasks"]
        if task in tasks:
            return tasks, path.stem
    raise AssertionError(f"{run}: no scores of {task}")


def split_rows(printed: str, start: str) -> list[list[str]]:
    return [re.split(r"\s{2,}", line.strip()) for line in printed.splitlines() if line.startswith(start)]


def test_compare_agrees_with_the_score_files(evaluated):
    key = "world-addsub-strict"
    scores = [read_scores(evaluated, run, task=key)[0][key] for run in (LORA, BARE)]
    comparison = json.loads(run_command(evaluated, "compare", LORA, BARE, "--json", "--limit", "99"))
    assert (comparison["first"], comparison["second"]) == (LORA, BARE)
    (row,) = comparison["comparisons"]
    assert [row[key] for key in ("task", "protocol", "n")] == ["world-addsub", "strict", 6]
    assert [row["first"], row["second"]] == [score["accuracy"] for score in scores]
    items = list(zip(*(score["items"] for score in scores), strict=True))
    only_first = sum(a["correct"] > b["correct"] for a, b in items)
    only_second = sum(a["correct"] < b["correct"] for a, b in items)
    discordant = only_first + only_second
    p_value = binomtest(only_first, discordant).pvalue if discordant else 1.0
    assert row["p_value"] == pytest.approx(p_value)
    assert row["difference"] == pytest.approx((only_first - only_second) / 6)
    differing = {a["id"]: (a["parsed"], b["parsed"]) for a, b in items if a["parsed"] != b["parsed"]}
    listed = {
        change["id"]: (change["first"]["parsed"], change["second"]["parsed"])
        for change in comparison["changes"]
    }
    assert listed == differing
    printed = run_command(evaluated, "compare", LORA, BARE, "--limit", "1")
    ((_, protocol, n, first, second, *_),) = split_rows(printed, "world-addsub")
    assert (protocol, n) == ("strict", "6")
    assert [first, second] == [f"{100 * score['accuracy']:.1f}" for score in scores]
    assert f"answers that differ: {len(differing)}; shown: {min(1, len(differing))}" in printed


def test_every_answer_to_a_question_is_listed_as_the_score_files_judge_it(evaluated):
    key = "world-multiarith-strict"
    expected = {}
    for run in (LORA, SERIES, BARE):
        tasks, _ = read_scores(evaluated, run, task=key)
        item = tasks[key]["items"][2]
        expected[run] = (item["gold"], item["parsed"], item["correct"])
    arguments = ("question", "protocols", item["id"], "--protocol", "strict")
    answers = json.loads(run_command(evaluated, *arguments, "--json"))
    assert {
        entry["run"]: (entry["gold"], entry["answer"]["parsed"], entry["answer"]["correct"])
        for entry in answers
    } == expected
    printed = run_command(evaluated, *arguments[:3])
    assert printed.count("\n" + LORA) == 3
    assert answers[0]["question"].splitlines()[0] in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gsm8k/test/1",), "does not evaluate 'gsm8k'"),
        (("world-multiarith/test/999999",), "not among the questions of 'world-multiarith'"),
        (("world-multiarith/test/0", "--protocol", "likelihood"), "not evaluated under 'likelihood'"),
    ],
)
def test_an_unknown_question_is_refused_in_one_line(evaluated, arguments, message):
    assert message in fail_in_one_line(evaluated, "question", "protocols", *arguments)


def test_stability_counts_protocols_on_the_same_adapters(evaluated):
    entries = json.loads(run_command(evaluated, "stability", "protocols", "--json"))
    assert {entry["axis"] for entry in entries} == {"protocol"}
    (entry,) = entries
    # pairs of the protocols that cover both tasks, and of these with `likelihood` on its task; one pair of methods
    assert len(entry["changes"]) == 6
    assert "another protocol" in run_command(evaluated, "stability", "protocols")


def test_a_run_compared_with_itself_has_no_difference(evaluated):
    comparison = json.loads(run_command(evaluated, "compare", SERIES, SERIES, "--json"))
    assert [(row["difference"], row["p_value"]) for row in comparison["comparisons"]] == [(0.0, 1.0)]
    assert comparison["changes"] == []


def test_all_tasks_and_protocols_are_one_family_of_comparisons(evaluated):
    printed = run_command(evaluated, "compare", LORA, BARE, "--study", "protocols", "--json")
    comparisons = json.loads(printed)["comparisons"]
    rows = Counter((row["task"], row["protocol"]) for row in comparisons)
    averages = {("macro average", protocol) for protocol in ("paper", "paper-unmasked", "strict")}
    assert averages <= set(rows)
    assert ("world-aqua", "likelihood") in rows
    assert ("world-multiarith", "likelihood") not in rows
    smallest = min(comparisons, key=lambda row: row["p_value"])
    assert smallest["holm"] == pytest.approx(min(1.0, len(rows) * smallest["p_value"]))


def test_impossible_comparisons_fail_in_one_line(evaluated):
    _, fingerprint = read_scores(evaluated, LORA, task="world-aqua-strict")
    assert "has a run 'small-llama/lorra' (nearest: small-llama/lora" in fail_in_one_line(
        evaluated, "compare", "small-llama/lorra", BARE
    )
    line = fail_in_one_line(evaluated, "compare", "small-llama", BARE)
    assert "run 'small-llama' is ambiguous" in line
    assert all(run in line for run in (LORA, SERIES, BARE))
    line = fail_in_one_line(evaluated, "compare", LORA, fingerprint)
    assert "no answers in common" in line
    assert all(name in line for name in ("world-addsub-strict", "world-multiarith-paper"))
    assert "of task 'world-svamp'" in fail_in_one_line(
        evaluated, "compare", LORA, BARE, "--task", "world-svamp"
    )
    line = fail_in_one_line(evaluated, "compare", LORA, BARE, "--study", "small", "--protocol", "paper")
    assert "under 'paper'" in line


def test_runs_with_different_examples_are_not_compared(evaluated):
    (evaluated.folder / "params/study/fewer.yaml").write_text(
        STUDY.replace("limit: 12", "limit: 5").replace("paper, paper-unmasked, strict, likelihood", "strict")
    )
    evaluated.run("snakemake", "--cores", "2", "--config", "study=fewer", "--until", "score")
    sizes = {}
    for path in Path(evaluated.folder, "results/scores", LORA).glob("*"):
        tasks = json.loads(path.read_text())["tasks"]
        sizes[path.stem] = next(iter(tasks.values()))["n"]
    five = next(fingerprint for fingerprint, n in sizes.items() if n == 5)
    _, twelve = read_scores(evaluated, SERIES, task="world-aqua-paper")
    line = fail_in_one_line(evaluated, "compare", five, twelve)
    assert "different examples (5 and 12" in line
    line = fail_in_one_line(
        evaluated, "compare", f"results/scores/{LORA}/{five}.json", "--study", "protocols", SERIES
    )
    assert "study 'protocols' has no run" in line


def test_audit_protocol_agrees_with_the_score_files(evaluated):
    records = json.loads(run_command(evaluated, "audit-protocol", "protocols", "--json", "--limit", "999"))
    runs = [read_scores(evaluated, run, task="world-aqua-paper")[0] for run in (LORA, SERIES, BARE)]
    pairs = {(record["task"], *record["protocols"]): record for record in records}
    assert set(pairs) >= {
        ("world-multiarith", "paper", "paper-unmasked"),
        ("world-aqua", "strict", "likelihood"),
    }
    for (task, *protocols), record in pairs.items():
        sides = [
            [item for tasks in runs for item in tasks[f"{task}-{protocol}"]["items"]]
            for protocol in protocols
        ]
        items = list(zip(*sides, strict=True))
        assert (record["runs"], record["n"]) == (3, 36)
        assert record["changed"] == sum(a["parsed"] != b["parsed"] for a, b in items)
        assert record["lost"] == sum(a["correct"] > b["correct"] for a, b in items)
        assert record["gained"] == sum(a["correct"] < b["correct"] for a, b in items)
        assert record["unparsed"] == [
            sum(a["parsed"] is None and b["parsed"] is not None for a, b in items),
            sum(b["parsed"] is None and a["parsed"] is not None for a, b in items),
        ]
        assert sum(record["causes"].values()) == record["changed"] == len(record["changes"])
        assert Counter(change["cause"] for change in record["changes"]) == Counter(record["causes"])
    printed = run_command(evaluated, "audit-protocol", "protocols")
    lines = {tuple(row[:2]): row for row in split_rows(printed, "world-")}
    assert len(lines) == len(pairs)
    for (task, *protocols), record in pairs.items():
        changed = f"{record['changed']} ({100 * record['changed'] / 36:.1f} %)"
        assert changed in lines[task, " / ".join(protocols)]


def test_impossible_protocol_audits_fail_in_one_line(evaluated):
    assert "'askd'" in fail_in_one_line(evaluated, "audit-protocol", "askd")
    assert "evaluates no task under two protocols" in fail_in_one_line(evaluated, "audit-protocol", "small")
    (evaluated.folder / "params/study/later.yaml").write_text(
        STUDY.replace("seeds: [0]", "seeds: [7]\nbare: false")
    )
    line = fail_in_one_line(evaluated, "audit-protocol", "later")
    assert "no run of 'later' is scored; run: snakemake " in line
    assert "study=later" in line
