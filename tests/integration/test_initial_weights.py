"""Initial weights that are computed from training examples: what they are, what they read, and what is recorded."""

import json
import signal

import pytest
import torch
from safetensors.torch import load_file

from pipeline.adapters import add_adapter
from pipeline.core.errors import UserError
from pipeline.evaluate.generation.loading import load_model
from pipeline.models.adapted_model import choose_initial_batches
from pipeline.models.base import load_base
from pipeline.models.batches import pack_example
from pipeline.models.loss import summed_loss
from pipeline.params.base import Training
from tests.elsewhere import train_elsewhere
from tests.integration.training_cases import read_outputs, run, training_options
from tests.tiny import model_of

LORA = {
    "kind": "peft",
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 4,
    "target_modules": ["q_proj", "down_proj"],
}
METHODS = {
    rule: {**LORA, "init_lora_weights": rule, "init_batches": 2} for rule in ("eva", "corda", "lora_ga")
}
SETTINGS = Training(batch_size=8, micro_batch_tokens=70)
CPU = torch.device("cpu")
IDS = torch.arange(4, 20)[None]
for_all_methods = pytest.mark.parametrize("rule", METHODS)


def examples():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(9, 15, (24,), generator=generator)
    rows = [torch.randint(4, 60, (int(length),), generator=generator).tolist() for length in lengths]
    # the first tokens of each bear no loss
    return [pack_example(row, [-100] * 3 + row[3:]) for row in rows]


def batches_of(method, *, seed=0, settings=SETTINGS, of=None):
    return choose_initial_batches(method, of or examples(), settings, seed=seed, pad=0, device=CPU)


def adapted(method, batches, *, seed=0, **changes):
    model = model_of("llama", sharpness=2.0, **changes)
    return add_adapter(model, method, architecture="llama", seed=seed, initial_batches=batches)


def tensors(model):
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


@for_all_methods
def test_it_is_not_plain_lora_and_the_first_output_is_the_base(rule):
    method = METHODS[rule]
    model = adapted(method, batches_of(method))
    plain = adapted(LORA, None)
    assert torch.allclose(logits(model), logits(model_of("llama", sharpness=2.0)), atol=1e-5)
    for name, value in tensors(plain).items():
        if "lora_A" in name:
            assert not torch.equal(tensors(model)[name], value)
    # eva starts with B = 0 as LoRA does; the others take the product out of the base
    assert all(
        bool(value.any()) == (rule != "eva") for name, value in tensors(model).items() if "lora_B" in name
    )


@for_all_methods
def test_seed_and_batches_alone_determine_it(rule):
    method = METHODS[rule]
    torch.manual_seed(1)
    first = tensors(adapted(method, batches_of(method)))
    torch.manual_seed(2)
    repeated = tensors(adapted(method, batches_of(method)))
    assert all(torch.equal(first[name], repeated[name]) for name in first)
    for changed in (batches_of(method, seed=1), batches_of({**method, "init_batches": 1})):
        others = tensors(adapted(method, changed))
        assert any(
            first[name].shape != others[name].shape or not torch.equal(first[name], others[name])
            for name in first
        )


@for_all_methods
def test_without_batches_it_is_refused(rule):
    with pytest.raises(UserError, match=f"{rule} is computed from training examples; pass initial_batches"):
        adapted(METHODS[rule], None)


def test_eva_holds_the_main_directions_of_what_a_module_reads():
    method = {
        **METHODS["eva"],
        "target_modules": ["q_proj"],
        "eva_config": {"rho": 1.0, "use_label_mask": False},
    }
    batches = batches_of(method, settings=Training(batch_size=12, micro_batch_tokens=4096))
    model, inputs = model_of("llama", sharpness=2.0), []
    handle = model.model.layers[0].self_attn.q_proj.register_forward_pre_hook(
        lambda _, args: inputs.append(args[0])
    )
    for batch in batches.micro_batches:
        with torch.no_grad():
            model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        inputs[-1] = inputs[-1][batch["attention_mask"].bool()]
    handle.remove()
    rows = torch.cat(inputs)
    directions = torch.linalg.svd(rows - rows.mean(0), full_matrices=False).Vh[:4]
    (down,) = [
        value
        for name, value in tensors(adapted(method, batches)).items()
        if "layers.0" in name and "lora_A" in name
    ]
    # the share of the main directions that A spans; of 32 dimensions, four random ones span 1/8
    shared = torch.linalg.svdvals((down @ directions.T).detach())
    assert float((shared**2).mean()) > 0.9


