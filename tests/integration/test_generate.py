"""Generation on small models of the real classes: neighbours in a batch change no answer, nothing is asked twice."""

import json
import os
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoTokenizer

from pipeline.adapters.padding import generation_inputs
from pipeline.core.errors import UserError
from pipeline.core.io import read_json, read_jsonl
from pipeline.evaluate.generation import decoding
from pipeline.evaluate.generation.beams import reads_branches
from pipeline.evaluate.generation.generate import encode_prompts
from pipeline.evaluate.generation.loading import load_model
from pipeline.evaluate.scoring.rows import ScoringTask
from pipeline.evaluate.scoring.score import score
from pipeline.params.reading import read_card
from pipeline.prompts.encode import hash_tokenizer
from pipeline.prompts.write import SCHEMA, read_prompts
from tests.integration.asking import BEAMS, EOS, GREEDY, METHODS, N, run, save_adapter, task, write_prompts
from tests.tiny import CONFIGS, FAMILY, save_base


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    return write_prompts(tmp_path_factory.mktemp("prompts") / "prompts.parquet")


@pytest.fixture
def base(bases):
    return bases["llama"]


def fixed_batches(monkeypatch, size):
    def cut(lengths, *, new_tokens, budget):
        order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
        return [order[n : n + size] for n in range(0, len(order), size)]

    monkeypatch.setattr(decoding, "batches", cut)


@pytest.mark.parametrize("method", [None, *METHODS])
@pytest.mark.parametrize("architecture", CONFIGS)
def test_the_batch_size_changes_no_answer(architecture, method, bases, prompts, tmp_path, monkeypatch):
    adapter = save_adapter(architecture, method, tmp_path / "adapter") if method else None
    asked = [task("greedy", prompts, "g"), task("beams", prompts, "b", BEAMS)]
    found = {}
    for size in (1, 8, 64):
        fixed_batches(monkeypatch, size)
        found[size] = run(bases[architecture], adapter, asked, tmp_path / f"size{size}" / "answers")
    assert found[1] == found[8] == found[64]
    rows = found[1]["greedy"]
    assert [row["id"] for row in rows] == [f"t/test/{n}" for n in range(N)]
    assert len({row["text"] for row in rows}) > N / 4  # the answers depend on the prompts


def of_transformers(model, row, config):
    """Return the new tokens of transformers' own search for one prompt."""
    callee, inputs, skip = generation_inputs(model, torch.tensor([row]), torch.ones(1, len(row)).long())
    with torch.inference_mode():
        new = callee.generate(**inputs, generation_config=config).sequences[0, skip:].tolist()
    return new[: new.index(EOS) + 1] if EOS in new else new


@pytest.mark.parametrize("method", [None, *METHODS])
@pytest.mark.parametrize("architecture", CONFIGS)
def test_beams_are_those_of_transformers_own_search(architecture, method, bases, prompts, tmp_path):
    adapter = save_adapter(architecture, method, tmp_path / "adapter") if method else None
    model, tokenizer = load_model(bases[architecture], adapter, "float32", "cpu")
    config = decoding.settings(model, tokenizer, max_new_tokens=12, num_beams=3)
    ids, _ = encode_prompts(model, tokenizer, read_prompts(prompts)[:12], 12)
    assert decoding.decode(model, ids, config) == [of_transformers(model, row, config) for row in ids]


@pytest.mark.parametrize("architecture", sorted(FAMILY.keys() - CONFIGS.keys()))
def test_beams_of_further_architectures_too(architecture, prompts, tmp_path):
    save_base(architecture, tmp_path / "base")
    model, tokenizer = load_model(tmp_path / "base", None, "float32", "cpu")
    config = decoding.settings(model, tokenizer, max_new_tokens=12, num_beams=4)
    assert reads_branches(model) == (architecture in ("gpt_neox", "qwen3", "olmo2"))
    rows, _ = encode_prompts(model, tokenizer, read_prompts(prompts)[:16], 12)
    together = decoding.decode(model, rows, config)
    assert together == [of_transformers(model, row, config) for row in rows]
    assert len({tuple(row) for row in together}) > 4


