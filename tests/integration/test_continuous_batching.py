"""Continuous batching writes the answers of our own search, where it may run, and run.json says whether it did."""

import random
import re
from types import SimpleNamespace

import pytest
import torch

from pipeline.adapters import add_adapter
from pipeline.adapters.precision import avoid_casts, compute_in
from pipeline.core.io import read_json
from pipeline.evaluate.generation import decoding
from pipeline.evaluate.generation.generate import generate
from pipeline.evaluate.generation.search.continuous import (
    PAGED_ARCHITECTURES,
    Pages,
    continuous_refusal,
)
from pipeline.params.machine import MachineSettings
from tests.integration.generation_cases import BEAMS, GREEDY, request, task, write_prompts
from tests.tiny import FAMILY, linear_modules, model_of, save_base

LORA = {"kind": "peft", "peft_type": "LORA", "r": 4, "lora_alpha": 32, "init_lora_weights": False}
BOTTLENECK = {"kind": "bottleneck", "placement": "after", "bottleneck_size": 8, "init_weights": "normal"}
PREFIX = {"kind": "peft", "peft_type": "PREFIX_TUNING", "num_virtual_tokens": 5}
METHODS = {"none": None, "lora": LORA, "bottleneck": BOTTLENECK}
OTHERS = sorted(PAGED_ARCHITECTURES - {"llama"})
# a cache of three pages: rows wait for pages, and prompts are read in several passes
SMALL = Pages(768, "float32")


TOKENIZER = SimpleNamespace(eos_token_id=2, pad_token_id=0)


