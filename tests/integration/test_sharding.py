"""A base sharded over two processes (gloo, on the CPU): the bytes of two processes without sharding, and half of its layers each."""

import gc
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor

from pipeline.models.loss import own_passes
from pipeline.models.train import train
from pipeline.params.architectures import PEFT_TYPES, UNSUPPORTED_PEFT_TYPES
from pipeline.params.machine import MachineSettings
from tests.conftest import ROOT
from tests.elsewhere import train_elsewhere
from tests.integration.test_peft_types import SETTINGS
from tests.integration.training_cases import (
    PREFIX,
    PROMPT,
    SERIES,
    lora,
    make_examples,
    make_job,
    rows,
    settings,
    training_options,
)
from tests.tiny import FAMILY, model_of, save_base, write_rows

FILES = ("adapter_model.safetensors", "adapter_config.json", "history.jsonl", "manifest.json")
LAUNCHER = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
LAYERS = 6
LORA = {"method": lora(lora_dropout=0.0), "val_set_size": 4}


def held_bytes():
    """Return the bytes of the frozen parameters that this process holds, each once."""
    gc.collect()
    storages = {}
    for tensor in gc.get_objects():
        if isinstance(tensor, torch.nn.Parameter) and not tensor.requires_grad:
            storage = (tensor.to_local() if isinstance(tensor, DTensor) else tensor).untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def train_case(folder, name, *, method, base="llama", machine=None, shard=None, on_log=None, **changes):
    output = folder / f"{name}-{'sharded' if shard else 'whole'}"
    train(
        folder / base,
        folder / "train.parquet",
        method=method,
        training=settings(**{"epochs": 1, **changes}),
        seed=1,
        output=output,
        validation=None,
        manifest={"fingerprint": "abc", "params": {"seed": 1}},
        device="cpu",
        machine=MachineSettings(shard=shard, **(machine or {})),
        on_log=on_log,
    )
    return output


def train_cases(folder, cases):
    """As one of two processes, train each case without sharding and with it; note the bytes that this process held."""
    held = {}
    for name, case in cases.items():
        for shard in (None, True):
            sizes = []
            output = train_case(
                folder, name, shard=shard, on_log=lambda _, sizes=sizes: sizes.append(held_bytes()), **case
            )
            held[output.name] = sizes[0]
    (folder / f"held-{os.environ['RANK']}.json").write_text(json.dumps(held))


def train_in_two_processes(folder, cases):
    """Run ``train_cases`` in two processes on tiny bases; return the bytes that each held, by training."""
    for architecture in {case.get("base", "llama") for case in cases.values()}:
        changes = {"num_hidden_layers": LAYERS} if architecture == "llama" else {}
        save_base(architecture, folder / architecture, **changes)
    write_rows(folder / "train.parquet")
    (folder / "cases.json").write_text(json.dumps(cases))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *LAUNCHER, __file__, str(folder)]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return [json.loads((folder / f"held-{rank}.json").read_text()) for rank in (0, 1)]


def read_files(output):
    return {name: (output / name).read_bytes() for name in FILES}


def test_sharded_processes_take_equally_many_passes_and_each_example_counts_once(monkeypatch):
    job = make_job(model_of("llama"), [], micro_batch_tokens=20)
    batch = make_examples([20, 18, 19])
    passes = {}
    for sharded in (False, True):
        for rank in (0, 1):
            state = {"num_processes": 2, "process_index": rank}
            for key, value in state.items():
                monkeypatch.setitem(PartialState(cpu=True)._shared_state, key, value)
            passes[sharded, rank] = own_passes(replace(job, is_sharded=sharded), batch, parts=2, budget=20)
    counts = [len(passes[False, rank]) for rank in (0, 1)]
    assert counts[0] != counts[1]
    assert [len(passes[True, rank]) for rank in (0, 1)] == [max(counts)] * 2
    for rank in (0, 1):
        own, added = passes[False, rank], passes[True, rank][counts[rank] :]
        assert passes[True, rank][: counts[rank]] == own
        assert {taken.weight for taken in own} == {1}
        assert all(taken.weight == 0 and taken.indices == [1] for taken in added)


