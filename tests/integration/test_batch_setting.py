"""The machine's setting `batch_tokens`: recorded in run.json, and in float32 without effect on the answers."""

from pipeline.core.io import read_json
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
