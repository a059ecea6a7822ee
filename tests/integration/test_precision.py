"""Trainings on 16-bit bases: what is trained is float32, its gradient is float32's but for rounding, and overflows are skipped."""

import copy
import json

import pytest
import torch
from peft.helpers import disable_input_dtype_casting
from safetensors.torch import load_file

from pipeline.adapters import add_adapter, methods
from pipeline.adapters.precision import avoid_casts, compute_in
from pipeline.core.errors import UserError
from pipeline.evaluate.generation.loading import load_model
from pipeline.models.batches import choose_examples, pack_example
from pipeline.models.loss import summed_loss
from pipeline.models.train import train
from pipeline.params.base import Training
from pipeline.params.reading import read_card
from tests.elsewhere import train_elsewhere
from tests.integration.test_matrix import METHODS, small_card
from tests.tiny import model_of, save_base

CPU = torch.device("cpu")
ARCHITECTURES = ("llama", "bloom", "gptj")
STEPS = 20
# largest difference of a gradient from float32's on the same rounded weights, as a share of its norm
TOLERANCE = 0.02
# Rounding of the base's own activations, not of the adapter's products: it decides whether a rectifier whose input is
# near 0 passes a gradient at all, and the gradient of a bias is a sum over tokens in which most terms cancel.
SENSITIVE = {"scaled-parallel": 0.06, "biases": 0.03, "biases beside a bottleneck": 0.03}
# least share of the trained numbers that 20 steps must move
MOVED = 0.9
# biases decide for all virtual tokens whether a rectifier of the network that computes them is off
PARTLY_OFF = {"p-tuning": 0.6}

ATTENTION = {"llama": ["q_proj", "v_proj"], "bloom": ["query_key_value"], "gptj": ["q_proj", "v_proj"]}
EMBEDDINGS = {"llama": "embed_tokens", "bloom": "word_embeddings", "gptj": "wte"}
NORMS = {"llama": ["input_layernorm", "norm"], "bloom": ["input_layernorm", "ln_f"], "gptj": ["ln_1", "ln_f"]}


def weights_of_the_base(architecture):
    """Return method cards that train weights of the base itself, by name."""
    lora = {"kind": "peft", "peft_type": "LORA", "r": 4, "target_modules": ATTENTION[architecture]}
    series = {"kind": "bottleneck", "placement": "after", "bottleneck_size": 4}
    series["target_modules"] = ATTENTION[architecture]
    cards = {
        "norms": {"kind": "peft", "peft_type": "LN_TUNING", "target_modules": NORMS[architecture]},
        "biases": {**lora, "bias": "all"},
        "embeddings": {**lora, "modules_to_save": [EMBEDDINGS[architecture]]},
        "biases beside a bottleneck": {**series, "bias": "all"},
    }
    if architecture == "llama":
        cards["adaption prompts"] = {"kind": "peft", "peft_type": "ADAPTION_PROMPT", "adapter_len": 4}
        cards["adaption prompts"]["adapter_layers"] = 2
    return cards


FURTHER = [
    (name, architecture) for architecture in ARCHITECTURES for name in weights_of_the_base(architecture)
]
CELLS = [(method, architecture) for method in METHODS for architecture in ARCHITECTURES] + FURTHER


def card_of(name, architecture):
    if name in METHODS:
        return methods.fill_schedule(small_card(name, architecture, "card"), steps=STEPS)
    return weights_of_the_base(architecture)[name]


def learning_rate_of(name):
    training = read_card("methods", name).training if name in METHODS else Training()
    return training.learning_rate


def adapted_model(name, architecture, *, dtype=torch.bfloat16):
    base = model_of(architecture, sharpness=3.0).to(dtype)
    return add_adapter(base, card_of(name, architecture), architecture=architecture, seed=0).train()


