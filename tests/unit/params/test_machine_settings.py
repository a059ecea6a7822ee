"""Settings of the machine: what `--config` and a job's `--machine` accept, and what they change."""

import re

import pytest

from pipeline.core.errors import UserError
from pipeline.params.base import Training
from pipeline.params.machine import (
    MachineSettings,
    check_config_options,
    override_training,
    parse_machine_options,
)
from pipeline.study import load_study
from pipeline.study.artifacts import Artifact
from pipeline.study.checks import check_machine
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"studdy": "x"}, "--config studdy: unknown .choices: study"),
        ({"device": "tpu"}, "--config device: unknown 'tpu' .choices: auto, cpu, cuda, mps"),
        ({"processes": 0}, "--config processes: must be a positive integer .got '0'"),
        ({"seeds": 0}, "--config seeds: must be a positive integer .got '0'"),
        ({"seeds": "two"}, "--config seeds: must be a positive integer .got 'two'"),
        (
            {"adapters_per_load": "many"},
            "--config adapters_per_load: must be a positive integer or 'all' .got 'many'",
        ),
        ({"micro_batch_tokens": 0}, "--config micro_batch_tokens: must be a positive integer .got '0'"),
        ({"micro_batch_tokens": True}, "--config micro_batch_tokens: must be a positive integer .got 'True'"),
        ({"save_steps": "often"}, "--config save_steps: must be a positive integer .got 'often'"),
        ({"gradient_checkpointing": "maybe"}, "--config gradient_checkpointing: must be true or false"),
        ({"packing": "always"}, "--config packing: must be true or false .got 'always'"),
        ({"threads": 0}, "--config threads: must be a positive integer .got '0'"),
        ({"deterministic": "often"}, "--config deterministic: must be true or false"),
        ({"models_root": ["a"]}, "--config models_root: must be a folder"),
        ({"gpus_per_job": 0}, "--config gpus_per_job: must be a positive integer .got '0'"),
        (
            {"gpus_per_job": 2, "processes": 2},
            "gpus_per_job: 2 GPUs for a base cannot be combined with processes=2",
        ),
        ({"shard": True}, "--config shard: sharding needs several processes, but there is 1; add"),
        (
            {"shard": True, "processes": 2, "compile": True},
            "--config shard: cannot be combined with compile=true",
        ),
        ({"shard": "over"}, "--config shard: must be true or false .got 'over'"),
    ],
)
def test_config_options_are_checked(options, message):
    check_config_options({"study": "quickstart", "device": "cpu", "processes": 2, "adapters_per_load": "all"})
    with pytest.raises(UserError, match=message):
        check_config_options(options)


# what Snakemake makes of KEY=VALUE: numbers and True become values, true stays text, and nothing becomes None
@pytest.mark.parametrize(
    ("config", "chosen"),
    [
        ({"micro_batch_tokens": 512, "study": "quickstart"}, {"micro_batch_tokens": 512}),
        ({"micro_batch_tokens": 1e4}, {"micro_batch_tokens": 10_000}),
        ({"gradient_checkpointing": "true"}, {"gradient_checkpointing": True}),
        ({"gradient_checkpointing": False}, {"gradient_checkpointing": False}),
        ({"packing": "true"}, {"packing": True}),
        ({"save_steps": None}, {}),
        ({"models_root": 2026}, {"models_root": "2026"}),
    ],
)
def test_settings_reach_the_job_as_they_were_chosen(config, chosen):
    machine = check_config_options(config)
    assert machine.chosen() == chosen
    assert parse_machine_options(machine.arguments()[1::2]) == machine


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("threads", "--machine threads: must be KEY=VALUE"),
        ("speed=9", "--machine speed: unknown .choices: micro_batch_tokens"),
        ("threads=many", "--machine threads: must be a positive integer .got 'many'"),
    ],
)
def test_options_of_a_job_are_checked(option, message):
    with pytest.raises(UserError, match=message):
        parse_machine_options([option])


def test_the_machine_wins_over_the_cards():
    training = Training(micro_batch_tokens=40, logging_steps=3)
    changed = override_training(training, MachineSettings(micro_batch_tokens=20, save_steps=7, threads=2))
    assert changed == training.model_copy(update={"micro_batch_tokens": 20, "save_steps": 7})


def test_checkpointing_of_a_prefix_is_refused_before_the_dag():
    adapters = load_study("quickstart").artifacts["train"]
    check_machine(adapters, MachineSettings(micro_batch_tokens=8))
    with pytest.raises(UserError, match=r"--config: tiny-\S+: .*gradient_checkpointing: true does not work"):
        check_machine(adapters, MachineSettings(gradient_checkpointing=True))


@pytest.mark.parametrize("key", ["peft_type", "init_lora_weights"])
def test_a_method_that_needs_one_card_is_refused_before_the_dag(key):
    method = {"kind": "peft", "peft_type": "LORA", "init_lora_weights": True}
    method[key] = {"peft_type": "ADALORA", "init_lora_weights": "eva"}[key]
    adapter = Artifact("train", "tiny/x/set/seed0/", {"method": method, "training": {}})
    check_machine([adapter], MachineSettings(gpus_per_job=1))
    with pytest.raises(
        UserError, match=rf"gpus_per_job: tiny/x/set/seed0: {key}: peft's {method[key]} does not work"
    ):
        check_machine([adapter], MachineSettings(gpus_per_job=2))


@pytest.mark.parametrize(
    ("method", "training", "obstacle"),
    [
        ({"kind": "full"}, {}, "kind: full trains the whole base"),
        ({"kind": "peft", "init_lora_weights": "lora_ga"}, {}, "init_lora_weights: lora_ga is computed with"),
        ({"kind": "bottleneck"}, {"quantization": "nf4"}, "quantization: nf4: quantized weights cannot"),
    ],
)
def test_a_training_that_cannot_be_sharded_is_refused_before_the_dag(method, training, obstacle):
    adapter = Artifact("train", "tiny/x/set/seed0/", {"method": method, "training": training})
    check_machine([adapter], MachineSettings(shard=False))
    with pytest.raises(UserError, match=f"--config shard: tiny/x/set/seed0: {obstacle}.*; use shard=false"):
        check_machine([adapter], MachineSettings(shard=True))


def test_the_page_of_the_settings_has_a_row_for_each_of_them():
    page = (ROOT / "docs/machine.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", page, re.M) == list(MachineSettings.model_fields)
