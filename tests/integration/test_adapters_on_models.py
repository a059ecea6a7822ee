"""The bottleneck cards, LoRA and the prompt methods on small models of three real classes, through peft's interface.

The matrix of all cards and architectures is in test_matrix.py; features of peft other than training are in
test_adapters_peft_features.py.
"""

import json
from pathlib import Path

import peft
import pytest
import torch
import yaml
from safetensors import safe_open

from pipeline.adapters import BottleneckConfig, add_adapter
from pipeline.adapters.bottleneck import BottleneckLinear
from pipeline.adapters.padding import generation_inputs, positions
from pipeline.core.errors import UserError
from tests.elsewhere import last_word
from tests.tiny import CONFIGS, model_of, save_base, train_steps

METHODS = Path(__file__).resolve().parents[2] / "params/methods"
# tests/integration/test_matrix.py covers these
CARDS_OF_MATRIX = ("adalora", "dora", "full", "ia3", "oft", "pissa", "rslora", "vera")
CARDS = {
    path.stem: card
    for path in METHODS.glob("*.yaml")
    # a combination trains nothing
    if (card := yaml.safe_load(path.read_text()))["kind"] != "combined" and path.stem not in CARDS_OF_MATRIX
}
CARDS["prefix-projected"] = {**CARDS["prefix-tuning"], "prefix_projection": True, "encoder_hidden_size": 16}
ARCHITECTURES = list(CONFIGS)
LENGTHS = (3, 7, 12)
PLACEMENTS = {
    "before": {
        "llama": ["up_proj", "o_proj"],
        "bloom": ["dense_h_to_4h", "query_key_value"],
        "gptj": ["fc_in", "q_proj"],
    },
}
PLACEMENTS["after"] = PLACEMENTS["parallel"] = PLACEMENTS["before"]

for_all_architectures = pytest.mark.parametrize("architecture", ARCHITECTURES)
for_all_cards = pytest.mark.parametrize("card", sorted(CARDS))


def make_model(card, architecture, *, seed=0, **changes):
    settings = {**CARDS[card], **changes}
    if settings["kind"] == "bottleneck":
        settings = {**settings, "bottleneck_size": 8}
    return add_adapter(model_of(architecture), settings, architecture=architecture, seed=seed)


def draw_rows():
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, 64, (length,), generator=generator) for length in LENGTHS]


def pad_rows(rows, side):
    width = max(len(row) for row in rows)
    ids, mask = (
        torch.zeros(len(rows), width, dtype=torch.long),
        torch.zeros(len(rows), width, dtype=torch.long),
    )
    for index, row in enumerate(rows):
        columns = slice(width - len(row), None) if side == "left" else slice(len(row))
        ids[index, columns] = row
        mask[index, columns] = 1
    return ids, mask


def train(model, count=3, learning_rate=1e-3):
    """Train for a few steps on one batch padded on the right; return the losses."""
    ids, mask = pad_rows(draw_rows(), "right")
    labels = ids.masked_fill(mask == 0, -100)
    options = {"learning_rate": learning_rate, "weight_decay": 0.0}
    return train_steps(model, count=count, **options, input_ids=ids, attention_mask=mask, labels=labels)


def logits(model, ids=None):
    with torch.no_grad():
        return model(input_ids=draw_rows()[1][None] if ids is None else ids).logits


@for_all_cards
@for_all_architectures
def test_training_lowers_the_loss_and_changes_the_adapter_only(card, architecture):
    bare = model_of(architecture)
    model = make_model(card, architecture)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    losses = train(model, learning_rate=3e-2 if "prefix" in card or "tuning" in card else 1e-3)
    assert losses[-1] < losses[0]
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed
    assert changed <= {name for name, p in model.named_parameters() if p.requires_grad}
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(bare))


