"""Training on small models: the files that it writes, repeated runs, resumed runs, and micro-batches."""

import json
import math
import signal

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import get_scheduler

from pipeline.core.errors import UserError
from pipeline.models.base import load_base
from pipeline.models.optimizer import learning_rate_at
from tests.elsewhere import train_elsewhere
from tests.integration.training_cases import (
    PREFIX,
    PROMPT,
    lora,
    read_outputs,
    rows,
    run,
    settings,
    training_options,
)
from tests.tiny import model_of, save_base, write_rows


def test_training_writes_the_adapter_and_its_records(base, prompts, tmp_path):
    output = run(base, prompts, tmp_path / "adapter", val_set_size=4, eval_steps=5)
    assert {path.name for path in output.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "history.jsonl",
        "timing.jsonl",
        "manifest.json",
        "run.json",
    }
    # no working directory is left
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["fingerprint"] == "abc"
    # two epochs of 18 examples in batches of 4, the last of which has 2
    assert manifest["steps"] == 10
    assert manifest["examples"] == 18
    assert manifest["trainable_parameters"] == 2 * 2 * 4 * (32 + 32)
    assert manifest["all_parameters"] > manifest["trainable_parameters"]
    history = rows(output / "history.jsonl")
    assert [row["step"] for row in history if "loss" in row] == [3, 6, 9, 10]
    assert [row["step"] for row in history if "val_loss" in row] == [5, 10]
    assert history[-2]["tokens"] == manifest["tokens"] > 0
    assert history[-2]["epoch"] == 2
    assert all(row["tokens_per_s"] > 0 for row in rows(output / "timing.jsonl"))
    assert json.loads((output / "run.json").read_text())["device"] == "cpu"


def test_the_loss_falls_and_the_adapter_loads(base, prompts, tmp_path):
    output = run(base, prompts, tmp_path / "adapter", epochs=20, logging_steps=5)
    losses = [row["loss"] for row in rows(output / "history.jsonl")]
    assert losses[-1] < 0.9 * losses[0]
    model, _ = load_base(base)
    ids = torch.arange(4, 12)[None]
    bare = model(input_ids=ids).logits
    assert not torch.allclose(PeftModel.from_pretrained(model, output)(input_ids=ids).logits, bare)


@pytest.mark.parametrize(("max_steps", "examples"), [(2, 8), (6, 22)])
def test_a_short_training_encodes_only_the_examples_that_it_needs(
    base, prompts, tmp_path, max_steps, examples
):
    folder = run(base, prompts, tmp_path / "a", epochs=None, max_steps=max_steps)
    assert json.loads((folder / "manifest.json").read_text())["examples"] == examples
    assert rows(folder / "history.jsonl")[-1]["epoch"] == round(max_steps / 6, 4)


def test_two_runs_write_the_same_bytes_and_another_seed_does_not(base, prompts, tmp_path):
    first = read_outputs(run(base, prompts, tmp_path / "first"))
    # earlier random draws of the process must not matter
    torch.manual_seed(99)
    assert read_outputs(run(base, prompts, tmp_path / "second")) == first
    reseeded = read_outputs(run(base, prompts, tmp_path / "other", seed=2))
    assert reseeded["adapter_model.safetensors"] != first["adapter_model.safetensors"]


# before the first checkpoint, after a checkpoint, and never
@pytest.mark.parametrize(
    "kill_after", [pytest.param(3, marks=[pytest.mark.slow, pytest.mark.exhaustive]), 7, 12]
)
def test_a_killed_run_resumes_and_writes_the_same_files(base, prompts, tmp_path, kill_after):
    uninterrupted = read_outputs(run(base, prompts, tmp_path / "whole", val_set_size=4, eval_steps=5))
    output = tmp_path / "killed"
    changes = {"val_set_size": 4, "eval_steps": 5}
    options = training_options(base, prompts, output, **changes)
    process = train_elsewhere(kill_after=kill_after, **options)
    if kill_after <= 10:
        assert process.returncode == -signal.SIGKILL
        assert not output.exists()
        process = train_elsewhere(**options)
    assert process.returncode == 0, process.stderr
    resumed = kill_after // 4 * 4 if kill_after <= 10 else 0
    assert json.loads((output / "run.json").read_text())["resumed_at"] == resumed
    assert read_outputs(output) == uninterrupted