def adapted(architecture, method):
    model = model_of(architecture)
    if method is None:
        return model
    targets = {} if method is PREFIX else {"target_modules": sorted(linear_modules(model))}
    model = add_adapter(model, {**method, **targets}, architecture=architecture, seed=3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "bottleneck_up" in name and parameter.dim() > 1:
                # so that the adapter changes answers
                parameter.mul_(30)
    return model.eval()


def draw_prompts(n=14, longest=90):
    rng = random.Random(0)
    return [[rng.randrange(3, 64) for _ in range(rng.randint(8, longest))] for _ in range(n)]


def configure(model, tokens=16):
    return decoding.configure_decoding(model, TOKENIZER, max_new_tokens=tokens, num_beams=1)


@pytest.mark.parametrize(
    ("architecture", "method"),
    [
        ("llama", "none"),
        *[pytest.param("llama", method, marks=pytest.mark.slow) for method in ("lora", "bottleneck")],
        *[pytest.param(name, "lora", marks=pytest.mark.slow) for name in OTHERS],
        *[pytest.param(name, "bottleneck", marks=pytest.mark.exhaustive) for name in OTHERS],
    ],
)
def test_tokens_equal_those_of_our_search(architecture, method):
    model, prompts = adapted(architecture, METHODS[method]), draw_prompts()
    config = configure(model)
    expected = decoding.decode(model, prompts, config)
    assert continuous_refusal(model, num_beams=1, masked=True, dtype="float32") is None
    assert decoding.decode(model, prompts, config, pages=SMALL) == expected
    # an answer that ignored its prompt would differ: the sixth token from the end decides some of them
    changed = [[*prompt[:-6], prompt[-6] % 60 + 3, *prompt[-5:]] for prompt in prompts]
    others = decoding.decode(model, changed, config)
    assert sum(row != other for row, other in zip(expected, others, strict=True)) >= 3


def test_an_answer_ends_once_it_is_complete():
    model, prompts = model_of("llama"), draw_prompts()
    config = configure(model, tokens=40)
    alone = decoding.decode(model, prompts, config)
    words = {row[11] for row in alone if len(row) > 11}

    def completion(new):
        return bool(words.intersection(new))

    expected = decoding.decode(model, prompts, config, completion)
    assert any(len(row) < len(whole) for row, whole in zip(expected, alone, strict=True))
    assert decoding.decode(model, prompts, config, completion, pages=SMALL) == expected


def test_the_thread_computes_under_autocast():
    model = adapted("llama", LORA).to(torch.bfloat16)
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.float() if "lora_" in name else parameter.data
    # as evaluation does; without autocast, products of both dtypes then fail
    avoid_casts(model)
    prompts, config = draw_prompts(), configure(model, tokens=4)
    assert continuous_refusal(model, num_beams=1, masked=True, dtype="bfloat16") is None
    with compute_in("bfloat16", "cpu"):
        expected = decoding.decode(model, prompts, config)
    rows = decoding.decode(model, prompts, config, pages=Pages(2048, "bfloat16"))
    # rounding may decide single tokens
    assert sum(row[0] == other[0] for row, other in zip(rows, expected, strict=True)) > 10


def test_an_error_in_the_thread_is_the_error_of_the_call():
    model = model_of("llama")
    config = configure(model)

    def fail(*_):
        raise torch.OutOfMemoryError("out of memory")

    model.model.layers[1].register_forward_pre_hook(fail)
    with pytest.raises(torch.OutOfMemoryError):
        decoding.decode(model, draw_prompts(), config, pages=SMALL)


def test_half_of_the_prompts_need_a_smaller_cache(monkeypatch):
    model, prompts = model_of("llama"), draw_prompts()
    config, sizes = configure(model), []
    start = type(model).continuous_batching_context_manager

    def measured(self, **options):
        sizes.append(options["continuous_batching_config"].num_blocks)
        return start(self, **options)

    monkeypatch.setattr(type(model), "continuous_batching_context_manager", measured)
    # far more memory than these prompts can use
    large = Pages(2**20, "float32")
    expected = decoding.decode(model, prompts, config)
    assert decoding.decode(model, prompts, config, pages=large) == expected
    decoding.decode(model, prompts[:2], config, pages=large)
    # a batch that does not fit in memory is divided, which must help
    assert sizes[1] < sizes[0] < 2**20 // 256


@pytest.mark.parametrize(
    ("architecture", "method", "options", "reason"),
    [
        ("llama", None, {"num_beams": 4}, "the search has 4 beams"),
        ("llama", None, {"masked": False}, "padding is not masked"),
        ("llama", PREFIX, {}, "the method adds tokens to the prompt"),
        ("llama", None, {"dtype": "bfloat16"}, "keys are computed in bfloat16, and weights are float32"),
        *[
            (name, None, {}, f"no test proves .* {name}")
            for name in sorted(FAMILY.keys() - PAGED_ARCHITECTURES)
        ],
    ],
)
def test_our_own_search_runs_where_answers_may_differ(architecture, method, options, reason):
    options = {"num_beams": 1, "masked": True, "dtype": "float32", **options}
    refusal = continuous_refusal(adapted(architecture, method), **options)
    assert refusal is not None
    assert re.fullmatch(reason, refusal)


@pytest.mark.slow
def test_run_json_says_what_ran_and_a_killed_job_resumes(tmp_path, monkeypatch):
    save_base("llama", tmp_path / "base")
    prompts = write_prompts(tmp_path / "prompts.parquet", n=12)
    tasks = [task("greedy", prompts, "g", GREEDY), task("beams", prompts, "b", BEAMS)]
    machine = MachineSettings(continuous_batching=True, batch_tokens=20)

    def answer(name, **settings):
        output = tmp_path / name / "answers"
        generate(tmp_path / "base", request(None, tasks, output), device="cpu", manifest={}, **settings)
        return [(output / f"{row.name}.jsonl").read_bytes() for row in tasks], read_json(output / "run.json")

    expected, _ = answer("own")
    whole, calls = decoding.decode, []

    def interrupted(*arguments, **options):
        calls.append(options)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(*arguments, **options)

    monkeypatch.setattr(decoding, "decode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        answer("continuous", machine=machine)
    monkeypatch.setattr(decoding, "decode", whole)
    rows, info = answer("continuous", machine=machine)
    assert rows == expected
    assert info["machine"] == {"continuous_batching": True, "batch_tokens": 20}
    assert info["tasks"]["greedy"]["continuous_batching"] == {"used": True}
    # the first group was answered before the interruption
    assert 0 < info["tasks"]["greedy"]["answered"] < 12
    why = "the search has 3 beams"
    assert info["tasks"]["beams"]["continuous_batching"] == {"used": False, "why": why}