@for_all_cards
@for_all_architectures
def test_a_saved_and_loaded_adapter_gives_the_same_logits(card, architecture, tmp_path):
    model = make_model(card, architecture)
    train(model, count=1)
    model.save_pretrained(tmp_path / "adapter")
    names = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    with safe_open(tmp_path / "adapter/adapter_model.safetensors", framework="pt") as file:
        keys = file.keys()
        saved = sum(file.get_tensor(key).numel() for key in keys)
    assert saved <= model.get_nb_trainable_parameters()[0]
    for options in ({}, {"low_cpu_mem_usage": True}):
        loaded = peft.PeftModel.from_pretrained(
            model_of(architecture), tmp_path / "adapter", **options
        ).eval()
        assert (logits(loaded) - logits(model)).abs().max() < 1e-6


def test_a_new_process_loads_the_adapter_from_its_config(tmp_path):
    save_base("llama", tmp_path / "base")
    base = type(model_of("llama")).from_pretrained(tmp_path / "base")
    model = add_adapter(base, CARDS["series"], architecture="llama", seed=0).eval()
    model.save_pretrained(tmp_path / "adapter")
    code = (
        "import sys, torch, peft, pipeline.adapters\n"
        "model = peft.AutoPeftModelForCausalLM.from_pretrained(sys.argv[1]).eval()\n"
        "print(model(input_ids=torch.arange(3, 9)[None]).logits.double().sum().item())"
    )
    logit_sum = float(last_word(code, tmp_path / "adapter"))
    assert logit_sum == logits(model, torch.arange(3, 9)[None]).double().sum().item()


@for_all_cards
@for_all_architectures
def test_the_seed_fixes_the_initial_weights_and_the_global_generator_is_unchanged(card, architecture):
    torch.manual_seed(7)
    state = torch.get_rng_state()
    first, repeated, reseeded = (make_model(card, architecture, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], repeated[name]) for name in first)
    assert any(not torch.equal(first[name], reseeded[name]) for name in first)


@for_all_cards
@for_all_architectures
def test_the_saved_target_modules_are_sorted(card, architecture, tmp_path):
    make_model(card, architecture).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config.get("target_modules") is None or config["target_modules"] == sorted(
        config["target_modules"]
    )


@for_all_cards
@for_all_architectures
def test_a_row_generates_the_same_tokens_in_a_batch_and_alone(card, architecture):
    model = make_model(card, architecture).eval()
    rows = draw_rows()
    for beams in (1, 3):
        batched = new_tokens(model, *pad_rows(rows, "left"), num_beams=beams)
        for index, row in enumerate(rows):
            alone = new_tokens(model, row[None], torch.ones_like(row[None]), num_beams=beams)
            assert torch.equal(batched[index], alone[0]), (beams, index)


def new_tokens(model, ids, mask, **options):
    callee, inputs, skip = generation_inputs(model, ids, mask)
    return callee.generate(**inputs, max_new_tokens=10, min_new_tokens=10, do_sample=False, **options)[
        :, skip:
    ]