# step 4 has a checkpoint anyway
@pytest.mark.parametrize("step", [pytest.param(4, marks=pytest.mark.slow), 6])
def test_a_run_that_is_asked_to_stop_finishes_its_step_and_resumes_there(base, prompts, tmp_path, step):
    uninterrupted = read_outputs(run(base, prompts, tmp_path / "whole"))
    output = tmp_path / "stopped"
    options = training_options(base, prompts, output)
    process = train_elsewhere(kill_after=step, by=signal.SIGTERM, **options)
    assert f"stopped by SIGTERM after step {step} of 12; the next run resumes there" in process.stderr
    assert not output.exists()
    run(base, prompts, output)
    assert json.loads((output / "run.json").read_text())["resumed_at"] == step
    assert read_outputs(output) == uninterrupted


@pytest.mark.slow
@pytest.mark.exhaustive
def test_two_killed_processes_on_a_cpu_resume(base, prompts, tmp_path):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    train_elsewhere(*launcher, **training_options(base, prompts, tmp_path / "whole"))
    options = training_options(base, prompts, tmp_path / "killed")
    assert train_elsewhere(*launcher, kill_after=7, **options).returncode
    process = train_elsewhere(*launcher, **options)
    assert process.returncode == 0, process.stderr
    assert json.loads((tmp_path / "killed" / "run.json").read_text())["resumed_at"] == 4
    weights = [load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "killed")]
    assert all(torch.equal(weights[1][name], value) for name, value in weights[0].items())


def test_a_checkpoint_of_another_training_is_not_used(base, prompts, tmp_path):
    options = training_options(base, prompts, tmp_path / "adapter", learning_rate=0.5)
    train_elsewhere(kill_after=7, **options)
    assert (tmp_path / ".adapter.work" / "checkpoint.pt").is_file()
    resumed = read_outputs(run(base, prompts, tmp_path / "adapter"))
    assert resumed == read_outputs(run(base, prompts, tmp_path / "fresh"))


# without dropout each process gets a part of every step; with it the split is that of a single process
@pytest.mark.parametrize("dropout", [pytest.param(0.0, marks=pytest.mark.slow), 0.1])
def test_two_processes_train_the_same_adapter_as_a_single_process(base, prompts, tmp_path, dropout):
    method = lora(lora_dropout=dropout)
    single = run(base, prompts, tmp_path / "one", method=method, val_set_size=4)
    options = training_options(base, prompts, tmp_path / "two", method=method, val_set_size=4)
    process = train_elsewhere("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", **options)
    assert process.returncode == 0, process.stderr
    whole, split = (load_file(folder / "adapter_model.safetensors") for folder in (single, tmp_path / "two"))
    for name, value in whole.items():
        torch.testing.assert_close(split[name], value, rtol=0, atol=1e-5)
    pairs = zip(rows(single / "history.jsonl"), rows(tmp_path / "two" / "history.jsonl"), strict=True)
    assert all(math.isclose(a[key], b[key], rel_tol=1e-4) for a, b in pairs for key in a)
    assert json.loads((tmp_path / "two" / "run.json").read_text())["device"] == "2 x cpu"


@pytest.mark.parametrize("name", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [0, 3, 30])
def test_learning_rates_equal_those_of_transformers(name, warmup):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler_name = "constant_with_warmup" if name == "constant" else name
    scheduler = get_scheduler(scheduler_name, optimizer, num_warmup_steps=warmup, num_training_steps=20)
    training = settings(learning_rate=0.5, warmup_steps=warmup, lr_scheduler=name)
    for step in range(20):
        assert learning_rate_at(step, total_steps=20, settings=training) == pytest.approx(
            optimizer.param_groups[0]["lr"]
        )
        optimizer.step()
        scheduler.step()


def test_bad_input_is_an_error_in_one_line(base, prompts, tmp_path):
    empty = write_rows(tmp_path / "empty.parquet", n=0)
    cases = [
        ((base, empty), {}, "no example to train on"),
        ((base, prompts), {"cutoff_len": 2, "train_on_inputs": False}, "cutoff_len=2"),
        ((base, prompts), {"val_set_size": 22}, "val_set_size: 22 of 22"),
    ]
    for paths, changes, message in cases:
        with pytest.raises(UserError, match=message) as error:
            run(*paths, tmp_path / "adapter", **changes)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "adapter").exists()


