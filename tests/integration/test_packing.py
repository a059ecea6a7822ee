"""Examples that share a row: the same loss and gradients as padded ones, and a training that falls back to padding."""

import json

import pytest
from accelerate import PartialState
from safetensors.torch import load_file

from pipeline.adapters import add_adapter, methods
from pipeline.models import head
from pipeline.models.loss import PACKED, choose_packing, summed_loss
from pipeline.models.train import train
from pipeline.params.architectures import PEFT_TYPES, UNSUPPORTED_PEFT_TYPES
from pipeline.params.base import Training
from pipeline.params.machine import MachineSettings
from tests.elsewhere import limit_passes
from tests.integration.test_loss_equality import CPU, LENGTHS, WORDS, gradients, make_examples, make_model
from tests.integration.test_peft_types import SETTINGS
from tests.integration.training_cases import LORA, PREFIX, TARGETS
from tests.tiny import FAMILY, NAMED_LIKE_LLAMA, model_of

# the row of all examples has 125 tokens, more than these positions
POSITIONS = {"gpt2": {"n_positions": 64}, "gptj": {"n_positions": 64}}
# methods with virtual tokens
PADDED_TYPES = {
    *("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT", "CARTRIDGE", "ADAPTION_PROMPT"),
}
# the examples have 5 to 15 tokens
TRAINING = Training(
    batch_size=4, epochs=1, warmup_steps=2, learning_rate=1e-2, logging_steps=3, val_set_size=4
)
# peft warns about its own methods
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def packed_against_padded(model):
    """The largest difference of the loss and of a gradient, relative to the largest number in each."""
    examples = make_examples(LENGTHS)
    expected_loss, expected = gradients(model, summed_loss(model, examples, pad=0, device=CPU))
    loss, computed = gradients(model, summed_loss(model, examples, pad=0, device=CPU, packed=True))
    assert computed.keys() == expected.keys()
    differences = [
        float((gradient - expected[name]).abs().max() / expected[name].abs().max().clamp(min=1e-6))
        for name, gradient in computed.items()
    ]
    return max(*differences, float((loss - expected_loss).abs() / expected_loss))


@pytest.mark.parametrize("architecture", sorted(PACKED))
def test_packed_examples_have_the_loss_and_gradients_of_padded_ones(architecture):
    changes = POSITIONS.get(architecture, {"max_position_embeddings": 64})
    model = model_of(architecture, sharpness=2.0, **changes).train()
    assert packed_against_padded(model) < 2e-6


@pytest.mark.parametrize("architecture", [*FAMILY, *NAMED_LIKE_LLAMA])
def test_architectures_that_would_mix_packed_examples_are_padded(architecture, capsys):
    model = model_of(architecture, sharpness=2.0, **POSITIONS.get(architecture, {}))
    packed = choose_packing(model, True, PartialState(cpu=True))
    assert packed == (architecture in PACKED)
    message = f"packing: not possible with model_type {architecture}; examples are padded"
    assert (message in capsys.readouterr().err) == (not packed)
    if architecture in ("bloom", "opt"):
        assert packed_against_padded(model) > 1e-2


def test_examples_are_padded_unless_the_setting_says_otherwise():
    model = model_of("llama")
    assert [choose_packing(model, setting, PartialState(cpu=True)) for setting in (None, False, True)] == [
        *(False, False, True)
    ]


@pytest.mark.parametrize("peft_type", [name for name in PEFT_TYPES if name not in UNSUPPORTED_PEFT_TYPES])
def test_every_method_is_packed_or_padded(peft_type):
    base = model_of("llama", sharpness=2.0)
    method = {"kind": "peft", "peft_type": peft_type, **SETTINGS.get(peft_type, {})}
    method = methods.fill_schedule(method, steps=10)
    model = add_adapter(base, method, architecture="llama", seed=3).eval()
    packed = choose_packing(model, True, PartialState(cpu=True))
    assert packed == (peft_type not in PADDED_TYPES)
    if packed:
        assert packed_against_padded(model) < 2e-5