def test_lora_ga_follows_the_gradient_of_the_training_loss():
    method = {**METHODS["lora_ga"], "lora_ga_config": {"scale": "unit", "direction": "A2rBr"}}
    batches = batches_of(method)
    model = model_of("llama", sharpness=2.0)
    layer = model.model.layers[1].mlp.down_proj
    for step in batches.steps:
        supervised = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in step)
        for batch in step:
            torch.autograd.backward(batches.loss(model, batch) / supervised / len(batches.steps))
    left, values, right = torch.linalg.svd(layer.weight.grad)
    weights = tensors(adapted(method, batches))
    (up,) = [value for name, value in weights.items() if "layers.1.mlp" in name and "lora_B" in name]
    (down,) = [value for name, value in weights.items() if "layers.1.mlp" in name and "lora_A" in name]
    # B has the gradient's first four directions with their sizes, A the next four
    torch.testing.assert_close(up.norm(dim=0), values[:4], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close((left[:, :4] * up).sum(0).abs(), values[:4], rtol=1e-3, atol=1e-6)
    assert float(torch.linalg.svdvals(down @ right[4:8].T).min()) > 0.99


def test_the_batches_are_the_first_of_the_training_with_its_loss():
    rows = examples()
    batches = batches_of(METHODS["eva"], of=rows)
    model = model_of("llama", sharpness=2.0)
    assert [sum(len(batch["labels"]) for batch in step) for step in batches.steps] == [8, 8]
    assert all(len(step) > 1 for step in batches.steps)
    seen = [
        tuple(ids[mask.bool()].tolist())
        for batch in batches.micro_batches
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    chosen = [row for row in rows if tuple(row.ids.tolist()) in seen]
    assert len(seen) == len(set(seen)) == len(chosen) == 16
    with torch.no_grad():
        total = sum(float(batches.loss(model, batch)) for batch in batches.micro_batches)
        assert total == pytest.approx(float(summed_loss(model, chosen, pad=0, device=CPU)), rel=1e-4)


@pytest.mark.parametrize(
    ("rule", "changes", "message"),
    [
        ("eva", {"r": 30}, "eva looks for 60 directions .* the largest has .* lower r or rho"),
        (
            "lora_ga",
            {"r": 20},
            "r: 20 exceeds 16, the highest rank that init_lora_weights: lora_ga allows for .*q_proj",
        ),
        (
            "corda",
            {"r": 40},
            "r: 40 exceeds 32, the highest rank that init_lora_weights: corda allows for .*q_proj",
        ),
    ],
)
def test_a_rank_that_is_too_high_is_one_line(rule, changes, message):
    method = {**METHODS[rule], **changes}
    with pytest.raises(UserError, match=message) as error:
        adapted(method, batches_of(method))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("rule", ["pissa", "olora"])
def test_a_rank_above_the_width_is_refused_where_peft_would_lower_it(rule):
    with pytest.raises(
        UserError, match=f"r: 40 exceeds 32, the highest rank that init_lora_weights: {rule} allows"
    ):
        adapted({**LORA, "r": 40, "init_lora_weights": rule}, None)


# for the fixtures of conftest.py
BASE = {"sharpness": 2.0}


@for_all_methods
def test_a_training_saves_it_on_the_unchanged_base_and_records_what_it_read(rule, base, prompts, tmp_path):
    output = run(
        base, prompts, tmp_path / "a", method=METHODS[rule], epochs=None, max_steps=8, micro_batch_tokens=200
    )
    manifest = json.loads((output / "manifest.json").read_text())
    recorded = manifest["initial_weights"]
    assert (recorded["init_lora_weights"], recorded["batches"], recorded["examples"]) == (rule, 2, 8)
    assert 0 < recorded["tokens"] < manifest["tokens"]
    ranks = {
        len(value)
        for name, value in load_file(output / "adapter_model.safetensors").items()
        if "lora_A" in name
    }
    assert ranks == {8} if rule != "eva" else max(ranks) <= 8
    model, _ = load_model(base, output, "float32", "cpu")
    bare = logits(load_base(base)[0])
    assert not torch.allclose(logits(model), bare, atol=1e-3)
    with model.disable_adapter():
        assert torch.equal(logits(model), bare)


def test_a_plain_training_records_no_initial_weights(base, prompts, tmp_path):
    output = run(base, prompts, tmp_path / "a", method=LORA, epochs=None, max_steps=1)
    assert "initial_weights" not in json.loads((output / "manifest.json").read_text())


@pytest.mark.slow
@for_all_methods
def test_a_killed_run_resumes_and_writes_the_same_files(rule, base, prompts, tmp_path):
    changes = {"method": METHODS[rule], "micro_batch_tokens": 200}
    uninterrupted = read_outputs(run(base, prompts, tmp_path / "whole", **changes))
    options = training_options(base, prompts, tmp_path / "killed", **changes)
    assert train_elsewhere(kill_after=7, **options).returncode == -signal.SIGKILL
    assert read_outputs(run(base, prompts, tmp_path / "killed", **changes)) == uninterrupted


@pytest.mark.slow
@pytest.mark.exhaustive
@for_all_methods
def test_two_processes_train_the_same_adapter(rule, base, prompts, tmp_path):
    changes = {"method": METHODS[rule], "micro_batch_tokens": 200}
    single = load_file(run(base, prompts, tmp_path / "single", **changes) / "adapter_model.safetensors")
    options = training_options(base, prompts, tmp_path / "two", **changes)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    process = train_elsewhere(*launcher, **options)
    assert process.returncode == 0, process.stderr
    split = load_file(tmp_path / "two" / "adapter_model.safetensors")
    for name, value in single.items():
        torch.testing.assert_close(split[name], value, rtol=0, atol=1e-5)
