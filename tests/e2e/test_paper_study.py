"""The paper's study from data to report, with its own cards, on small models in a local hub cache."""

import json
import re

import pytest

from tests.e2e.conftest import copy_project
from tests.tiny import COMMIT, put_in_hub_cache, save_base

MODELS = {"yahma/llama-7b-hf": "llama", "bigscience/bloomz-7b1": "bloom", "EleutherAI/gpt-j-6b": "gptj"}
SOURCES = re.compile(r"^    rows: .*?(?=^\w)", re.M | re.S)


def cache_small_model(cache, repo_id, architecture, scratch):
    """Put a small model into the cache as the hub's client does."""
    changes = {"n_positions": 1024} if architecture == "gptj" else {}
    save_base(architecture, scratch, dtype="float16", **changes)
    put_in_hub_cache(cache, repo_id, scratch)


def make_rows(n, answer, options=""):
    questions = [f"w{i} has {i} w1 and buys {i + 1} w2, how many w3 ?{options}" for i in range(n)]
    return [
        {
            "instruction": question,
            "input": "",
            "output": f"w4 w5 the answer is {answer(i)}",
            "answer": answer(i),
        }
        for i, question in enumerate(questions)
    ]


@pytest.fixture
def paper(tmp_path, monkeypatch):
    """paper-math with one seed, three of its four models, two of its six tasks and few examples; settings as published."""
    checkout = copy_project(tmp_path / "project")
    data = tmp_path / "data"
    data.mkdir()
    for name, split, rows in (
        ("math_10k", "train", make_rows(40, lambda i: str(2 * i + 1))),
        ("multiarith", "test", make_rows(4, lambda i: f"{2 * i + 1}.0")),
        ("aqua", "test", make_rows(4, lambda i: "ABCDE"[i], " (A) 1 (B) 2 (C) 3 (D) 4 (E) 5")),
    ):
        (data / f"{name}.json").write_text(json.dumps(rows))
        card = checkout.folder / f"params/datasets/{name}.yaml"
        local = f"    sources: [{{kind: local, path: {name}.json, format: json}}]\n"
        text = SOURCES.sub(f"    rows: {len(rows)}\n{local}", card.read_text(), count=1)
        assert f"splits:\n  {split}:\n    rows: {len(rows)}\n" in text
        card.write_text(text)
    checkout.edit("params/study/paper-math.yaml", "llama-13b, ", "")
    checkout.edit("params/study/paper-math.yaml", "[llama-7b, llama-13b]", "[llama-7b]")
    checkout.edit(
        "params/study/paper-math.yaml",
        "[multiarith, gsm8k, addsub, aqua, singleeq, svamp]",
        "[multiarith, aqua]",
    )
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return checkout, ("--config", "study=paper-math", "seeds=1", f"data_root={data}"), tmp_path / "hf" / "hub"


@pytest.mark.exhaustive
def test_the_papers_study_runs_with_a_local_hub_cache(paper, tmp_path):
    checkout, config, cache = paper
    for repo_id, architecture in MODELS.items():
        cache_small_model(cache, repo_id, architecture, tmp_path / architecture)
    checkout.snakemake(*config)
    results = checkout.folder / "results"
    methods = ("lora", "parallel", "prefix-tuning", "series")
    assert [path.parent.name for path in (results / "adapters").glob("*/adapter-p")] == ["llama-7b"]
    for model in ("llama-7b", "bloomz-7b1", "gpt-j-6b"):
        manifest = next((results / f"bases/{model}").rglob("manifest.json"))
        assert json.loads(manifest.read_text())["revision"] == COMMIT
        for method in methods:
            (adapter,) = (results / f"adapters/{model}/{method}/math_10k/seed42").glob("[!.]*")
            (score,) = (results / f"scores/{model}/{method}/math_10k/seed42").glob("*.json")
            history = [json.loads(line) for line in (adapter / "history.jsonl").read_text().splitlines()]
            steps = json.loads((adapter / "manifest.json").read_text())["steps"]
            # 40 rows: 5 epochs in batches of 8, or 3 epochs in batches of 16, the last of them smaller
            assert steps == (25 if method == "prefix-tuning" else 9)
            assert all(row["loss"] > 0 for row in history if "loss" in row)
            assert set(json.loads(score.read_text())["tasks"]) == {
                f"{task}-{protocol}" for task in ("multiarith", "aqua") for protocol in ("paper", "strict")
            }
    assert not list((results / "adapters").glob("*/*/*/seed43"))
    status = checkout.run("python", "-m", "pipeline", "status", "--study", "paper-math", "--seeds", "1")
    assert "up to date" in status
    page = (checkout.folder / "reports/paper-math/index.html").read_text()
    assert "about this run alone" in page
    assert all(name in page for name in ("LLaMA-7B", "BLOOMZ-7B1", "GPT-J-6B", "Series", "Prefix"))


@pytest.mark.exhaustive
@pytest.mark.exhaustive
def test_a_missing_model_is_reported_in_one_line_and_the_other_models_run(paper, tmp_path):
    checkout, config, cache = paper
    cache_small_model(cache, "EleutherAI/gpt-j-6b", "gptj", tmp_path / "gptj")
    printed = checkout.run("snakemake", "--cores", "2", *config, ok=False)
    lines = [line for line in printed.splitlines() if "error: " in line]
    assert any("yahma/llama-7b-hf" in line and "HF_HOME" in line for line in lines)
    assert "Traceback" not in printed
    assert len(list((checkout.folder / "results/scores/gpt-j-6b").rglob("*.json"))) == 4
    assert not (checkout.folder / "results/bases/llama-7b").exists() or not list(
        (checkout.folder / "results/bases/llama-7b").rglob("manifest.json")
    )