def test_a_loss_that_is_not_finite_ends_the_run(prompts, tmp_path):
    model, folder = model_of("llama"), tmp_path / "broken"
    save_base("llama", folder)
    with torch.no_grad():
        model.get_output_embeddings().weight[5] = math.nan
    model.save_pretrained(folder)
    with pytest.raises(UserError, match="step 1: the loss or the gradient is not finite"):
        run(folder, prompts, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_prefix_tuning_refuses_gradient_checkpointing(base, prompts, tmp_path):
    with pytest.raises(UserError, match="gradient checkpointing"):
        run(base, prompts, tmp_path / "adapter", method=PREFIX, gradient_checkpointing=True)


def test_gradient_checkpointing_changes_nothing(base, prompts, tmp_path):
    stored = read_outputs(run(base, prompts, tmp_path / "plain"))
    recomputed = read_outputs(run(base, prompts, tmp_path / "recomputed", gradient_checkpointing=True))
    assert recomputed["history.jsonl"] == stored["history.jsonl"]


def test_validation_can_use_a_file_instead_of_held_out_rows(base, prompts, tmp_path):
    validation = write_rows(tmp_path / "validation.parquet", n=5)
    output = run(base, prompts, tmp_path / "adapter", validation=validation)
    assert json.loads((output / "manifest.json").read_text())["examples"] == 22
    assert rows(output / "history.jsonl")[-1]["val_loss"] > 0


POSITIONS = dict.fromkeys(("llama", "opt", "gpt_neo"), "max_position_embeddings") | dict.fromkeys(
    ("gptj", "gpt2"), "n_positions"
)


@pytest.mark.parametrize("architecture", POSITIONS)
def test_examples_beyond_the_models_positions_are_cut_and_counted(architecture, prompts, tmp_path, capsys):
    # the soft prompt takes 3 of 13 positions; examples have 6 to 17 tokens
    save_base(architecture, tmp_path / "base", **{POSITIONS[architecture]: 13})
    changes = {"method": PROMPT, "epochs": 1, "val_set_size": 4, "warmup_steps": 0}
    folder = run(tmp_path / "base", prompts, tmp_path / "adapter", **changes)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["examples"] == 18
    assert 4 < manifest["examples_cut"] < 18
    assert f"{manifest['examples_cut']} examples are cut to 10 positions" in capsys.readouterr().err
    # a cutoff that cuts to the positions by itself gives the same adapter, and nothing to count
    by_cutoff = run(tmp_path / "base", prompts, tmp_path / "short", cutoff_len=10, **changes)
    assert "examples_cut" not in json.loads((by_cutoff / "manifest.json").read_text())
    names = ("adapter_model.safetensors", "history.jsonl")
    assert all((folder / name).read_bytes() == (by_cutoff / name).read_bytes() for name in names)


def test_a_model_without_positions_cuts_nothing(prompts, tmp_path, capsys):
    save_base("bloom", tmp_path / "base")
    folder = run(tmp_path / "base", prompts, tmp_path / "a", method=PROMPT, epochs=1)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert not {"examples_cut", "responses_empty"} & manifest.keys()
    assert "cut" not in capsys.readouterr().err


def test_virtual_tokens_that_fill_the_positions_are_an_error(prompts, tmp_path):
    save_base("gpt2", tmp_path / "base", n_positions=4)
    with pytest.raises(UserError, match=r"num_virtual_tokens: 3 leaves no room .* the model's 4 positions"):
        run(tmp_path / "base", prompts, tmp_path / "adapter", method=PREFIX)


def test_empty_responses_are_counted_and_refused_if_all_are(base, tmp_path, capsys):
    partly_empty, all_empty = (write_rows(tmp_path / f"{n}.parquet", empty=range(n)) for n in (3, 22))
    folder = run(base, partly_empty, tmp_path / "adapter", epochs=1)
    assert json.loads((folder / "manifest.json").read_text())["responses_empty"] == 3
    assert "3 responses are empty" in capsys.readouterr().err
    with pytest.raises(UserError, match="all 22 responses are empty"):
        run(base, all_empty, tmp_path / "none")
