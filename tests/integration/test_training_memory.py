"""A training whose passes do not fit into memory: it continues with smaller passes, and no gradient counts twice."""

import json

import pytest
import torch
from safetensors.torch import load_file

from pipeline.core.errors import UserError
from pipeline.models.train import train
from pipeline.params.base import Training
from pipeline.params.machine import MachineSettings
from tests.elsewhere import limit_passes, train_elsewhere
from tests.integration.training_cases import LORA, TARGETS

# a card of before the settings were the machine's; the examples have 5 to 15 tokens
SETTINGS = Training(
    batch_size=4, epochs=1, warmup_steps=2, learning_rate=1e-2, logging_steps=3, val_set_size=4
)


def options(base, prompts, output, *, dropout=0.1):
    return {
        "base": base,
        "prompts": prompts,
        "method": {**LORA, "lora_dropout": dropout, "target_modules": TARGETS["llama"]},
        "training": SETTINGS,
        "seed": 1,
        "output": output,
        "manifest": {"fingerprint": "abc"},
    }


def run(base, prompts, output, **settings):
    machine = MachineSettings(**settings)
    train(**options(base, prompts, output), validation=None, device="cpu", machine=machine)
    names = ("adapter_model.safetensors", "history.jsonl", "manifest.json")
    return {name: (output / name).read_bytes() for name in names}


def run_record(output):
    return json.loads((output / "run.json").read_text())


def test_out_of_memory_repeats_the_step_with_half_the_budget(base, prompts, tmp_path, monkeypatch, capsys):
    smaller = run(base, prompts, tmp_path / "smaller", micro_batch_tokens=30)
    assert run_record(tmp_path / "smaller")["machine"] == {"micro_batch_tokens": 30}
    passes = []
    limit_passes(30, passes, patch=monkeypatch.setattr)
    halved = run(base, prompts, tmp_path / "halved", micro_batch_tokens=120)
    assert halved == smaller
    assert "out of memory with 60 tokens per pass; trying again with 30" in capsys.readouterr().err
    assert run_record(tmp_path / "halved")["micro_batch_tokens"] == 30
    assert not all(fits for _, fits in passes)


def test_memory_for_less_than_an_example_is_an_error_of_one_line(base, prompts, tmp_path, monkeypatch):
    limit_passes(5, patch=monkeypatch.setattr)
    message = (
        "out of memory with single examples, of up to .* gradient_checkpointing=true, or set quantization"
    )
    with pytest.raises(UserError, match=message):
        run(base, prompts, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_other_errors_of_a_pass_are_not_taken_for_a_lack_of_memory(base, prompts, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr("transformers.LlamaForCausalLM.forward", fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        run(base, prompts, tmp_path / "adapter")


@pytest.mark.slow
@pytest.mark.exhaustive
def test_all_processes_halve_the_budget_if_one_of_them_lacks_memory(base, prompts, tmp_path):
    group = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    outputs = [tmp_path / "whole", tmp_path / "limited"]
    training = SETTINGS.model_copy(update={"batch_size": 12})
    for output, limit in zip(outputs, (0, 30), strict=True):
        arguments = {**options(base, prompts, output, dropout=0.0), "training": training}
        process = train_elsewhere(*group, pass_limit=limit, **arguments)
        assert process.returncode == 0, process.stderr
    assert run_record(outputs[1])["micro_batch_tokens"] < run_record(outputs[0])["micro_batch_tokens"] == 4096
    whole, limited = (load_file(output / "adapter_model.safetensors") for output in outputs)
    assert all((value - limited[name]).abs().max() < 1e-5 for name, value in whole.items())


def test_settings_of_the_machine_change_neither_manifest_nor_checkpoints(base, prompts, tmp_path):
    plain = run(base, prompts, tmp_path / "plain")
    logged = run(
        base, prompts, tmp_path / "logged", logging_steps=1, gradient_checkpointing=True, save_steps=1
    )
    assert logged["manifest.json"] == plain["manifest.json"]
    assert logged["adapter_model.safetensors"] == plain["adapter_model.safetensors"]
    assert logged["history.jsonl"].count(b"learning_rate") > plain["history.jsonl"].count(b"learning_rate")


def test_a_killed_training_resumes_under_other_settings(base, prompts, tmp_path):
    arguments = {
        **options(base, prompts, tmp_path / "killed"),
        "training": SETTINGS.model_copy(update={"save_steps": 2}),
    }
    train_elsewhere(kill_after=4, **arguments)
    machine = MachineSettings(save_steps=1, logging_steps=1, micro_batch_tokens=2048)
    train(**arguments, validation=None, device="cpu", machine=machine)
    train(**{**arguments, "output": tmp_path / "whole"}, validation=None, device="cpu")
    assert run_record(tmp_path / "killed")["resumed_at"] == 2
    killed, whole = (
        (tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("killed", "whole")
    )
    assert killed == whole


def test_threads_of_the_machine(base, prompts, tmp_path):
    before = torch.get_num_threads()
    try:
        run(base, prompts, tmp_path / "two", threads=2, deterministic=True)
        record = run_record(tmp_path / "two")
        assert (record["threads"], record["machine"]) == (2, {"threads": 2, "deterministic": True})
        run(base, prompts, tmp_path / "default")
        assert run_record(tmp_path / "default")["threads"] == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("chosen", [None, 60])
def test_a_resumed_training_splits_its_steps_as_before_unless_the_user_sets_another_size(
    base, prompts, tmp_path, monkeypatch, chosen
):
    def stop(row):
        if row["step"] == 3:
            raise KeyboardInterrupt

    training = SETTINGS.model_copy(update={"save_steps": 2})
    arguments = {**options(base, prompts, tmp_path / "whole"), "training": training}
    killed = {**arguments, "output": tmp_path / "killed"}
    with monkeypatch.context() as limited:
        limit_passes(32, patch=limited.setattr)
        train(**arguments, validation=None, device="cpu")
        with pytest.raises(KeyboardInterrupt):
            train(**killed, validation=None, device="cpu", on_log=stop)
    machine = MachineSettings(micro_batch_tokens=chosen)
    train(**killed, validation=None, device="cpu", machine=machine)
    records = [run_record(arguments["output"]), run_record(killed["output"])]
    assert records[1]["resumed_at"] == 2
    assert [record["micro_batch_tokens"] for record in records] == [32, chosen or 32]
    whole, resumed = (
        (tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("whole", "killed")
    )
    assert (whole == resumed) == (chosen is None)