@pytest.mark.parametrize("kind", ["lora", "series", "parallel", "trained head"])
@pytest.mark.parametrize("architecture", ["llama", "gptj"])
def test_checkpoints_and_a_head_in_pieces_go_with_packing(monkeypatch, architecture, kind):
    for function in (head.needs_pieces, head.loss_of_hidden):
        monkeypatch.setitem(function.__kwdefaults__, "most", 40 * WORDS)
    model = make_model(architecture, kind, vocab_size=WORDS)
    base = model.get_base_model()
    base.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    assert any(getattr(module, "gradient_checkpointing", False) for module in base.modules())
    assert packed_against_padded(model) < 2e-6


def options(bases, prompts, output, *, method=LORA, architecture="llama", dropout=0.0):
    lora = {**LORA, "lora_dropout": dropout, "target_modules": TARGETS[architecture]}
    return {
        "base": bases[architecture],
        "prompts": prompts,
        "method": lora if method is LORA else method,
        "training": TRAINING,
        "seed": 1,
        "output": output,
        "manifest": {"fingerprint": "abc"},
    }


def run(*arguments, settings, **changes):
    """Train; return the bytes of the adapter and its run.json."""
    job = options(*arguments, **changes)
    train(**job, validation=None, device="cpu", machine=MachineSettings(**settings))
    output = job["output"]
    return (output / "adapter_model.safetensors").read_bytes(), json.loads((output / "run.json").read_text())


def test_a_packed_training_learns_what_a_padded_one_does(bases, prompts, tmp_path, monkeypatch):
    passes = []
    limit_passes(10**6, passes, patch=monkeypatch.setattr)
    _, record = run(bases, prompts, tmp_path / "packed", settings={"packing": True, "micro_batch_tokens": 30})
    assert (record["packing"], record["machine"]["packing"]) == (True, True)
    shapes = [(len(ids), len(ids[0])) for ids, _ in passes]
    # no padding counts: several examples of up to 15 tokens share a row of 30
    assert {count for count, _ in shapes} == {1}
    assert 20 < max(tokens for _, tokens in shapes) <= 30
    _, record = run(bases, prompts, tmp_path / "padded", settings={})
    assert "packing" not in record
    packed, padded = (
        load_file(tmp_path / name / "adapter_model.safetensors") for name in ("packed", "padded")
    )
    assert all((packed[name] - weight).abs().max() < 1e-5 for name, weight in padded.items())
    packed, padded = (
        [json.loads(line) for line in (tmp_path / name / "history.jsonl").read_text().splitlines()]
        for name in ("packed", "padded")
    )
    assert [row.get("val_loss", 0) for row in packed] == pytest.approx(
        [row.get("val_loss", 0) for row in padded], abs=1e-4
    )


def test_out_of_memory_halves_the_budget_of_packed_rows(bases, prompts, tmp_path, monkeypatch, capsys):
    settings = {"packing": True, "micro_batch_tokens": 30}
    smaller, _ = run(bases, prompts, tmp_path / "smaller", settings=settings, dropout=0.1)
    limit_passes(30, patch=monkeypatch.setattr)
    halved, record = run(
        bases, prompts, tmp_path / "halved", settings={**settings, "micro_batch_tokens": 60}, dropout=0.1
    )
    assert halved == smaller
    assert record["micro_batch_tokens"] == 30
    assert "out of memory with 60 tokens per pass; trying again with 30" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("architecture", "method", "obstacle"),
    [("bloom", LORA, "model_type bloom"), ("llama", PREFIX, "peft_type PREFIX_TUNING")],
)
def test_a_training_that_cannot_pack_is_padded_and_its_record_says_so(
    bases, prompts, tmp_path, capsys, architecture, method, obstacle
):
    changes = {"architecture": architecture, "method": method, "dropout": 0.1}
    packed, record = run(bases, prompts, tmp_path / "packed", settings={"packing": True}, **changes)
    assert (record["packing"], record["machine"]) == (False, {"packing": True})
    assert f"packing: not possible with {obstacle}; examples are padded" in capsys.readouterr().err
    padded, _ = run(bases, prompts, tmp_path / "padded", settings={}, **changes)
    assert packed == padded
