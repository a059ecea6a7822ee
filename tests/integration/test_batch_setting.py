"""The machine's setting `batch_tokens`: recorded in run.json, and in float32 without effect on the answers."""

import os

import pytest

from pipeline.core.io import read_json
from pipeline.evaluate.generation import decoding
from pipeline.evaluate.generation.generate import generate
from pipeline.params.machine import MachineSettings
from tests.integration.generation_cases import GREEDY, request, task, write_prompts
from tests.tiny import save_base


def test_batch_tokens_of_the_machine_divide_the_prompts_and_change_no_answer(tmp_path):
    save_base("llama", tmp_path / "base")
    tasks = [task("t", write_prompts(tmp_path / "prompts.parquet", n=12), "f", GREEDY)]
    answers, costs = [], []
    for name, machine in (("default", MachineSettings()), ("small", MachineSettings(batch_tokens=100))):
        output = tmp_path / name / "answers"
        generate(tmp_path / "base", request(None, tasks, output), device="cpu", manifest={}, machine=machine)
        answers.append((output / "t.jsonl").read_bytes())
        costs.append(read_json(output / "run.json")["tasks"]["t"])
    assert answers[0] == answers[1]
    assert [cost["batch_tokens"] for cost in costs] == [16384, 100]
    assert costs[1]["largest_batch"] < costs[0]["largest_batch"] == 12


@pytest.mark.parametrize(("chosen", "used"), [(None, 100), (200, 200)])
def test_a_resumed_evaluation_keeps_its_batches_unless_the_user_sets_others(
    tmp_path, monkeypatch, chosen, used
):
    save_base("llama", tmp_path / "base")
    tasks = [task("t", write_prompts(tmp_path / "prompts.parquet", n=12), "f", GREEDY)]
    answers = request(None, tasks, tmp_path / "answers")
    decode, batches = decoding.decode, []

    def decode_once(*args, **options):
        if batches:
            raise KeyboardInterrupt
        batches.append(args)
        return decode(*args, **options)

    small = MachineSettings(batch_tokens=100)
    with monkeypatch.context() as killed:
        killed.setattr(decoding, "decode", decode_once)
        with pytest.raises(KeyboardInterrupt):
            generate(tmp_path / "base", answers, device="cpu", manifest={}, machine=small)
    machine = MachineSettings(batch_tokens=chosen)
    generate(tmp_path / "base", answers, device="cpu", manifest={}, machine=machine)
    assert read_json(answers.output / "run.json")["tasks"]["t"]["batch_tokens"] == used
    assert sorted(os.listdir(answers.output)) == ["manifest.json", "run.json", "t.jsonl"]