def trained_parameters(model):
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def draw_examples():
    """Return examples that contain every token of the vocabulary."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.stack([torch.randperm(64, generator=generator) for _ in range(4)]).reshape(8, 32).tolist()
    return [pack_example(row, row) for row in rows]


def compute_loss(model, dtype):
    examples = draw_examples()
    loss = summed_loss(model, examples, pad=0, device=CPU, dtype=dtype)
    return loss / sum(example.supervised for example in examples)


def gradient_of(model, dtype):
    """Return the gradient of the trained parameters, as a single vector."""
    torch.autograd.backward(compute_loss(model, dtype))
    gradients = [
        p.grad if p.grad is not None else torch.zeros_like(p) for p in trained_parameters(model).values()
    ]
    return torch.cat([gradient.flatten() for gradient in gradients])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "architecture"), CELLS)
def test_what_is_trained_is_float32_with_the_gradient_of_float32(name, architecture):
    model = adapted_model(name, architecture)
    generator = torch.Generator().manual_seed(3)
    assert {parameter.dtype for parameter in trained_parameters(model).values()} == {torch.float32}
    with torch.no_grad():
        # parameters that are 0 would hide a gradient
        for parameter in trained_parameters(model).values():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    # the same rounded weights, in float32
    reference = copy.deepcopy(model).float()
    avoid_casts(model)
    actual, expected = gradient_of(model, "bfloat16"), gradient_of(reference, "float32")
    assert (actual - expected).norm() < SENSITIVE.get(name, TOLERANCE) * expected.norm()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "architecture"), CELLS)
def test_twenty_steps_move_what_is_trained(name, architecture):
    model = adapted_model(name, architecture)
    avoid_casts(model)
    parameters = trained_parameters(model)
    before = {key: parameter.detach().clone() for key, parameter in parameters.items()}
    optimizer = torch.optim.AdamW(parameters.values(), lr=learning_rate_of(name), weight_decay=0.0)
    for step in range(STEPS):
        loss, penalty = compute_loss(model, "bfloat16"), methods.loss_penalty(model)
        torch.autograd.backward(loss if penalty is None else loss + penalty)
        optimizer.step()
        methods.finish_step(model, step + 1)
        optimizer.zero_grad()
    moved = sum(int((parameter != before[key]).sum()) for key, parameter in parameters.items())
    total = sum(parameter.numel() for parameter in parameters.values())
    assert moved > PARTLY_OFF.get(name, MOVED) * total


class Killed(Exception):
    """Raised in the middle of a training."""


def training_of(**changes):
    settings = {"batch_size": 4, "epochs": None, "max_steps": 6, "warmup_steps": 0, "learning_rate": 1e-3}
    return Training(**{**settings, "logging_steps": 1, "save_steps": 2, "dtype": "bfloat16", **changes})


def run(base, prompts, output, *, method, on_log=None, **changes):
    train(
        base,
        prompts,
        method=method,
        training=training_of(**changes),
        seed=1,
        output=output,
        validation=None,
        manifest={"fingerprint": "abc"},
        device="cpu",
        on_log=on_log,
    )
    return output


def run_killed_and_resumed(base, prompts, output, *, step=5, **options):
    """Kill a training after a step, and start it again."""

    def kill(row):
        if row["step"] == step:
            raise Killed

    with pytest.raises(Killed):
        run(base, prompts, output, on_log=kill, **options)
    run(base, prompts, output, **options)
    assert json.loads((output / "run.json").read_text())["resumed_at"] == step - 1
    return output


def result_files(folder):
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.name not in ("run.json", "timing.jsonl")
    }


def history(folder):
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


# for the fixtures of conftest.py
ROWS = 30


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    for architecture in ARCHITECTURES:
        save_base(architecture, folder / architecture, sharpness=3.0)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("name", "architecture"), CELLS)
def test_a_killed_training_resumes_to_the_same_float32_tensors_and_loads_as_it_was_trained(
    name, architecture, bases, prompts, tmp_path
):
    options = {"method": card_of(name, architecture), "val_set_size": 4, "learning_rate": 1e-2}
    whole = run(bases / architecture, prompts, tmp_path / "whole", **options)
    resumed = run_killed_and_resumed(bases / architecture, prompts, tmp_path / "killed", **options)
    assert result_files(resumed) == result_files(whole)
    (weights,) = (load_file(path) for path in whole.glob("*.safetensors"))
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    model, tokenizer = load_model(bases / architecture, whole, "bfloat16", "cpu")
    settings = training_of(val_set_size=4)
    held_out = choose_examples(prompts, None, tokenizer, settings, seed=1).held_out
    with torch.no_grad():
        losses = [summed_loss(model, [row], pad=3, device=CPU, dtype="bfloat16") for row in held_out]
    loss = float(sum(losses)) / sum(row.supervised for row in held_out)
    assert loss == pytest.approx(history(whole)[-1]["val_loss"], rel=2e-4)


def test_full_fine_tuning_starts_from_unrounded_weights_and_says_what_it_takes(
    bases, prompts, tmp_path, capfd
):
    # a rate that changes no weight by more than rounding would
    rate = {"max_steps": 1, "learning_rate": 1e-6}
    folder = run(bases / "llama", prompts, tmp_path / "model", method={"kind": "full"}, **rate)
    before = load_file(bases / "llama" / "model.safetensors")
    after = load_file(folder / "model.safetensors")
    assert all((after[name] - before[name]).abs().max() <= 1.2e-6 for name in before)
    parameters = sum(tensor.numel() for tensor in before.values())
    assert f"in float32: {16 * parameters / 2**30:.3g} GiB" in capfd.readouterr().err


def test_gradient_checkpointing_gives_the_same_adapter(bases, prompts, tmp_path):
    method = card_of("series", "llama")
    plain = run(bases / "llama", prompts, tmp_path / "plain", method=method)
    saving = run(bases / "llama", prompts, tmp_path / "less", method=method, gradient_checkpointing=True)
    assert (
        result_files(saving)["adapter_model.safetensors"] == result_files(plain)["adapter_model.safetensors"]
    )


def test_without_casts_bottleneck_adapters_compute_the_same_under_autocast():
    model = adapted_model("series-default", "llama").eval()
    ids = torch.arange(3, 20)[None]
    with torch.no_grad(), compute_in("bfloat16", "cpu"):
        expected = model(input_ids=ids).logits
        with disable_input_dtype_casting(model):
            assert torch.equal(model(input_ids=ids).logits, expected)
        assert torch.equal(model(input_ids=ids).logits, expected)
    # without autocast, the cast is what lets float32 weights take a bfloat16 input
    with torch.no_grad():
        model(input_ids=ids)
        with disable_input_dtype_casting(model), pytest.raises(RuntimeError, match="dtype"):
            model(input_ids=ids)


def test_lora_and_bottleneck_adapters_multiply_in_bfloat16_under_autocast():
    types = set()
    for name in ("lora", "series"):
        model = adapted_model(name, "llama")
        avoid_casts(model)
        for key, module in model.named_modules():
            if key.endswith(("lora_A.default", "bottleneck_down.default")):
                module.register_forward_hook(
                    lambda _, inputs, output: types.update({inputs[0].dtype, output.dtype})
                )
        compute_loss(model, "bfloat16")
    assert types == {torch.bfloat16}


SHARP = {"kind": "bottleneck", "placement": "after", "target_modules": ["down_proj"], "bottleneck_size": 4}


@pytest.fixture(scope="module")
def sharp_base(tmp_path_factory):
    """A base whose gradients overflow in float16 at the first scale, 65536, and not at lower ones."""
    folder = tmp_path_factory.mktemp("sharp") / "llama"
    save_base("llama", folder, sharpness=100.0)
    return folder


def test_a_step_that_overflows_in_float16_is_skipped_and_counted(sharp_base, prompts, tmp_path):
    options = {"method": SHARP, "dtype": "float16", "max_steps": 8, "batch_size": 1, "train_on_inputs": False}
    whole = run(sharp_base, prompts, tmp_path / "whole", **options)
    skipped = [row["skipped"] for row in history(whole)]
    assert 0 < skipped[0] <= skipped[-1] < 8
    assert json.loads((whole / "run.json").read_text())["skipped_steps"] == skipped[-1]
    assert [row["step"] for row in history(whole)] == list(range(1, 9))
    weights = load_file(whole / "adapter_model.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())
    # the scale is in the checkpoint: without it the resumed run would skip more steps
    resumed = run_killed_and_resumed(sharp_base, prompts, tmp_path / "killed", **options)
    assert result_files(resumed) == result_files(whole)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_other_dtypes_count_no_skipped_steps(bases, prompts, tmp_path, dtype):
    folder = run(bases / "llama", prompts, tmp_path / "a", method=SHARP, dtype=dtype, max_steps=1)
    assert "skipped_steps" not in json.loads((folder / "run.json").read_text())
    assert all("skipped" not in row for row in history(folder))


def test_an_overflow_that_no_scale_prevents_is_an_error(tmp_path, prompts):
    model, folder = model_of("llama"), tmp_path / "broken"
    save_base("llama", folder)
    with torch.no_grad():
        # logits beyond the largest float16 number
        model.get_output_embeddings().weight.fill_(60000.0)
    model.save_pretrained(folder)
    options = {"method": SHARP, "dtype": "float16", "logging_steps": 100, "save_steps": 100}
    with pytest.raises(UserError, match=r"every step overflowed in float16 and was skipped \(3\)"):
        run(folder, prompts, tmp_path / "short", max_steps=3, **options)
    with pytest.raises(UserError, match=r"step 17: .* use dtype bfloat16 or float32"):
        run(folder, prompts, tmp_path / "long", max_steps=40, **options)
    assert not (tmp_path / "long").exists()


@pytest.mark.slow
def test_two_processes_skip_the_same_steps_as_a_single_process(sharp_base, prompts, tmp_path):
    settings = {"batch_size": 2, "max_steps": 8, "dtype": "float16", "train_on_inputs": False}
    single = run(sharp_base, prompts, tmp_path / "one", method=SHARP, **settings)
    process = train_elsewhere(
        *("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"),
        **{"base": sharp_base, "prompts": prompts, "output": tmp_path / "two", "method": SHARP, "seed": 1},
        training=training_of(**settings),
        manifest={"fingerprint": "abc"},
    )
    assert process.returncode == 0, process.stderr
    assert history(single)[-1]["skipped"] > 0
    for row, expected in zip(history(tmp_path / "two"), history(single), strict=True):
        assert row["skipped"] == expected["skipped"]
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-2)
