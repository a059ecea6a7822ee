"""The test matrix, methods x architectures x places: each cell works, or is refused for a recorded reason.

``python -m tests.support_matrix`` runs this file and writes docs/support-matrix.md from its results.
"""

import copy
import multiprocessing
import random
from functools import cache
from types import SimpleNamespace

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from pipeline.adapters import add_adapter, methods
from pipeline.core.errors import UserError
from pipeline.evaluate.generation import decoding
from pipeline.params.architectures import LINEAR_MODULES
from pipeline.params.resolve import resolve_method
from pipeline.params.studies import Entry
from pipeline.study.find import list_trained_methods
from tests.tiny import model_of

METHODS = list_trained_methods()
WITHOUT_MODULES = ("full", "p-tuning", "prefix-tuning", "prompt-tuning")
PLACES = ("card", "attention", "MLP", "both")
CHECKS = (
    "three training steps lower the loss on a fixed batch and change only the adapter's weights",
    "an adapter saved and loaded onto a fresh base in a new process gives identical logits",
    "with the adapter disabled, logits equal the bare base's, bit by bit",
    "prompts of different lengths generate the same tokens in a batch as alone",
)

ATTENTION = {
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "bloom": ["query_key_value", "self_attention.dense"],
    "gptj": ["q_proj", "k_proj", "v_proj", "out_proj"],
    "opt": ["q_proj", "k_proj", "v_proj", "out_proj"],
    "gpt2": ["c_attn", "attn.c_proj"],
    "gpt_neo": ["q_proj", "k_proj", "v_proj", "out_proj"],
    "gpt_neox": ["query_key_value", "attention.dense"],
    "phi3": ["qkv_proj", "o_proj"],
}
MLP = {
    "llama": ["gate_proj", "up_proj", "down_proj"],
    "bloom": ["dense_h_to_4h", "dense_4h_to_h"],
    "gptj": ["fc_in", "fc_out"],
    "opt": ["fc1", "fc2"],
    "gpt2": ["c_fc", "mlp.c_proj"],
    "gpt_neo": ["c_fc", "c_proj"],
    "gpt_neox": ["dense_h_to_4h", "dense_4h_to_h"],
    "phi3": ["gate_up_proj", "down_proj"],
}
for like_llama in ("mistral", "qwen3", "gemma3_text", "olmo2"):
    ATTENTION[like_llama], MLP[like_llama] = ATTENTION["llama"], MLP["llama"]

SMALL = {
    "bottleneck_size": 4,
    "r": 4,
    "lora_alpha": 8,
    "lora_dropout": 0.0,
    "hira_dropout": 0.0,
    "init_r": 6,
    "target_r": 3,
    "deltaT": 1,
    "oft_block_size": 8,
    "num_virtual_tokens": 3,
    "encoder_hidden_size": 8,
}
LEARNING_RATES = {
    "adalora": 1e-2,
    "ia3": 1e-2,
    "vera": 1e-2,
    "prefix-tuning": 3e-2,
    "prompt-tuning": 3e-2,
    "full": 1e-4,
}

# (method, architecture): the reason that the method cannot be used, and the error message
IMPOSSIBLE = {
    ("oft", "gpt2"): (
        "peft's OFT does not support Conv1D, the class of GPT-2's linear layers",
        "Conv1D.* is not supported",
    )
}
# methods whose logits after saving and loading are equal only up to rounding
ROUNDED = {
    "adalora": "pruned ranks are not saved, so sums have fewer terms",
    "pissa": "it is saved as LoRA of twice the rank on the original base",
}
# methods that cannot be disabled
STAYS_ON = {"full": "there is no adapter: the base's own weights are trained"}


def list_places(method):
    return PLACES[:1] if method in WITHOUT_MODULES else PLACES


def list_cells():
    return [
        (method, architecture, place)
        for method in METHODS
        for architecture in LINEAR_MODULES
        for place in list_places(method)
    ]


def mark_further_cells(cells):
    """Mark the cells that CI leaves out: all but the card's own modules, and LLaMA."""
    return [
        cell if cell[2] == "card" or cell[1] == "llama" else pytest.param(*cell, marks=pytest.mark.exhaustive)
        for cell in cells
    ]


