"""Adapters that are asked merged: only where that is exact enough, and else it says why."""

import pytest

from pipeline.core.io import read_json
from pipeline.evaluate.generation import decoding
from tests.integration.asking import GREEDY, run, save_adapter, task, write_prompts
from tests.tiny import save_base

MERGED = {**GREEDY, "merge_adapter": True}


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    return write_prompts(tmp_path_factory.mktemp("prompts") / "prompts.parquet")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    save_base("llama", folder)
    return folder


def merge_told(output):
    return read_json(output / "run.json")["tasks"]["t"]["merge_adapter"]


def test_an_adapter_that_merges_exactly_enough_is_asked_merged_with_the_same_answers(
    base, prompts, tmp_path, monkeypatch
):
    adapter = save_adapter("llama", "lora", tmp_path / "adapter")
    asked = []
    monkeypatch.setattr(decoding, "decode", record_type(asked, decoding.decode))
    beside = run(base, adapter, [task("t", prompts, "f")], tmp_path / "a" / "beside")["t"]
    merged = run(base, adapter, [task("t", prompts, "m", MERGED)], tmp_path / "b" / "merged")["t"]
    assert beside == merged
    assert list(dict.fromkeys(asked)) == ["PeftModelForCausalLM", "LlamaForCausalLM"]
    told = merge_told(tmp_path / "b" / "merged")
    assert told["merged"]
    assert 0 < told["difference"] < 1e-4


def record_type(seen, decode):
    def recorded(model, *given):
        seen.append(type(model).__name__)
        return decode(model, *given)

    return recorded


@pytest.mark.parametrize(
    ("method", "dtype", "why"),
    [
        ("lora", "bfloat16", "log-probabilities would change by 0."),
        ("parallel", "float32", "it is not linear"),
        ("prefix", "float32", "virtual tokens are no change of a weight"),
    ],
)
def test_one_that_does_not_is_asked_beside_the_base_and_says_why(
    method, dtype, why, base, prompts, tmp_path, capfd
):
    adapter = save_adapter("llama", method, tmp_path / "adapter")
    beside = run(
        base, adapter, [task("t", prompts, "f", {**GREEDY, "dtype": dtype})], tmp_path / "a" / "beside"
    )
    given = [task("t", prompts, "m", {**MERGED, "dtype": dtype})]
    assert run(base, adapter, given, tmp_path / "b" / "given") == beside
    told = merge_told(tmp_path / "b" / "given")
    assert not told["merged"]
    assert why in told["why"]
    assert f"the adapter is not merged: {told['why']}" in capfd.readouterr().out