def test_jobs_side_by_side_take_one_thread_each(base, prompts, tmp_path):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        run(base, None, [task("greedy", prompts, "g")], tmp_path / "answers")
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("method", [None, *METHODS])
@pytest.mark.parametrize("architecture", CONFIGS)
def test_rows_that_end_and_leave_change_no_other(architecture, method, bases, prompts, tmp_path, monkeypatch):
    base = shutil.copytree(bases[architecture], tmp_path / "base")
    settings = read_json(base / "generation_config.json")
    ends = [EOS, *range(5, 64, 3)]  # a third of all tokens
    (base / "generation_config.json").write_text(json.dumps({**settings, "eos_token_id": ends}))
    adapter = save_adapter(architecture, method, tmp_path / "adapter") if method else None
    asked = [task("t", prompts, "f", {**GREEDY, "max_new_tokens": 24})]
    found = {}
    for size in (1, 64):
        fixed_batches(monkeypatch, size)
        found[size] = run(base, adapter, asked, tmp_path / f"size{size}" / "answers")["t"]
    assert found[1] == found[64]
    assert sum(row["stop"] == "eos" for row in found[1]) > N / 4
    if method == "lora":  # the bare models say one token over and over: their rows end at once or not at all
        assert len({row["tokens"] for row in found[1]}) > 3


def test_answers_are_those_of_a_plain_loop_without_padding_or_cache(base, prompts, tmp_path):
    from pipeline.models.base import load_base

    model, tokenizer = load_base(base)
    for row in run(base, None, [task("t", prompts, "f")], tmp_path / "a")["t"][:16]:
        ids = [tokenizer.bos_token_id, *tokenizer(row["prompt"], add_special_tokens=False)["input_ids"]]
        new = []
        with torch.inference_mode():
            while len(new) < 12 and new[-1:] != [EOS]:
                new.append(int(model(torch.tensor([ids + new])).logits[0, -1].argmax()))
        assert row["text"] == tokenizer.decode(new, skip_special_tokens=True)
        assert row["tokens"] == len(new)
        assert row["stop"] == ("eos" if new[-1] == EOS else "length")


def test_an_adapter_changes_the_answers(base, prompts, tmp_path):
    bare = run(base, None, [task("t", prompts, "f")], tmp_path / "bare/answers")
    for method in METHODS:
        adapter = save_adapter("llama", method, tmp_path / method)
        assert run(base, adapter, [task("t", prompts, "f")], tmp_path / f"a-{method}/answers") != bare


def test_equal_runs_leave_equal_files_and_settings_of_the_repository_do_not_count(base, prompts, tmp_path):
    sampling = shutil.copytree(base, tmp_path / "sampling")
    settings = read_json(sampling / "generation_config.json")
    settings.update(do_sample=True, temperature=5.0, repetition_penalty=3.0, num_beams=2, max_length=3)
    (sampling / "generation_config.json").write_text(json.dumps(settings))
    for one, where in ((base, "a"), (base, "b"), (sampling, "c")):
        run(one, None, [task("t", prompts, "f")], tmp_path / where / "answers")
    made = [(tmp_path / where / "answers/t.jsonl").read_bytes() for where in "abc"]
    assert made[0] == made[1] == made[2]
    assert read_json(tmp_path / "a/answers/manifest.json") == {
        "fingerprint": "answers",
        "answers": {"t": "f"},
    }
    assert read_json(tmp_path / "a/answers/run.json")["tasks"]["t"]["asked"] == N
    assert sorted(os.listdir(tmp_path / "a")) == ["answers"]


