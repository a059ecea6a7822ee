"""Methods x architectures x places, from one table: each cell runs, or says why it cannot and is held to that.

``python -m tests.support_matrix`` runs this file and writes docs/support-matrix.md from what came of it.
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
from pipeline.params.reading import PARAMS
from pipeline.params.resolve import resolve_method
from pipeline.params.studies import Entry
from tests.tiny import model_of

METHODS = sorted(path.stem for path in (PARAMS / "methods").glob("*.yaml"))
WITHOUT_MODULES = ("full", "p-tuning", "prefix-tuning", "prompt-tuning")
PLACES = ("card", "attention", "MLP", "both")
CHECKS = (
    "three training steps lower the loss on a fixed batch and change no weight but the adapter's",
    "saved and loaded onto a fresh base in a new process, it gives identical logits",
    "disabled, it gives the bare base's logits, to the bit",
    "generating in a batch of unequal prompts gives what each prompt gives alone",
)

ATTENTION = {
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj"],
    "bloom": ["query_key_value", "self_attention.dense"],
    "gptj": ["q_proj", "k_proj", "v_proj", "out_proj"],
    "opt": ["q_proj", "k_proj", "v_proj", "out_proj"],
    "gpt2": ["c_attn", "attn.c_proj"],
    "gpt_neo": ["q_proj", "k_proj", "v_proj", "out_proj"],
    "gpt_neox": ["query_key_value", "attention.dense"],
}
MLP = {
    "llama": ["gate_proj", "up_proj", "down_proj"],
    "bloom": ["dense_h_to_4h", "dense_4h_to_h"],
    "gptj": ["fc_in", "fc_out"],
    "opt": ["fc1", "fc2"],
    "gpt2": ["c_fc", "mlp.c_proj"],
    "gpt_neo": ["c_fc", "c_proj"],
    "gpt_neox": ["dense_h_to_4h", "dense_4h_to_h"],
}
for like_llama in ("mistral", "qwen3", "gemma3_text", "olmo2"):
    ATTENTION[like_llama], MLP[like_llama] = ATTENTION["llama"], MLP["llama"]

SMALL = {
    "bottleneck_size": 4,
    "r": 4,
    "lora_alpha": 8,
    "lora_dropout": 0.0,
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

# (method, architecture): why it cannot be, and the refusal that says so
CANNOT = {
    ("oft", "gpt2"): ("peft's OFT takes no Conv1D, which GPT-2's maps are", "Conv1D.* is not supported")
}
# what is saved and loaded gives the same logits up to rounding, not the same bits
ROUNDED = {
    "adalora": "pruned ranks are left out of the file, so sums are shorter",
    "pissa": "saved as LoRA of twice the rank on the untouched base",
}
# what cannot be switched off
STAYS_ON = {"full": "there is no adapter: the base's own weights are trained"}


def places(method):
    return PLACES[:1] if method in WITHOUT_MODULES else PLACES


def cells():
    return [
        (method, architecture, place)
        for method in METHODS
        for architecture in LINEAR_MODULES
        for place in places(method)
    ]


def settings(method, architecture, place):
    """Return a card's fields with small sizes, on the modules of a place."""
    card = resolve_method(Entry(method=method), architecture=architecture, where="matrix")
    card |= {key: value for key, value in SMALL.items() if key in card}
    if place == "card":
        return card
    attention, mlp = ATTENTION[architecture], MLP[architecture]
    names = {"attention": attention, "MLP": mlp, "both": attention + mlp}[place]
    if card["kind"] == "bottleneck":
        usual = next(iter(card["placement"].values()))
        return {**card, "placement": {name: card["placement"].get(name, usual) for name in names}}
    if "feedforward_modules" in card:
        card["feedforward_modules"] = [name for name in names if name in mlp]
    return {**card, "target_modules": names}


TOKENIZER = SimpleNamespace(eos_token_id=2, pad_token_id=0)


@cache
def base_of(architecture):
    return model_of(architecture, sharpness=3.0)


def fresh(architecture):
    return copy.deepcopy(base_of(architecture))


