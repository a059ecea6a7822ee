"""The loss and its gradients: equal for any split into micro-batches, and to those of transformers."""

import math

import pytest
import torch

from pipeline.adapters import add_adapter
from pipeline.models.loss import accumulate_gradients, draws_random_numbers, summed_loss
from tests.integration.training_cases import (
    LORA,
    PREFIX,
    PROMPT,
    SERIES,
    lora,
    make_examples,
    make_job,
)
from tests.tiny import model_of


@pytest.mark.parametrize("architecture", ["llama", "bloom", "gptj"])
@pytest.mark.parametrize("kind", ["lora", "prefix", "prompt", "series"])
def test_gradients_are_equal_for_any_split(architecture, kind):
    method = {
        "lora": lora(architecture, lora_dropout=0.0),
        "prefix": PREFIX,
        "prompt": PROMPT,
        "series": SERIES,
    }[kind]
    model = add_adapter(
        model_of(architecture, sharpness=2.0), method, architecture=architecture, seed=3
    ).train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        # parameters that are 0 would hide a gradient
        for parameter in parameters:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    batch = make_examples([5, 17, 9, 12, 5, 16])
    results = {}
    for budget in (1, 36, 4096):
        model.zero_grad()
        job = make_job(model, parameters, micro_batch_tokens=budget)
        loss, supervised = accumulate_gradients(job, batch, step=0)
        results[budget] = (loss / supervised, [parameter.grad.clone() for parameter in parameters])
    assert all(float(gradient.abs().max()) > 0 for gradient in results[1][1])
    for budget in (36, 4096):
        assert math.isclose(results[budget][0], results[1][0], rel_tol=1e-5)
        for gradient, expected in zip(results[budget][1], results[1][1], strict=True):
            torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)


# dropout of the adapter, of the base, of a soft prompt's encoder, and noise that no setting names as dropout
RANDOM = {
    "lora": ("llama", LORA, {}),
    "attention": ("llama", {**LORA, "lora_dropout": 0.0}, {"attention_dropout": 0.1}),
    "opt": ("opt", {**LORA, "lora_dropout": 0.0, "target_modules": ["q_proj"]}, {"dropout": 0.1}),
    "bottleneck": ("llama", {**SERIES, "adapter_dropout": 0.1}, {}),
    "noise": ("llama", {"kind": "peft", "peft_type": "PVERA", "r": 4}, {}),
}
CONSTANT = {
    "lora": ("llama", {**LORA, "lora_dropout": 0.0}, {}),
    "prefix": ("llama", PREFIX, {}),
    "bottleneck": ("llama", SERIES, {}),
}


@pytest.mark.parametrize(
    ("case", "random"),
    [*((case, True) for case in RANDOM.values()), *((case, False) for case in CONSTANT.values())],
    ids=[*(f"random {name}" for name in RANDOM), *(f"constant {name}" for name in CONSTANT)],
)
def test_random_draws_of_a_pass_are_noticed_whatever_draws_them(case, random):
    architecture, method, changes = case
    model = add_adapter(model_of(architecture, **changes), method, architecture=architecture, seed=0).train()
    (example,) = make_examples([7])
    state = torch.get_rng_state()
    assert draws_random_numbers(model, example, pad=0, device=torch.device("cpu")) == random
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("architecture", ["llama", "bloom", "gptj"])
def test_the_loss_equals_that_of_transformers(architecture):
    model = add_adapter(model_of(architecture), lora(architecture), architecture=architecture, seed=0).eval()
    batch = make_examples([9, 9, 9])
    ids, labels = (torch.stack([torch.tensor(example[part]).long() for example in batch]) for part in (0, 1))
    expected = model(input_ids=ids, labels=labels).loss * sum(example.supervised for example in batch)
    torch.testing.assert_close(summed_loss(model, batch, pad=0, device=torch.device("cpu")), expected)