def small_card(method, architecture, place):
    """Return a card's fields with small sizes and the modules of a place."""
    card = resolve_method(Entry(method=method), architecture=architecture, where="matrix")
    card |= {key: value for key, value in SMALL.items() if key in card}
    if place == "card":
        return card
    attention, mlp = ATTENTION[architecture], MLP[architecture]
    names = {"attention": attention, "MLP": mlp, "both": attention + mlp}[place]
    if card["kind"] == "bottleneck":
        default_placement = next(iter(card["placement"].values()))
        return {**card, "placement": {name: card["placement"].get(name, default_placement) for name in names}}
    if "feedforward_modules" in card:
        card["feedforward_modules"] = [name for name in names if name in mlp]
    return {**card, "target_modules": names}


TOKENIZER = SimpleNamespace(eos_token_id=2, pad_token_id=0)


@cache
def shared_base(architecture):
    return model_of(architecture, sharpness=3.0)


def new_base(architecture):
    return copy.deepcopy(shared_base(architecture))


def draw_rows():
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, 64, (length,), generator=generator).tolist() for length in (3, 7, 12)]


def compute_loss(model):
    ids = torch.tensor([draw_rows()[2], draw_rows()[2][::-1]])
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return torch.nn.functional.cross_entropy(logits[:, -12:-1].float().flatten(0, 1), ids[:, 1:].flatten())


def train(model, *, steps, learning_rate):
    """Take optimizer steps as the training stage does; return the loss before and after."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)
    model.train()
    losses = []
    for step in range(steps):
        loss = compute_loss(model)
        losses.append(loss.item())
        penalty = methods.loss_penalty(model)
        (loss if penalty is None else loss + 0.1 * penalty).backward()
        optimizer.step()
        methods.finish_step(model, step + 1)
        optimizer.zero_grad()
    model.eval()
    with torch.no_grad():
        return losses[0], compute_loss(model).item()


def compute_logits(model):
    ids = torch.tensor([draw_rows()[1]])
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


def load(architecture, folder):
    """Return the saved model: an adapter on a fresh base, or (full) the whole model."""
    if not (folder / "adapter_config.json").exists():
        return AutoModelForCausalLM.from_pretrained(folder).eval()
    return peft.PeftModel.from_pretrained(new_base(architecture), folder).eval()


def compute_saved_logits(architecture, folder):
    """Return the saved model's logits; runs in another process."""
    return compute_logits(load(architecture, folder)).numpy()