def rows_of_tokens():
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, 64, (length,), generator=generator).tolist() for length in (3, 7, 12)]


def loss_of(model):
    ids = torch.tensor([rows_of_tokens()[2], rows_of_tokens()[2][::-1]])
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return torch.nn.functional.cross_entropy(logits[:, -12:-1].float().flatten(0, 1), ids[:, 1:].flatten())


def trained(model, *, steps, learning_rate):
    """Take optimizer steps as the training stage does; return the loss before and after."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)
    model.train()
    losses = []
    for step in range(steps):
        loss = loss_of(model)
        losses.append(loss.item())
        added = methods.loss_penalty(model)
        (loss if added is None else loss + 0.1 * added).backward()
        optimizer.step()
        methods.finish_step(model, step + 1)
        optimizer.zero_grad()
    model.eval()
    with torch.no_grad():
        return losses[0], loss_of(model).item()


def logits_of(model):
    ids = torch.tensor([rows_of_tokens()[1]])
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


def loaded(architecture, folder):
    """Return the saved model: an adapter on a fresh base, or (full) the whole model."""
    if not (folder / "adapter_config.json").exists():
        return AutoModelForCausalLM.from_pretrained(folder).eval()
    return peft.PeftModel.from_pretrained(fresh(architecture), folder).eval()


def logits_of_loaded(architecture, folder):
    """What the other process is asked."""
    return logits_of(loaded(architecture, folder)).numpy()


@pytest.fixture(scope="module")
def elsewhere():
    """A new process that shares nothing with this one but the files."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        yield lambda *given: torch.from_numpy(pool.apply(logits_of_loaded, given))


@pytest.mark.parametrize(("method", "architecture", "place"), cells())
def test_cell(method, architecture, place, tmp_path, elsewhere):
    card = methods.fill_schedule(settings(method, architecture, place), steps=3)
    if (method, architecture) in CANNOT:
        with pytest.raises(UserError, match=CANNOT[method, architecture][1]):
            add_adapter(fresh(architecture), card, architecture=architecture, seed=0)
        return
    model = add_adapter(fresh(architecture), card, architecture=architecture, seed=0)
    first = tmp_path / "first" if methods.takes_weights_from_base(model) else None
    if first:
        methods.save_trained(model, first, tokenizer=None, initial_weights=None)
    check_training(model, learning_rate=LEARNING_RATES.get(method, 1e-3))
    folder = saved(model, tmp_path / "adapter", first)
    again = loaded(architecture, folder)
    tolerance = 1e-5 if method in ROUNDED else 0
    for found in (logits_of(again), elsewhere(architecture, folder)):
        torch.testing.assert_close(found, logits_of(model), rtol=0, atol=tolerance)
    assert isinstance(again, peft.PeftModel) == (method not in STAYS_ON)
    if method not in STAYS_ON:
        with again.disable_adapter():
            assert torch.equal(logits_of(again), logits_of(base_of(architecture)))
    if place == "card":
        check_batches(again)
        return
    together, alone = generated(again, rows_of_tokens())
    assert together == alone


