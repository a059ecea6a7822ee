"""Adapters are merged for evaluation only if that is exact enough; otherwise run.json and the log have the reason."""

import pytest

from pipeline.core.io import read_json
from pipeline.evaluate.generation import decoding
from tests.integration.generation_cases import GREEDY, run, save_adapter, task, write_prompts
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


def merge_outcome(output):
    return read_json(output / "run.json")["tasks"]["t"]["merge_adapter"]


def test_a_merged_adapter_gives_the_same_answers(base, prompts, tmp_path, monkeypatch):
    adapter = save_adapter("llama", "lora", tmp_path / "adapter")
    types = []
    monkeypatch.setattr(decoding, "decode", record_type(types, decoding.decode))
    unmerged = run(base, adapter, [task("t", prompts, "f")], tmp_path / "a" / "beside")["t"]
    merged = run(base, adapter, [task("t", prompts, "m", MERGED)], tmp_path / "b" / "merged")["t"]
    assert unmerged == merged
    assert list(dict.fromkeys(types)) == ["PeftModelForCausalLM", "LlamaForCausalLM"]
    outcome = merge_outcome(tmp_path / "b" / "merged")
    assert outcome["merged"]
    assert 0 < outcome["difference"] < 1e-4


def record_type(types, decode):
    def decode_and_record(model, *args, **options):
        types.append(type(model).__name__)
        return decode(model, *args, **options)

    return decode_and_record


@pytest.mark.parametrize(
    ("method", "dtype", "reason"),
    [
        ("lora", "bfloat16", "log-probabilities would change by 0."),
        ("parallel", "float32", "it is not linear"),
        ("prefix", "float32", "virtual tokens are not a change of a weight"),
    ],
)
def test_an_adapter_that_cannot_be_merged_is_evaluated_unmerged_and_the_reason_is_reported(
    method, dtype, reason, base, prompts, tmp_path, capfd
):
    adapter = save_adapter("llama", method, tmp_path / "adapter")
    unmerged = run(
        base, adapter, [task("t", prompts, "f", {**GREEDY, "dtype": dtype})], tmp_path / "a" / "beside"
    )
    tasks = [task("t", prompts, "m", {**MERGED, "dtype": dtype})]
    assert run(base, adapter, tasks, tmp_path / "b" / "merged") == unmerged
    outcome = merge_outcome(tmp_path / "b" / "merged")
    assert not outcome["merged"]
    assert reason in outcome["why"]
    assert f"the adapter is not merged: {outcome['why']}" in capfd.readouterr().out