def test_what_a_sibling_has_answered_is_taken_over(base, prompts, tmp_path):
    run(base, None, [task("one", prompts, "f1"), task("two", prompts, "f2")], tmp_path / "first")
    (tmp_path / "first/one.jsonl").write_text('{"id": "as the sibling has it"}\n')
    changed = [task("one", prompts, "f1"), task("two", prompts, "other"), task("three", prompts, "f3")]
    made = run(base, None, changed, tmp_path / "second")
    assert made["one"] == [{"id": "as the sibling has it"}]
    assert len(made["two"]) == len(made["three"]) == N
    record = read_json(tmp_path / "second/run.json")
    assert (record["taken_over"], sorted(record["tasks"])) == ({"one": "first"}, ["three", "two"])
    assert read_json(tmp_path / "second/manifest.json")["answers"] == {
        "one": "f1",
        "two": "other",
        "three": "f3",
    }


def test_no_model_is_loaded_if_nothing_is_missing(base, prompts, tmp_path):
    tasks = [task("one", prompts, "f1"), task("two", prompts, "f2")]
    made = run(base, None, tasks, tmp_path / "first")
    again = run(tmp_path / "no-such-base", None, tasks[:1], tmp_path / "second")
    assert again == {"one": made["one"]}
    assert sorted(os.listdir(tmp_path / "second")) == ["manifest.json", "one.jsonl", "run.json"]


def test_a_killed_run_goes_on_where_it_was(base, prompts, tmp_path, monkeypatch):
    other = write_prompts(tmp_path / "other.parquet", seed=2)
    small = {**GREEDY, "batch_tokens": 300}
    tasks = [task("one", prompts, "f1", small), task("two", other, "f2", small)]
    whole = run(base, None, tasks, tmp_path / "whole/answers")
    real, asked = decoding.decode, []

    def killed(model, rows, config, complete):
        if sum(asked) > 1.5 * N:
            raise KeyboardInterrupt
        asked.append(len(rows))
        return real(model, rows, config, complete)

    monkeypatch.setattr(decoding, "decode", killed)
    output = tmp_path / "killed/answers"
    with pytest.raises(KeyboardInterrupt):
        run(base, None, tasks, output)
    assert not output.exists()
    with (output.parent / ".answers.work/.two.partial").open("a") as torn:
        torn.write('{"id": "t/test/3", "te')
    monkeypatch.setattr(decoding, "decode", lambda *given: (again.append(len(given[1])), real(*given))[1])
    again = []
    assert run(base, None, tasks, output) == whole
    assert sum(asked) + sum(again) == 2 * N
    assert sorted(os.listdir(output)) == ["manifest.json", "one.jsonl", "run.json", "two.jsonl"]
    assert sorted(os.listdir(output.parent)) == ["answers"]


def test_batches_that_do_not_fit_into_memory_are_halved(base, prompts, tmp_path, monkeypatch):
    whole = run(base, None, [task("t", prompts, "f")], tmp_path / "whole/answers")
    real, room = decoding.decode, [5]

    def short(model, rows, config, complete):
        if len(rows) > room[0]:
            raise torch.OutOfMemoryError("pretended")
        return real(model, rows, config, complete)

    monkeypatch.setattr(decoding, "decode", short)
    assert run(base, None, [task("t", prompts, "f")], tmp_path / "short/answers") == whole
    assert read_json(tmp_path / "short/answers/run.json")["tasks"]["t"]["rows_at_once"] <= 5
    room[0] = 0
    with pytest.raises(UserError, match="out of memory with a single example"):
        run(base, None, [task("t", prompts, "f")], tmp_path / "none/answers")
    assert not (tmp_path / "none/answers").exists()


def test_prompts_beyond_the_models_positions_lose_their_middle_and_are_counted(bases, prompts, tmp_path):
    long = {**GREEDY, "max_new_tokens": 108}  # of 128 positions
    run(bases["gptj"], None, [task("t", prompts, "f", long)], tmp_path / "answers")
    lengths = [len(row["prompt"].split()) + 1 for row in read_jsonl(tmp_path / "answers/t.jsonl")]
    cut = read_json(tmp_path / "answers/run.json")["tasks"]["t"]["cut_prompts"]
    assert cut == sum(length > 20 for length in lengths) > 0
    assert decoding.shortened([1, 5, 6, 7, 8], room=3, start=1) == [1, 7, 8]


