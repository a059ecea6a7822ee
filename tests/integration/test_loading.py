"""Several models share one load of their base: each answers as it does alone, in any order."""

import pytest
import torch

from pipeline.adapters import add_adapter
from pipeline.core.errors import UserError
from pipeline.core.io import read_json, read_jsonl, write_json, write_jsonl
from pipeline.evaluate.generation.generate import generate_group
from pipeline.evaluate.generation.loading import BaseLoader, _sum_bits
from pipeline.evaluate.generation.rows import is_generated
from pipeline.params.resolve import resolve_method
from pipeline.params.studies import Entry
from tests.integration.generation_cases import (
    BEAMS,
    GREEDY,
    METHODS,
    request,
    run,
    save_adapter,
    task,
    write_prompts,
)
from tests.tiny import CONFIGS, model_of, save_base

CARDS = ("adalora", "adapter-h", "dora", "ia3", "oft", "p-tuning", "pissa", "rslora", "series", "vera")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    return write_prompts(tmp_path_factory.mktemp("prompts") / "prompts.parquet", n=16)


def save_strong_adapter(settings, folder):
    """Save an adapter that changes answers, whatever its method's initial values."""
    model = add_adapter(model_of("llama"), settings, architecture="llama", seed=3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.manual_seed(1)))
    model.save_pretrained(folder)
    return folder


def save_card(name, folder):
    settings = resolve_method(Entry(method=name), architecture="llama", where="test")
    return save_strong_adapter(settings | ({"total_step": 4} if name == "adalora" else {}), folder)


def answers_alone(base, adapters, tasks, folder):
    """Return the answers of each adapter with a load of its own."""
    numbered = enumerate(dict.fromkeys(adapters))
    return {adapter: run(base, adapter, tasks, folder / f"{n}/answers") for n, adapter in numbered}


def answers_of_group(base, adapters, tasks, folder):
    """Return the answers of all adapters, and how often the base was loaded."""
    requests = [request(adapter, tasks, folder / f"{n}/answers") for n, adapter in enumerate(adapters)]
    loads = generate_group(base, requests, device="cpu")
    assert all(map(is_generated, requests))
    missing_base = folder / "no base is needed now"
    return [run(missing_base, request.adapter, tasks, request.output) for request in requests], loads


@pytest.mark.parametrize("architecture", CONFIGS)
def test_models_of_a_group_answer_as_each_does_alone(architecture, bases, prompts, tmp_path):
    base, tasks = bases[architecture], [task("greedy", prompts, "g"), task("beams", prompts, "b", BEAMS)]
    saved = {method: save_adapter(architecture, method, tmp_path / method) for method in METHODS}
    order = [None, *saved.values(), None, *reversed(saved.values())]
    alone = answers_alone(base, order, tasks, tmp_path / "alone")
    grouped, loads = answers_of_group(base, order, tasks, tmp_path / "group")
    assert grouped == [alone[adapter] for adapter in order]
    assert loads == 1
    # each adapter changes the answers
    assert len({str(answers) for answers in alone.values()}) == len(alone)


def test_a_method_leaves_the_base_unchanged_or_the_base_is_loaded_again(bases, prompts, tmp_path):
    base, tasks = bases["llama"], [task("greedy", prompts, "g")]
    saved = {name: save_card(name, tmp_path / name) for name in CARDS}
    lora = {"kind": "peft", "peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]}
    saved["bias"] = save_strong_adapter({**lora, "bias": "all"}, tmp_path / "bias")
    saved["saved whole"] = save_strong_adapter({**lora, "modules_to_save": ["lm_head"]}, tmp_path / "whole")
    # the bare base after each adapter shows what the adapter left behind
    order = [model for adapter in saved.values() for model in (adapter, None)]
    alone = answers_alone(base, order, tasks, tmp_path / "alone")
    grouped, loads = answers_of_group(base, order, tasks, tmp_path / "group")
    for n, adapter in enumerate(order):
        assert grouped[n] == alone[adapter], order[n] or order[n - 1]
    # bias and modules_to_save may change the base itself
    assert loads <= 1 + 2


def test_a_changed_base_is_not_reused(bases):
    loader = BaseLoader(bases["llama"], "cpu", reuse=True)
    model, tokenizer = loader.load(None, "float32")
    loader.release(model, tokenizer, "float32")
    assert loader.load(None, "float32")[0] is model
    with torch.no_grad():
        model.model.norm.weight[0] += 1e-6
    loader.release(model, tokenizer, "float32")
    reloaded, tokenizer = loader.load(None, "float32")
    assert reloaded is not model
    assert loader.loads == 2
    reloaded.config.use_cache = not reloaded.config.use_cache
    loader.release(reloaded, tokenizer, "float32")
    assert loader.load(None, "float32")[0] is not reloaded
    assert loader.loads == 3


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.int8]
)
@pytest.mark.parametrize("length", [1, 3, 8, 21])
def test_one_changed_bit_changes_the_sum_of_a_tensor(dtype, length):
    # a row that begins within its storage
    row = torch.arange(2 * length).remainder(5).to(dtype).reshape(2, length)[1]
    before = _sum_bits(row)
    assert _sum_bits(row.clone()) == before
    for index in range(length):
        changed = row.clone()
        changed[index] = not row[index] if dtype == torch.bool else row[index] + 1
        assert _sum_bits(changed) != before
    assert _sum_bits(torch.zeros(0, dtype=dtype)) == 0


