"""Training by the loss on held-out examples: the best weights, early stopping, resumed runs, and trials that diverge."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from pipeline.core.errors import UserError
from pipeline.models.loss import accumulate_gradients
from pipeline.models.train import train
from pipeline.params.base import Training

LORA = {"kind": "peft", "peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
# so high that the held-out loss soon rises
RATE = 0.5


class Killed(Exception):
    """Ends a training as a kill would: without a word to it."""


def run(base, prompts, output, *, on_log=None, is_trial=False, **changes):
    # a step is an epoch, so that trainings of any length see the same examples
    settings = {
        **{"batch_size": 18, "epochs": None, "max_steps": 9, "warmup_steps": 0, "learning_rate": RATE},
        **{
            "lr_scheduler": "constant",
            "val_set_size": 4,
            "eval_steps": 1,
            "save_steps": 2,
            "logging_steps": 1,
        },
    }
    train(
        base,
        prompts,
        method=LORA,
        training=Training(**settings | changes),
        seed=1,
        output=output,
        validation=None,
        manifest={"fingerprint": "abc"},
        device="cpu",
        on_log=on_log,
        is_trial=is_trial,
    )
    return output


def weights(folder):
    return load_file(folder / "adapter_model.safetensors")


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


def losses(folder):
    lines = (folder / "history.jsonl").read_text().splitlines()
    return [row["val_loss"] for row in map(json.loads, lines) if "val_loss" in row]


def outputs(folder):
    names = ("adapter_model.safetensors", "history.jsonl", "manifest.json")
    return {name: (folder / name).read_bytes() for name in names}


def test_the_best_weights_are_those_of_the_step_with_the_lowest_held_out_loss(base, prompts, tmp_path):
    best = run(base, prompts, tmp_path / "best", keep="best")
    step = losses(best).index(min(losses(best))) + 1
    assert manifest(best)["best_step"] == step < 9 == manifest(best)["steps"]
    stopped_there = weights(run(base, prompts, tmp_path / "short", max_steps=step))
    assert all(torch.equal(stopped_there[name], value) for name, value in weights(best).items())


def test_a_training_stops_when_the_held_out_loss_has_not_improved_for_the_patience(base, prompts, tmp_path):
    stopped = run(base, prompts, tmp_path / "stopped", early_stopping_patience=2)
    values = losses(stopped)
    lowest = values.index(min(values)) + 1
    assert manifest(stopped)["steps"] == len(values) == lowest + 2 < 9
    # without keep: best, the last weights are saved
    assert "best_step" not in manifest(stopped)


@pytest.mark.parametrize("step", [3, 5])
def test_a_killed_run_resumes_with_its_best_weights_and_its_patience(base, prompts, tmp_path, step):
    settings = {"keep": "best", "early_stopping_patience": 3}
    whole = outputs(run(base, prompts, tmp_path / "whole", **settings))

    def kill(row):
        if row["step"] == step and "val_loss" in row:
            raise Killed

    with pytest.raises(Killed):
        run(base, prompts, tmp_path / "killed", on_log=kill, **settings)
    resumed = run(base, prompts, tmp_path / "killed", **settings)
    assert json.loads((resumed / "run.json").read_text())["resumed_at"] == step - 1
    assert outputs(resumed) == whole


def test_only_a_trial_may_diverge(base, prompts, tmp_path, monkeypatch):
    def lose_the_fourth(job, batch, *, step, scale, budget):
        loss, supervised = accumulate_gradients(job, batch, step=step, scale=scale, budget=budget)
        return math.nan if step == 3 else loss, supervised

    before = run(base, prompts, tmp_path / "before", max_steps=3)
    # rates at which a loss really overflows depend on the machine's rounding
    monkeypatch.setattr("pipeline.models.train.accumulate_gradients", lose_the_fourth)
    with pytest.raises(UserError, match="step 4: the loss or the gradient is not finite"):
        run(base, prompts, tmp_path / "training")
    trial = run(base, prompts, tmp_path / "trial", is_trial=True)
    assert (manifest(trial)["diverged"], manifest(trial)["steps"]) == (4, 3)
    # its weights are those before that step, so that they can be evaluated as any others
    assert {name: value.tolist() for name, value in weights(trial).items()} == {
        name: value.tolist() for name, value in weights(before).items()
    }