def check_batches(model):
    """Greedy and by beams: 64 rows at once, in another order, in eights and (some of all lengths) alone say the same."""
    shuffled = random.Random(5).sample(range(64), 64)
    rows = prompts_of_many_lengths(64)
    for beams, count in ((1, 64), (4, 16)):
        config = decoding.configure_decoding(model, TOKENIZER, max_new_tokens=3, num_beams=beams)
        config.eos_token_id = [2, 5, 9]
        together = decoding.decode(model, rows[:count], config)
        order = [row for row in shuffled if row < count]
        again = decoding.decode(model, [rows[row] for row in order], config)
        assert again == [together[row] for row in order]
        eights = [decoding.decode(model, rows[start : start + 8], config) for start in range(0, count, 8)]
        assert [new for part in eights for new in part] == together
        for row in range(0, count, count // 8):
            assert decoding.decode(model, [rows[row]], config) == [together[row]]


def prompts_of_many_lengths(count):
    generator = torch.Generator().manual_seed(2)
    start = [1, *range(3, 13)]  # all have the same, as a template's words
    rests = [torch.randint(3, 64, (1 + 5 * row % 23,), generator=generator).tolist() for row in range(count)]
    return [start + rest for rest in rests]


def check_training(model, *, learning_rate):
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    start, end = trained(model, steps=3, learning_rate=learning_rate)
    assert end < start
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed
    assert changed <= {name for name, p in model.named_parameters() if p.requires_grad}


def saved(model, folder, first):
    folder.mkdir()
    tokenizer = SimpleNamespace(save_pretrained=lambda folder: None)
    methods.save_trained(model, folder, tokenizer=tokenizer, initial_weights=first)
    return folder


def generated(model, rows, *, ends=(2,), new_tokens=4):
    """Return the new tokens of the rows as one batch, and as batches of one."""
    config = decoding.configure_decoding(model, TOKENIZER, max_new_tokens=new_tokens, num_beams=1)
    config.eos_token_id = list(ends)
    return decoding.decode(model, rows, config), [decoding.decode(model, [row], config)[0] for row in rows]


@pytest.mark.parametrize("method", [None, "lora", "prefix-tuning", "prompt-tuning"])
@pytest.mark.parametrize("architecture", LINEAR_MODULES)
def test_rows_that_end_and_leave_the_batch_change_no_other(method, architecture):
    model = fresh(architecture)
    if method:
        card = settings(method, architecture, "card")
        model = add_adapter(model, card, architecture=architecture, seed=0).eval()
    generator = torch.Generator().manual_seed(2)
    lengths = [2 + row % 11 for row in range(16)]
    rows = [torch.randint(3, 64, (length,), generator=generator).tolist() for length in lengths]
    together, alone = generated(model, rows, ends=[2, *range(5, 64, 3)], new_tokens=12)
    assert together == alone
    assert len({len(row) for row in together}) > 1


def adapted_llama(method, base):
    card = methods.fill_schedule(settings(method, "llama", "card"), steps=3)
    return add_adapter(base, card, architecture="llama", seed=0)


@pytest.mark.parametrize("method", METHODS)
def test_a_bfloat16_base_keeps_its_type_and_its_adapter_is_float32(method):
    model = adapted_llama(method, fresh("llama").to(torch.bfloat16))
    types = {parameter.dtype for parameter in model.parameters() if parameter.requires_grad}
    assert types == {torch.bfloat16 if method in STAYS_ON else torch.float32}
    start, end = trained(model, steps=3, learning_rate=5 * LEARNING_RATES.get(method, 1e-3))
    assert end < start
    assert logits_of(model).dtype == torch.bfloat16


@pytest.mark.parametrize("method", [name for name in METHODS if name != "prefix-tuning"])
def test_gradient_checkpointing_gives_the_same_gradients(method):
    gradients = []
    for checkpointing in (False, True):
        model = adapted_llama(method, fresh("llama")).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        loss_of(model).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], atol=1e-6), name


def assert_page_is_current():
    from tests import support_matrix

    expected = support_matrix.page(dict.fromkeys(cells(), "passed"))
    current = support_matrix.PAGE.read_text(encoding="utf-8") == expected
    assert current, "docs/support-matrix.md is stale; run: python -m pipeline regenerate --matrix"


def test_the_page_is_what_the_matrix_says():
    assert_page_is_current()


@pytest.mark.parametrize("change", ["version", "architecture", "method", "what cannot be"])
def test_a_page_of_other_versions_methods_or_architectures_is_told_with_the_command(change, monkeypatch):
    from tests.support_matrix import matrix

    if change == "version":
        monkeypatch.setattr(peft, "__version__", "0.0.1")
    elif change == "architecture":
        monkeypatch.setitem(LINEAR_MODULES, "new", ("fc",))
    elif change == "method":
        monkeypatch.setattr(matrix, "METHODS", matrix.METHODS[1:])
    else:
        monkeypatch.delitem(matrix.CANNOT, next(iter(matrix.CANNOT)))
    with pytest.raises(AssertionError, match="stale; run: python -m pipeline regenerate --matrix"):
        assert_page_is_current()