def test_a_merged_adapter_needs_a_load_and_a_full_model_none(bases, prompts, tmp_path):
    merged = [task("merged", prompts, "m", {**GREEDY, "merge_adapter": True})]
    saved = [save_adapter("llama", "lora", tmp_path / "lora")] * 2
    full = tmp_path / "full"
    save_base("llama", full, seed=5)
    order = [*saved, full]
    alone = answers_alone(bases["llama"], order, merged, tmp_path / "alone")
    grouped, loads = answers_of_group(bases["llama"], order, merged, tmp_path / "group")
    assert grouped == [alone[adapter] for adapter in order]
    assert loads == 2


def test_dtypes_do_not_mix(bases, prompts, tmp_path):
    half = task("half", prompts, "h", {**GREEDY, "dtype": "bfloat16"})
    tasks = [task("whole", prompts, "w"), half]
    lora = save_adapter("llama", "lora", tmp_path / "lora")
    order = [lora, None, lora]
    alone = answers_alone(bases["llama"], order, tasks, tmp_path / "alone")
    grouped, _ = answers_of_group(bases["llama"], order, tasks, tmp_path / "group")
    assert grouped == [alone[adapter] for adapter in order]


def test_a_broken_adapter_does_not_stop_the_remaining_models(bases, prompts, tmp_path):
    tasks = [task("greedy", prompts, "g")]
    lora, broken = (save_adapter("llama", "lora", tmp_path / name) for name in ("lora", "broken"))
    (broken / "adapter_model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match="broken: the adapter cannot be loaded"):
        answers_of_group(bases["llama"], [broken, lora], tasks, tmp_path / "group")
    assert not is_generated(request(broken, tasks, tmp_path / "group/0/answers"))
    assert is_generated(request(lora, tasks, tmp_path / "group/1/answers"))
    # its own generate job renames the work folder
    assert not (tmp_path / "group/1/answers").exists()


def test_answers_without_run_json_are_not_taken_as_generated(bases, prompts, tmp_path):
    tasks = [task("one", prompts, "1")]
    bare = request(None, tasks, tmp_path / "answers")
    generate_group(bases["llama"], [bare], device="cpu")
    assert is_generated(bare)
    # as after a kill at the very end
    (tmp_path / ".answers.work/run.json").unlink()
    assert not is_generated(bare)
    run(tmp_path / "no base", None, tasks, tmp_path / "answers")
    assert read_json(tmp_path / "answers/run.json")["tasks"]["one"]["answered"] == 16


def test_a_job_that_earlier_code_began_leaves_run_json_with_the_keys_of_today(bases, prompts, tmp_path):
    tasks = [task("one", prompts, "1"), task("two", prompts, "2")]
    work = tmp_path / ".answers.work"
    write_jsonl(work / "one.jsonl", [{"id": "answered before the update"}])
    write_json(work / ".costs.json", {"one": {"asked": 7, "cut_prompts": 0}})
    run(bases["llama"], None, tasks, tmp_path / "answers")
    costs = read_json(tmp_path / "answers/run.json")["tasks"]
    assert costs["one"] == {"answered": 7, "cut_prompts": 0}
    assert costs["two"]["answered"] == 16


def test_run_json_has_the_cost_of_the_group_job(bases, prompts, tmp_path):
    tasks = [task("one", prompts, "1"), task("two", prompts, "2")]
    answers_of_group(bases["llama"], [None], tasks, tmp_path)
    record = read_json(tmp_path / "0/answers/run.json")
    assert {name: cost["answered"] for name, cost in record["tasks"].items()} == {"one": 16, "two": 16}
    assert record["seconds"] >= sum(cost["seconds"] for cost in record["tasks"].values())
    assert len(read_jsonl(tmp_path / "0/answers/one.jsonl")) == 16
    assert {path.name for path in (tmp_path / "0/answers").iterdir()} == {
        "one.jsonl",
        "two.jsonl",
        "run.json",
        "manifest.json",
    }


def test_a_reused_base_has_its_original_generation_config(bases):
    loader = BaseLoader(bases["llama"], "cpu", reuse=True)
    model, tokenizer = loader.load(None, "float32")
    fresh = model.generation_config.to_dict()
    model.generation_config.max_length = 7
    loader.release(model, tokenizer, "float32")
    assert loader.load(None, "float32")[0] is model
    assert model.generation_config.to_dict() == fresh
