"""Several models at one load of their base: the answers of each are what it gives alone, in any order."""

import pytest
import torch

from pipeline.adapters import add_adapter
from pipeline.core.errors import UserError
from pipeline.core.io import read_json, read_jsonl
from pipeline.evaluate.generation.generate import ask, is_asked
from pipeline.evaluate.generation.loading import Base, _sum_of_bits
from pipeline.params.resolve import resolve_method
from pipeline.params.studies import Entry
from tests.integration.asking import BEAMS, GREEDY, METHODS, run, save_adapter, task, write_prompts
from tests.tiny import CONFIGS, model_of, save_base

CARDS = ("adalora", "adapter-h", "dora", "ia3", "oft", "p-tuning", "pissa", "rslora", "series", "vera")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    return write_prompts(tmp_path_factory.mktemp("prompts") / "prompts.parquet", n=16)


def save(settings, folder):
    """Save an adapter that changes answers, whatever its method starts with."""
    model = add_adapter(model_of("llama"), settings, architecture="llama", seed=3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.manual_seed(1)))
    model.save_pretrained(folder)
    return folder


def of_card(name, folder):
    settings = resolve_method(Entry(method=name), architecture="llama", where="test")
    return save(settings | ({"total_step": 4} if name == "adalora" else {}), folder)


def asked_alone(base, adapter, tasks, folder):
    return run(base, adapter, tasks, folder / "answers")


def asked_together(base, adapters, tasks, folder):
    """Return the answers of all, and how often the base was loaded."""
    models = [
        {
            "name": str(n),
            "adapter": adapter,
            "tasks": tasks,
            "output": folder / f"{n}/answers",
            "siblings": folder / f"{n}",
        }
        for n, adapter in enumerate(adapters)
    ]
    loads = ask(base, models, device="cpu")
    assert all(is_asked(model["output"], tasks) for model in models)
    nowhere = folder / "no base is needed any more"
    return [run(nowhere, model["adapter"], tasks, model["output"]) for model in models], loads


@pytest.mark.parametrize("architecture", CONFIGS)
def test_models_asked_together_answer_as_each_alone(architecture, bases, prompts, tmp_path):
    base, tasks = bases[architecture], [task("greedy", prompts, "g"), task("beams", prompts, "b", BEAMS)]
    saved = {method: save_adapter(architecture, method, tmp_path / method) for method in METHODS}
    order = [None, *saved.values(), None, *reversed(saved.values())]
    alone = {
        one: asked_alone(base, one, tasks, tmp_path / "alone" / str(n)) for n, one in enumerate({*order})
    }
    together, loads = asked_together(base, order, tasks, tmp_path / "together")
    assert together == [alone[one] for one in order]
    assert loads == 1
    assert len({str(answers) for answers in alone.values()}) == len(alone)  # each changes the answers


def test_every_method_leaves_the_base_as_it_was_or_it_is_loaded_again(bases, prompts, tmp_path):
    base, tasks = bases["llama"], [task("greedy", prompts, "g")]
    saved = {name: of_card(name, tmp_path / name) for name in CARDS}
    lora = {"kind": "peft", "peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]}
    saved["bias"] = save({**lora, "bias": "all"}, tmp_path / "bias")
    saved["saved whole"] = save({**lora, "modules_to_save": ["lm_head"]}, tmp_path / "whole")
    order = [
        one for adapter in saved.values() for one in (adapter, None)
    ]  # the bare base after each shows what is left
    alone = {
        one: asked_alone(base, one, tasks, tmp_path / "alone" / str(n)) for n, one in enumerate({*order})
    }
    together, loads = asked_together(base, order, tasks, tmp_path / "together")
    for n, one in enumerate(order):
        assert together[n] == alone[one], order[n] or order[n - 1]
    assert loads <= 1 + 2  # bias and modules_to_save may change the base itself


def test_a_base_that_was_changed_is_not_kept(bases):
    base = Base(bases["llama"], "cpu", reused=True)
    model, tokenizer = base.take(None, "float32")
    base.give_back(model, tokenizer, "float32")
    assert base.take(None, "float32")[0] is model
    with torch.no_grad():
        model.model.norm.weight[0] += 1e-6
    base.give_back(model, tokenizer, "float32")
    again, tokenizer = base.take(None, "float32")
    assert again is not model
    assert base.loads == 2
    again.config.use_cache = not again.config.use_cache
    base.give_back(again, tokenizer, "float32")
    assert base.take(None, "float32")[0] is not again
    assert base.loads == 3


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.int8]
)
@pytest.mark.parametrize("length", [1, 3, 8, 21])
def test_one_changed_bit_changes_the_sum_of_a_tensor(dtype, length):
    row = torch.arange(2 * length).remainder(5).to(dtype).reshape(2, length)[1]  # begins within its storage
    before = _sum_of_bits(row)
    assert _sum_of_bits(row.clone()) == before
    for place in range(length):
        changed = row.clone()
        changed[place] = not row[place] if dtype == torch.bool else row[place] + 1
        assert _sum_of_bits(changed) != before
    assert _sum_of_bits(torch.zeros(0, dtype=dtype)) == 0