@pytest.fixture(scope="module")
def logits_in_new_process():
    """A function that computes logits in a new process, from the saved files alone."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        yield lambda *arguments: torch.from_numpy(pool.apply(compute_saved_logits, arguments))


@pytest.mark.parametrize(("method", "architecture", "place"), mark_further_cells(list_cells()))
def test_cell(method, architecture, place, tmp_path, logits_in_new_process):
    card = methods.fill_schedule(small_card(method, architecture, place), steps=3)
    if (method, architecture) in IMPOSSIBLE:
        with pytest.raises(UserError, match=IMPOSSIBLE[method, architecture][1]):
            add_adapter(new_base(architecture), card, architecture=architecture, seed=0)
        return
    model = add_adapter(new_base(architecture), card, architecture=architecture, seed=0)
    first = tmp_path / "first" if methods.takes_weights_from_base(model) else None
    if first:
        methods.save_trained(model, first, tokenizer=None, initial_weights=None)
    check_training(model, learning_rate=LEARNING_RATES.get(method, 1e-3))
    folder = save(model, tmp_path / "adapter", first)
    reloaded = load(architecture, folder)
    tolerance = 1e-5 if method in ROUNDED else 0
    for actual in (compute_logits(reloaded), logits_in_new_process(architecture, folder)):
        torch.testing.assert_close(actual, compute_logits(model), rtol=0, atol=tolerance)
    assert isinstance(reloaded, peft.PeftModel) == (method not in STAYS_ON)
    if method not in STAYS_ON:
        with reloaded.disable_adapter():
            assert torch.equal(compute_logits(reloaded), compute_logits(shared_base(architecture)))
    if place == "card":
        check_batches(reloaded)
        return
    batched, alone = generate(reloaded, draw_rows())
    assert batched == alone


def check_batches(model):
    """Check that 64 rows give the same tokens at once, shuffled, in batches of eight and alone, greedily and with beams."""
    shuffled = random.Random(5).sample(range(64), 64)
    rows = draw_prompts(64)
    for beams, count in ((1, 64), (4, 16)):
        config = decoding.configure_decoding(model, TOKENIZER, max_new_tokens=3, num_beams=beams)
        config.eos_token_id = [2, 5, 9]
        batched = decoding.decode(model, rows[:count], config)
        order = [row for row in shuffled if row < count]
        reordered = decoding.decode(model, [rows[row] for row in order], config)
        assert reordered == [batched[row] for row in order]
        eights = [decoding.decode(model, rows[start : start + 8], config) for start in range(0, count, 8)]
        assert [new for part in eights for new in part] == batched
        for row in range(0, count, count // 8):
            assert decoding.decode(model, [rows[row]], config) == [batched[row]]


def draw_prompts(count):
    generator = torch.Generator().manual_seed(2)
    # a common start, like the words of a template
    start = [1, *range(3, 13)]
    endings = [
        torch.randint(3, 64, (1 + 5 * row % 23,), generator=generator).tolist() for row in range(count)
    ]
    return [start + ending for ending in endings]


def check_training(model, *, learning_rate):
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    start, end = train(model, steps=3, learning_rate=learning_rate)
    assert end < start
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed
    assert changed <= {name for name, p in model.named_parameters() if p.requires_grad}


def save(model, folder, first):
    folder.mkdir()
    tokenizer = SimpleNamespace(save_pretrained=lambda folder: None)
    methods.save_trained(model, folder, tokenizer=tokenizer, initial_weights=first)
    return folder


def generate(model, rows, *, ends=(2,), new_tokens=4):
    """Return the new tokens of the rows in a single batch, and each row alone."""
    config = decoding.configure_decoding(model, TOKENIZER, max_new_tokens=new_tokens, num_beams=1)
    config.eos_token_id = list(ends)
    return decoding.decode(model, rows, config), [decoding.decode(model, [row], config)[0] for row in rows]


@pytest.mark.parametrize("method", [None, "lora", "prefix-tuning", "prompt-tuning"])
@pytest.mark.parametrize("architecture", LINEAR_MODULES)
def test_rows_that_end_early_change_no_other_row(method, architecture):
    model = new_base(architecture)
    if method:
        card = small_card(method, architecture, "card")
        model = add_adapter(model, card, architecture=architecture, seed=0).eval()
    generator = torch.Generator().manual_seed(2)
    lengths = [2 + row % 11 for row in range(16)]
    rows = [torch.randint(3, 64, (length,), generator=generator).tolist() for length in lengths]
    batched, alone = generate(model, rows, ends=[2, *range(5, 64, 3)], new_tokens=12)
    assert batched == alone
    assert len({len(row) for row in batched}) > 1


def add_adapter_to_llama(method, base):
    card = methods.fill_schedule(small_card(method, "llama", "card"), steps=3)
    return add_adapter(base, card, architecture="llama", seed=0)


@pytest.mark.parametrize("method", METHODS)
def test_a_bfloat16_base_keeps_its_dtype_and_its_adapter_is_float32(method):
    model = add_adapter_to_llama(method, new_base("llama").to(torch.bfloat16))
    types = {parameter.dtype for parameter in model.parameters() if parameter.requires_grad}
    assert types == {torch.float32}
    start, end = train(model, steps=3, learning_rate=5 * LEARNING_RATES.get(method, 1e-3))
    assert end < start
    # a fully trained model is float32 throughout
    assert compute_logits(model).dtype == (torch.float32 if method in STAYS_ON else torch.bfloat16)


@pytest.mark.parametrize("method", [name for name in METHODS if name != "prefix-tuning"])
def test_gradient_checkpointing_gives_the_same_gradients(method):
    gradients = []
    for checkpointing in (False, True):
        model = add_adapter_to_llama(method, new_base("llama")).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        compute_loss(model).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], atol=1e-6), name


def assert_page_is_current():
    from tests import support_matrix

    expected = support_matrix.page(dict.fromkeys(list_cells(), "passed"))
    current = support_matrix.PAGE.read_text(encoding="utf-8") == expected
    assert current, "docs/support-matrix.md is stale; run: python -m pipeline regenerate --matrix"


def test_the_page_is_up_to_date_with_the_matrix():
    assert_page_is_current()


@pytest.mark.parametrize("change", ["version", "architecture", "method", "impossible cell"])
def test_a_stale_page_is_an_error_with_the_command(change, monkeypatch):
    from tests.support_matrix import matrix

    if change == "version":
        monkeypatch.setattr(peft, "__version__", "0.0.1")
    elif change == "architecture":
        monkeypatch.setitem(LINEAR_MODULES, "new", ("fc",))
    elif change == "method":
        monkeypatch.setattr(matrix, "METHODS", matrix.METHODS[1:])
    else:
        monkeypatch.delitem(matrix.IMPOSSIBLE, next(iter(matrix.IMPOSSIBLE)))
    with pytest.raises(AssertionError, match="stale; run: python -m pipeline regenerate --matrix"):
        assert_page_is_current()