@pytest.mark.slow
def test_two_processes_share_the_layers_of_a_base_and_train_the_same_adapter(tmp_path):
    # with dropout one process computes all examples of a step
    held = train_in_two_processes(tmp_path, {"lora": LORA, "dropout": {"method": lora()}})
    for name in ("lora", "dropout"):
        assert read_files(tmp_path / f"{name}-sharded") == read_files(tmp_path / f"{name}-whole")
    single = train_case(tmp_path, "single", **LORA)
    trained = load_file(tmp_path / "lora-sharded/adapter_model.safetensors")
    for name, value in load_file(single / "adapter_model.safetensors").items():
        torch.testing.assert_close(trained[name], value, rtol=0, atol=1e-5)
    pairs = zip(rows(single / "history.jsonl"), rows(tmp_path / "lora-sharded/history.jsonl"), strict=True)
    assert all(math.isclose(a[key], b[key], rel_tol=1e-4) for a, b in pairs for key in a)
    weights = model_of("llama", num_hidden_layers=LAYERS).state_dict()
    layers = sum(value.nbytes for name, value in weights.items() if ".layers." in name)
    outside = sum(value.nbytes for value in weights.values()) - layers
    for process in held:
        assert process["lora-whole"] == layers + outside
        # a norm of 32 numbers, too, is halved
        assert process["lora-sharded"] == layers // 2 + outside


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_killed_sharded_training_resumes_from_a_plain_checkpoint(tmp_path):
    save_base("llama", tmp_path / "llama")
    prompts = write_rows(tmp_path / "train.parquet")
    options = training_options(tmp_path / "llama", prompts, tmp_path / "killed", method=LORA["method"])
    options["machine"] = {"shard": True}
    process = train_elsewhere(*LAUNCHER, kill_after=7, **options)
    assert process.returncode != 0
    checkpoint = torch.load(tmp_path / ".killed.work/checkpoint.pt", weights_only=True)
    assert all(type(tensor) is torch.Tensor for tensor in checkpoint["parameters"])
    process = train_elsewhere(*LAUNCHER, **options)
    assert process.returncode == 0, process.stderr
    assert json.loads((tmp_path / "killed/run.json").read_text())["resumed_at"] == 4
    whole = train_elsewhere(*LAUNCHER, **options | {"output": tmp_path / "whole"})
    assert whole.returncode == 0, whole.stderr
    assert read_files(tmp_path / "killed") == read_files(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("part", ["settings", "architectures", "first", "second"])
def test_every_method_architecture_and_setting_trains_the_same_sharded(part, tmp_path):
    supported = [name for name in PEFT_TYPES if name not in UNSUPPORTED_PEFT_TYPES]
    half = len(supported) // 2
    peft = {
        name: {"method": {"kind": "peft", "peft_type": name, **SETTINGS.get(name, {})}} for name in supported
    }
    linear = {"kind": "peft", "peft_type": "LORA", "target_modules": "all-linear", "r": 4}
    cases = {
        "settings": {
            "series": {"method": SERIES},
            "prefix": {"method": PREFIX},
            "prompt": {"method": PROMPT},
            "checkpointing": {**LORA, "machine": {"gradient_checkpointing": True}},
            "packing": {"method": SERIES, "machine": {"packing": True}},
            "bfloat16": {**LORA, "dtype": "bfloat16"},
            "modules_to_save": {"method": lora(modules_to_save=["o_proj"])},
            "dora": {"method": lora(use_dora=True)},
            "pissa": {"method": lora(init_lora_weights="pissa")},
            "olora": {"method": lora(init_lora_weights="olora")},
        },
        "architectures": {name: {"base": name, "method": linear} for name in FAMILY},
        "first": {name: peft[name] for name in supported[:half]},
        "second": {name: peft[name] for name in supported[half:]},
    }[part]
    for process in train_in_two_processes(tmp_path, cases):
        assert all(process[f"{name}-sharded"] < process[f"{name}-whole"] for name in cases)
    for name in cases:
        assert read_files(tmp_path / f"{name}-sharded") == read_files(tmp_path / f"{name}-whole"), name


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    train_cases(folder, json.loads((folder / "cases.json").read_text()))