def test_merged_adapters_take_a_load_each_and_a_full_model_none(bases, prompts, tmp_path):
    merged = [task("merged", prompts, "m", {**GREEDY, "merge_adapter": True})]
    saved = [save_adapter("llama", "lora", tmp_path / "lora")] * 2
    full = tmp_path / "full"
    save_base("llama", full, seed=5)
    alone = {
        one: asked_alone(bases["llama"], one, merged, tmp_path / f"alone-{one.name}")
        for one in [*saved, full]
    }
    together, loads = asked_together(bases["llama"], [*saved, full], merged, tmp_path / "together")
    assert together == [alone[one] for one in [*saved, full]]
    assert loads == 2


def test_dtypes_do_not_mix(bases, prompts, tmp_path):
    half = task("half", prompts, "h", {**GREEDY, "dtype": "bfloat16"})
    tasks = [task("whole", prompts, "w"), half]
    lora = save_adapter("llama", "lora", tmp_path / "lora")
    alone = {one: asked_alone(bases["llama"], one, tasks, tmp_path / f"alone-{one}") for one in (None, lora)}
    together, _ = asked_together(bases["llama"], [lora, None, lora], tasks, tmp_path / "together")
    assert together == [alone[lora], alone[None], alone[lora]]


def test_one_that_cannot_be_asked_keeps_none_of_the_others_from_it(bases, prompts, tmp_path):
    tasks = [task("greedy", prompts, "g")]
    lora, broken = (save_adapter("llama", "lora", tmp_path / name) for name in ("lora", "broken"))
    (broken / "adapter_model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match="broken: the adapter cannot be loaded"):
        asked_together(bases["llama"], [broken, lora], tasks, tmp_path / "together")
    assert not is_asked(tmp_path / "together/0/answers", tasks)
    assert is_asked(tmp_path / "together/1/answers", tasks)
    assert not (tmp_path / "together/1/answers").exists()  # its job names it


def test_answers_without_what_they_took_are_not_named_by_another_device(bases, prompts, tmp_path):
    tasks = [task("one", prompts, "1")]
    models = [
        {"name": "one", "adapter": None, "tasks": tasks, "output": tmp_path / "answers", "siblings": tmp_path}
    ]
    ask(bases["llama"], models, device="cpu")
    assert is_asked(tmp_path / "answers", tasks)
    (tmp_path / ".answers.work/run.json").unlink()  # as a kill at the very end leaves it
    assert not is_asked(tmp_path / "answers", tasks)
    run(tmp_path / "no base", None, tasks, tmp_path / "answers")
    assert read_json(tmp_path / "answers/run.json")["tasks"]["one"]["asked"] == 16


def test_what_asking_took_is_told_where_the_answers_are_named(bases, prompts, tmp_path):
    tasks = [task("one", prompts, "1"), task("two", prompts, "2")]
    asked_together(bases["llama"], [None], tasks, tmp_path)
    record = read_json(tmp_path / "0/answers/run.json")
    assert {name: took["asked"] for name, took in record["tasks"].items()} == {"one": 16, "two": 16}
    assert record["seconds"] >= sum(took["seconds"] for took in record["tasks"].values())
    assert len(read_jsonl(tmp_path / "0/answers/one.jsonl")) == 16
    assert {path.name for path in (tmp_path / "0/answers").iterdir()} == {
        "one.jsonl",
        "two.jsonl",
        "run.json",
        "manifest.json",
    }


def test_a_kept_base_generates_as_a_freshly_loaded_one(bases):
    base = Base(bases["llama"], "cpu", reused=True)
    model, tokenizer = base.take(None, "float32")
    fresh = model.generation_config.to_dict()
    model.generation_config.max_length = 7
    base.give_back(model, tokenizer, "float32")
    assert base.take(None, "float32")[0] is model
    assert model.generation_config.to_dict() == fresh