@for_all_cards
@for_all_architectures
def test_generation_with_the_cache_equals_repeated_forward_passes(card, architecture):
    model = make_model(card, architecture).eval()
    ids = draw_rows()[1][None]
    expected = ids
    for _ in range(10):
        scores = logits(model, expected)[:, -1]
        # min_new_tokens forbids the end token
        scores[:, 2] = -torch.inf
        expected = torch.cat([expected, scores.argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(new_tokens(model, ids, torch.ones_like(ids)), expected[:, ids.shape[1] :])


@pytest.mark.parametrize("card", ["lora", "parallel", "prefix-projected", "prefix-tuning", "series"])
@for_all_architectures
def test_padding_changes_no_logits_if_positions_are_passed(card, architecture):
    model = make_model(card, architecture).eval()
    rows = draw_rows()
    for side in ("left", "right"):
        ids, mask = pad_rows(rows, side)
        with torch.no_grad():
            batched = model(input_ids=ids, attention_mask=mask, position_ids=positions(mask)).logits
        for index, row in enumerate(rows):
            assert (batched[index][mask[index] == 1] - logits(model, row[None])[0]).abs().max() < 1e-5


@for_all_architectures
def test_prefix_tuning_with_left_padding_needs_positions(architecture):
    """Fails once peft makes ``positions`` unnecessary for prefix tuning on rotary models."""
    model = make_model("prefix-tuning", architecture).eval()
    rows = draw_rows()
    ids, mask = pad_rows(rows, "left")
    with torch.no_grad():
        batched = model(input_ids=ids, attention_mask=mask).logits
    error = (batched[0][-LENGTHS[0] :] - logits(model, rows[0][None])[0]).abs().max()
    assert (error < 1e-5) == (architecture == "bloom")


@pytest.mark.parametrize("placement", ["before", "after", "parallel"])
@for_all_architectures
def test_each_placement_equals_its_formula_in_a_real_model(placement, architecture):
    base = model_of(architecture)
    config = BottleneckConfig(
        placement=placement, bottleneck_size=8, target_modules=PLACEMENTS[placement][architecture]
    )
    model = peft.get_peft_model(base, config).eval()
    errors = []

    def compare(layer, inputs, output):
        (x,) = inputs
        up, down = layer.bottleneck_up["default"].weight, layer.bottleneck_down["default"].weight

        def detour(u):
            return torch.tanh(u @ down.T) @ up.T

        base_layer = layer.base_layer
        expected = {
            "before": lambda: base_layer(x + detour(x)),
            "parallel": lambda: base_layer(x) + detour(x),
            "after": lambda: base_layer(x) + detour(base_layer(x)),
        }[placement]()
        errors.append((output - expected).abs().max().item())

    for module in model.modules():
        if isinstance(module, BottleneckLinear):
            module.register_forward_hook(compare)
    logits(model)
    assert len(errors) == 4
    assert max(errors) < 1e-5


@pytest.mark.parametrize("card", ["series", "parallel", "adapter-p", "lora"])
@for_all_architectures
def test_gradient_checkpointing_gives_the_same_gradients(card, architecture):
    gradients = []
    for checkpointing in (False, True):
        model = make_model(card, architecture, **({"lora_dropout": 0.0} if card == "lora" else {}))
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        ids = draw_rows()[2][None]
        model(input_ids=ids, labels=ids).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], atol=1e-6), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bottleneck_sise": 3}, "bottleneck_sise: not a field of BottleneckConfig .*bottleneck_size"),
        ({"bottleneck_size": 0}, "bottleneck_size: must be"),
        ({"placement": {"llama": {"fc_in": "before"}}}, "placement: llama has no module 'fc_in' .*up_proj"),
        (
            {"placement": "after", "target_modules": ["fc_in"]},
            "target_modules: llama has no module 'fc_in' .*up_proj",
        ),
        (
            {"placement": "after", "target_modules": ["mlp.q_proj"]},
            "the model has no module 'mlp.q_proj' .*up_proj",
        ),
        ({"kind": "peft", "peft_type": "LORA", "rank": 3}, "rank: not a field of LORA .*lora_alpha"),
        (
            {"kind": "peft", "peft_type": "PREFIX_TUNING", "target_modules": ["up_proj"]},
            "target_modules: not a field of PREFIX_TUNING",
        ),
    ],
)
def test_an_invalid_card_is_an_error_in_one_line_and_leaves_the_model_unchanged(changes, message):
    model = model_of("llama")
    before = {name for name, _ in model.named_parameters()}
    card = dict(changes) if "kind" in changes else {**CARDS["series"], **changes}
    with pytest.raises(UserError, match=message) as error:
        add_adapter(model, card, architecture="llama", seed=0)
    assert "\n" not in str(error.value)
    assert {name for name, _ in model.named_parameters()} == before
