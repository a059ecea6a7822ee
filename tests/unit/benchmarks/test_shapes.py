"""The estimates of benchmarks.shapes, compared with models that are really run."""

import weakref

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from benchmarks.shapes.__main__ import smallest_memory
from benchmarks.shapes.counts import (
    Counts,
    adapt_on_meta,
    count_model,
    count_pass,
    count_trainable,
    method_fields,
    run_pass,
)
from benchmarks.shapes.memory import LOGIT_BYTES, NF4_BITS, cache_bytes, count_weights
from benchmarks.shapes.models import SHAPES, Shape, build_on_meta
from pipeline.adapters import add_adapter

ROWS, TOKENS, HEADS, LAYERS = 3, 16, 4, 2
TINY = Shape(
    "llama",
    "llama",
    {
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "vocab_size": 128,
    },
    "",
)


def real_pass(method):
    """Run a pass of the tiny model with real float32 weights."""
    model = build_on_meta(TINY, dtype="float32").to_empty(device="cpu")
    model.init_weights()
    adapted = add_adapter(model, method_fields(method, "llama"), architecture="llama", seed=0).train()
    return run_pass(adapted, torch.zeros(ROWS, TOKENS, dtype=torch.int64), dtype="float32")


@pytest.mark.parametrize("method", ["lora", "series", "parallel", "prefix-tuning", "full"])
def test_counts_without_data_are_those_of_a_real_run(method):
    # no autocast, as in the real run
    adapted = add_adapter(
        build_on_meta(TINY, dtype="float32"), method_fields(method, "llama"), architecture="llama", seed=0
    )
    counted = count_pass(adapted, rows=ROWS, tokens=TOKENS, dtype="float32")
    measured = real_pass(method)
    # with data, transformers leaves out a mask that masks nothing
    assert counted.kept == pytest.approx(measured.kept, rel=0.02)
    for own, real in ((counted.forward, measured.forward), (counted.backward, measured.backward)):
        assert sum(flop for flop, _ in own) == sum(flop for flop, _ in real)


def test_flop_are_those_of_torch_and_of_attention():
    with FlopCounterMode(display=False) as counter:
        measured = real_pass("lora")
    query = (ROWS, HEADS, TOKENS, 64 // HEADS)
    # torch does not count attention on a CPU
    attention = LAYERS * (
        sdpa_flop_count(query, query, query) + sdpa_backward_flop_count(query, query, query, query)
    )
    total = sum(flop for flop, _ in measured.forward + measured.backward)
    assert total == counter.get_total_flops() + attention


def test_a_frozen_base_costs_four_flop_a_weight_and_token_and_a_trained_one_six():
    shape = Shape("llama", "llama", {**TINY.config, "hidden_size": 1024, "intermediate_size": 2816}, "")
    for method, flop in (("series", 4), ("full", 6)):
        counts = count_model(shape, method, rows=1, tokens=TOKENS)
        linear = count_weights(build_on_meta(shape)).linear
        if method == "series":
            linear += count_trainable(adapt_on_meta(shape, method)) * 6 / 4
        assert sum(counts.flop()) / TOKENS / linear == pytest.approx(flop, rel=0.1)


@pytest.mark.parametrize("method", ["lora", "prefix-tuning"])
def test_few_layers_stand_for_all(method):
    shape = Shape("llama", "llama", {**TINY.config, "num_hidden_layers": 7}, "")
    counts = count_model(shape, method, rows=ROWS, tokens=TOKENS)
    whole = count_pass(adapt_on_meta(shape, method), rows=ROWS, tokens=TOKENS)
    assert counts.kept() == whole.kept
    assert counts.flop() == tuple(sum(flop for flop, _ in part) for part in (whole.forward, whole.backward))
    assert counts.seconds(1.0, 2.0) == pytest.approx(
        tuple(sum(max(flop, moved / 2) for flop, moved in part) for part in (whole.forward, whole.backward))
    )


def test_a_layer_keeps_what_its_formula_says():
    counts = Counts(
        *(
            count_pass(
                add_adapter(
                    build_on_meta(TINY, layers=layers, dtype="float32"),
                    method_fields("series", "llama"),
                    architecture="llama",
                    seed=0,
                ),
                rows=ROWS,
                tokens=TOKENS,
                dtype="float32",
            )
            for layers in (2, 4)
        ),
        LAYERS,
    )
    hidden, intermediate, bottleneck = 64, 160, 256
    # two norms (input; the second one's output is the input of two adapters), q, k, v and the attention's output;
    # gate, its activation and up; the inner activations of two adapters
    kept = 2 * hidden + hidden + 4 * hidden + 3 * intermediate + 2 * bottleneck
    # the norms' factors, and the sums of the attention's exponentials
    kept += 2 + HEADS
    assert counts.kept_by_layer() / (4 * ROWS * TOKENS) == pytest.approx(kept, rel=0.05)


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        ("LLaMA-7B", 6_738_415_616),
        ("LLaMA-13B", 13_015_864_320),
        ("BLOOMZ-7B1", 7_069_016_064),
        ("GPT-J-6B", 6_050_882_784),
        ("Llama 3 8B", 8_030_261_248),
        ("Mistral 7B", 7_241_732_096),
        ("Qwen 2.5 1.5B", 1_543_714_304),
        ("Qwen 2.5 7B", 7_615_616_512),
        ("Qwen3 8B", 8_190_735_360),
        ("Gemma 2 9B", 9_241_705_984),
        ("Gemma 3 1B", 999_885_952),
    ],
)
def test_bases_have_the_published_numbers_of_parameters(model, parameters):
    weights = count_weights(build_on_meta(SHAPES[model]))
    assert weights.linear + weights.rest == parameters
    assert weights.size("nf4") < weights.size("int8") < weights.size("bf16") == 2 * parameters


def test_nf4_with_double_quantization_has_the_published_bits():
    assert pytest.approx(4.127, abs=5e-4) == NF4_BITS


def test_the_cache_of_llama_7b_has_512_kib_a_token():
    assert cache_bytes(build_on_meta(SHAPES["LLaMA-7B"]).config) == 512 * 1024


def test_the_smallest_card_leaves_room_for_the_process():
    assert smallest_memory(22e9) == "24"
    assert smallest_memory(23e9) == "40"
    assert smallest_memory(80e9) == "none"


class PeakMemory(TorchDispatchMode):
    """The most bytes of tensors that are alive at once, of those created within the context."""

    def __init__(self):
        super().__init__()
        self.alive = self.peak = 0
        self.seen = weakref.WeakSet()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage() not in self.seen:
                storage = leaf.untyped_storage()
                self.seen.add(storage)
                self.alive += storage.nbytes()
                weakref.finalize(storage, self.free, storage.nbytes())
        self.peak = max(self.peak, self.alive)
        return out

    def free(self, size):
        self.alive -= size


def test_whole_logits_take_the_bytes_of_their_formula():
    tokens, hidden, vocabulary = 64, 8, 4096
    with FakeTensorMode():
        states = torch.zeros(tokens, hidden, dtype=torch.bfloat16, requires_grad=True)
        head = torch.zeros(vocabulary, hidden, dtype=torch.bfloat16)
        targets = torch.zeros(tokens, dtype=torch.int64)
        with PeakMemory() as memory:

            def loss():
                # as in pipeline.models.loss, the logits' last reference goes before the backward pass
                return cross_entropy((states @ head.T).float(), targets, reduction="sum")

            loss().backward()
    assert memory.peak == pytest.approx(LOGIT_BYTES * tokens * vocabulary, rel=0.05)