def test_a_broken_adapter_is_one_line(base, prompts, tmp_path):
    (tmp_path / "adapter").mkdir()
    with pytest.raises(UserError, match="adapter cannot be loaded"):
        run(base, tmp_path / "adapter", [task("t", prompts, "f")], tmp_path / "a/answers")


def test_an_adapter_of_another_base_or_tokenizer_is_refused_before_it_is_asked(bases, prompts, tmp_path):
    base = shutil.copytree(bases["llama"], tmp_path / ("ab" * 6))
    adapter = save_adapter("llama", "lora", tmp_path / "adapter")
    asked = [task("t", prompts, "f")]
    (adapter / "manifest.json").write_text(json.dumps({"inputs": {"base": "cd" * 6}}))
    with pytest.raises(UserError, match="was trained on the base cdcdcdcdcdcd, not on abababababab"):
        run(base, adapter, asked, tmp_path / "a/answers")
    tokenizer = AutoTokenizer.from_pretrained(base)
    own = {"inputs": {"base": base.name}, "tokenizer": hash_tokenizer(tokenizer)}
    (adapter / "manifest.json").write_text(json.dumps(own))
    assert len(run(base, adapter, asked, tmp_path / "b/answers")["t"]) == N
    file = base / "tokenizer.json"
    file.write_text(file.read_text().replace('"w1"', '"other"'))
    with pytest.raises(UserError, match=r"was trained with the tokenizer \w+, not with \w+"):
        run(base, adapter, asked, tmp_path / "c/answers")


def test_unmasked_padding_changes_answers_and_its_batches_are_the_protocols(
    bases, prompts, tmp_path, monkeypatch
):
    fault = {**BEAMS, "padding": "unmasked", "batch_size": 8}
    seen, real = [], decoding.decode_unmasked
    monkeypatch.setattr(
        decoding,
        "decode_unmasked",
        lambda model, rows, config: (seen.append(rows), real(model, rows, config))[1],
    )
    masked = run(bases["llama"], None, [task("t", prompts, "m", BEAMS)], tmp_path / "m/answers")["t"]
    alone = run(
        bases["llama"], None, [task("t", prompts, "a", {**fault, "batch_size": 1})], tmp_path / "a/answers"
    )
    assert alone["t"] == masked  # a row alone has no padding
    seen.clear()
    unmasked = run(bases["llama"], None, [task("t", prompts, "u", fault)], tmp_path / "u/answers")["t"]
    lengths = [len(row["prompt"].split()) + 1 for row in masked]
    assert [[len(ids) for ids in rows] for rows in seen] == [lengths[n : n + 8] for n in range(0, N, 8)]
    changed = [one["text"] != other["text"] for one, other in zip(masked, unmasked, strict=True)]
    longest = [length == max(lengths[n - n % 8 : n - n % 8 + 8]) for n, length in enumerate(lengths)]
    assert sum(changed) > N / 4
    assert not any(change for change, unpadded in zip(changed, longest, strict=True) if unpadded)


def test_a_batch_that_the_protocol_sets_is_never_halved(base, prompts, tmp_path, monkeypatch):
    def short(model, rows, config):
        raise torch.OutOfMemoryError("pretended")

    monkeypatch.setattr(decoding, "decode_unmasked", short)
    fault = {**BEAMS, "padding": "unmasked", "batch_size": 8}
    with pytest.raises(UserError, match="out of memory with a batch of 8, which the protocol sets"):
        run(base, None, [task("t", prompts, "f", fault)], tmp_path / "answers")


