"""The training stage with methods that need code of their own: AdaLoRA, PiSSA, full fine-tuning."""

import json
import signal

import pytest
import torch
from safetensors.torch import load_file

from pipeline.adapters import add_adapter, methods
from pipeline.core.errors import UserError
from pipeline.evaluate.generation.loading import load_model
from pipeline.models.base import load_base
from pipeline.models.train import train
from pipeline.params.base import Training
from tests.elsewhere import train_elsewhere
from tests.tiny import model_of

TARGETS = {"target_modules": ["q_proj", "v_proj", "down_proj"]}
ADALORA = {"kind": "peft", "peft_type": "ADALORA", "init_r": 6, "target_r": 2, "deltaT": 3, **TARGETS}
PISSA = {
    "kind": "peft",
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 4,
    "init_lora_weights": "pissa",
    **TARGETS,
}
FULL = {"kind": "full"}
WEIGHTS = {
    "adalora": "adapter_model.safetensors",
    "pissa": "adapter_model.safetensors",
    "full": "model.safetensors",
}
METHODS = {"adalora": ADALORA, "pissa": PISSA, "full": FULL}
IDS = torch.arange(4, 14)[None]


def settings(**changes):
    defaults = {"batch_size": 4, "epochs": None, "max_steps": 12, "warmup_steps": 2, "learning_rate": 1e-2}
    return Training(**{**defaults, "logging_steps": 3, "save_steps": 4, **changes})


# for the fixtures of conftest.py
BASE, ROWS = {"sharpness": 3.0}, 40


def run(base, prompts, output, method, **changes):
    options = {"training": settings(**changes), "seed": 1, "manifest": {"fingerprint": "abc"}}
    train(base, prompts, method=method, output=output, validation=None, device="cpu", **options)
    return output


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "history.jsonl").read_text().splitlines()]


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def test_adalora_prunes_ranks_to_its_budget_and_saves_the_remaining_ranks(base, prompts, tmp_path):
    output = run(base, prompts, tmp_path / "adapter", ADALORA)
    config = json.loads((output / "adapter_config.json").read_text())
    assert (config["total_step"], config["tinit"], config["tfinal"]) == (12, 1, 6)
    ranks_of_module = {name: sum(ranks) for name, ranks in config["rank_pattern"].items()}
    assert len(ranks_of_module) == 6
    assert sum(ranks_of_module.values()) == 6 * ADALORA["target_r"]
    # ranks are distributed unevenly
    assert max(ranks_of_module.values()) > ADALORA["target_r"]
    weights = load_file(output / WEIGHTS["adalora"])
    sizes = {name: len(weight) for name, weight in weights.items() if "lora_E" in name}
    assert sum(sizes.values()) == sum(ranks_of_module.values())
    assert not torch.equal(logits(load_model(base, output, "float32", "cpu")[0]), logits(load_base(base)[0]))


def test_settings_of_the_card_take_precedence_in_the_schedule():
    assert methods.fill_schedule({**ADALORA, "tinit": 3, "tfinal": None}, steps=100)["tinit"] == 3
    assert methods.fill_schedule({**ADALORA, "tinit": 3, "tfinal": None}, steps=100)["tfinal"] == 50
    assert methods.fill_schedule(PISSA, steps=100) == PISSA
    # peft accepts the schedule of the shortest trainings that can choose ranks
    for steps in (3, 4, 5):
        add_adapter(
            model_of("llama"), methods.fill_schedule(ADALORA, steps=steps), architecture="llama", seed=0
        )


@pytest.mark.parametrize("steps", [1, 2])
def test_a_training_too_short_to_choose_ranks_is_an_error(steps):
    with pytest.raises(UserError, match=f"cannot choose ranks in {steps} steps .* train for 3 steps or more"):
        methods.fill_schedule(ADALORA, steps=steps)


def test_the_penalty_equals_the_term_that_peft_adds_to_the_loss():
    model = add_adapter(
        model_of("llama"), methods.fill_schedule(ADALORA, steps=9), architecture="llama", seed=0
    )
    with_penalty = model(input_ids=IDS, labels=IDS).loss
    without_penalty = model.get_base_model()(input_ids=IDS, labels=IDS).loss
    torch.testing.assert_close(
        methods.loss_penalty(model), with_penalty - without_penalty, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("orth_reg_weight", [0.0, 0.5])
def test_the_penalty_keeps_the_factors_near_orthogonal(base, prompts, tmp_path, orth_reg_weight):
    method = {**ADALORA, "orth_reg_weight": orth_reg_weight}
    weights = load_file(run(base, prompts, tmp_path / "a", method, max_steps=40) / WEIGHTS["adalora"])
    products = [w @ w.T for name, w in weights.items() if "lora_A" in name and len(w)]
    distance = sum(float((product - torch.eye(len(product))).norm()) for product in products)
    assert (distance < 4) == (orth_reg_weight > 0)


def test_pissa_is_saved_as_lora_on_the_original_base(base, prompts, tmp_path):
    output = run(base, prompts, tmp_path / "adapter", PISSA, max_steps=60)
    config = json.loads((output / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["init_lora_weights"]) == (8, 8, True)
    assert losses(output)[-1] < losses(output)[0]
    model, _ = load_model(base, output, "float32", "cpu")
    base_logits = logits(load_base(base)[0])
    assert not torch.allclose(logits(model), base_logits)
    with model.disable_adapter():
        assert torch.equal(logits(model), base_logits)


def test_full_fine_tuning_writes_a_complete_model(base, prompts, tmp_path):
    output = run(base, prompts, tmp_path / "model", FULL, learning_rate=1e-3)
    manifest = json.loads((output / "manifest.json").read_text())
    assert (
        manifest["trainable_parameters"]
        == manifest["all_parameters"]
        == sum(p.numel() for p in model_of("llama").parameters())
    )
    before, after = load_file(base / "model.safetensors"), load_file(output / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(not torch.equal(before[name], after[name]) for name in before)
    assert losses(output)[-1] < losses(output)[0]
    model, tokenizer = load_model(tmp_path / "no base", output, "float32", "cpu")
    assert torch.equal(model.lm_head.weight, after["lm_head.weight"])
    assert tokenizer("w1 w2")["input_ids"] == load_base(base)[1]("w1 w2")["input_ids"]


@pytest.mark.parametrize("name", METHODS)
def test_a_killed_run_resumes_and_writes_the_same_files(name, base, prompts, tmp_path):
    uninterrupted = run(base, prompts, tmp_path / "whole", METHODS[name])
    options = {"base": base, "prompts": prompts, "output": tmp_path / "killed", "seed": 1}
    options |= {"method": METHODS[name], "training": settings(), "manifest": {"fingerprint": "abc"}}
    process = train_elsewhere(kill_after=10, **options)
    assert process.returncode == -signal.SIGKILL, process.stderr
    killed = run(base, prompts, tmp_path / "killed", METHODS[name])
    assert json.loads((killed / "run.json").read_text())["resumed_at"] == 8
    assert {path.name for path in killed.iterdir()} == {path.name for path in uninterrupted.iterdir()}
    for path in uninterrupted.iterdir():
        if path.name not in ("run.json", "timing.jsonl"):
            assert (killed / path.name).read_bytes() == path.read_bytes(), path.name