@pytest.mark.parametrize("method", [None, "prefix", "prompt"])
def test_an_answer_that_is_complete_ends_its_row_the_same_in_every_batch(
    method, bases, prompts, tmp_path, monkeypatch
):
    adapter = save_adapter("llama", method, tmp_path / "adapter") if method else None
    long = {**GREEDY, "max_new_tokens": 40}
    whole = run(bases["llama"], adapter, [task("t", prompts, "w", long)], tmp_path / "w/answers")["t"]
    words = [row["text"].split() for row in whole]
    # pretend that a word, after at least two, begins another example: one that many answers have early
    mark = max(
        {word for row in words for word in row[2:12]},
        key=lambda word: sum(word in row[2:12] for row in words),
    )
    monkeypatch.setattr(decoding, "is_complete", lambda text: mark in text.split()[2:])
    found, steps = {}, []
    for size in (1, 64):
        fixed_batches(monkeypatch, size)
        asked = [task("t", prompts, f"f{size}", long)]
        found[size] = run(bases["llama"], adapter, asked, tmp_path / f"size{size}" / "answers")["t"]
        steps.append(sum(row["tokens"] for row in found[size]))
    assert found[1] == found[64]
    ended = [row for row in found[1] if row["stop"] == "complete"]
    assert len(ended) > N / 4
    for row, before, text in zip(found[1], whole, words, strict=True):
        cut = mark in text[2:]
        assert row["text"].split() == (text[: text.index(mark, 2) + 1] if cut else text)
        assert row["stop"] == ("complete" if cut else before["stop"])


def test_a_batch_whose_answers_are_complete_is_not_decoded_to_its_limit(base, prompts, tmp_path, monkeypatch):
    from transformers import LlamaForCausalLM

    steps, real = [], LlamaForCausalLM.forward
    monkeypatch.setattr(LlamaForCausalLM, "forward", lambda *a, **k: (steps.append(1), real(*a, **k))[1])
    monkeypatch.setattr(decoding, "completed", lambda *_: lambda new: len(new) >= 3)
    fixed_batches(monkeypatch, 64)
    rows = run(base, None, [task("t", prompts, "f", {**GREEDY, "max_new_tokens": 60})], tmp_path / "answers")
    assert max(row["tokens"] for row in rows["t"]) == 3
    assert len(steps) == decoding.STEPS_A_LOOK


def test_a_model_that_writes_nothing_but_padding_is_counted_by_name(prompts, tmp_path):
    from transformers import AutoModelForCausalLM

    save_base("llama", tmp_path / "base")
    mute = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    with torch.no_grad():
        mute.lm_head.weight.zero_()  # every token is as likely as the first, which is special
    mute.save_pretrained(tmp_path / "base")
    made = [{**row, "answer": "5", "answer_form": "number"} for row in read_prompts(prompts)]
    pq.write_table(pa.Table.from_pylist(made, schema=SCHEMA), tmp_path / "p.parquet")
    rows = run(tmp_path / "base", None, [task("t", tmp_path / "p.parquet", "f")], tmp_path / "answers")["t"]
    assert {(row["text"], row["stop"]) for row in rows} == {("", "length")}
    scored = ScoringTask.under(
        read_card("protocols", "strict"),
        name="t",
        task="t",
        answer_form="number",
        prompts=tmp_path / "p.parquet",
    )
    score(tmp_path / "answers", tasks=[scored], output=tmp_path / "scores.json", manifest={})
    found = read_json(tmp_path / "scores.json")["tasks"]["t"]
    assert found["outcomes"] == {"right": 0, "wrong": 0, "unparsable": 0, "truncated": 0, "empty": N}


def test_a_log_file_has_a_line_for_each_state(base, prompts, tmp_path, capfd):
    run(base, None, [task("t", prompts, "f")], tmp_path / "answers")
    told = capfd.readouterr().err.rpartition("t: ")
    assert told[0].endswith("\n")
    assert f"{N}/{N}" in told[2]
