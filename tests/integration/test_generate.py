"""Generation on small models of the real classes: the batch size changes no answer, and no question is answered twice."""

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
from pipeline.evaluate.generation.loading import load_model
from pipeline.evaluate.generation.search import stepwise
from pipeline.evaluate.generation.search.beams import supports_shared_rows
from pipeline.evaluate.generation.text_answers import encode_prompts
from pipeline.evaluate.scoring.rows import ScoringTask
from pipeline.evaluate.scoring.score import score
from pipeline.params.reading import read_card
from pipeline.prompts.encode import hash_tokenizer
from pipeline.prompts.write import SCHEMA, read_prompts
from tests.integration.generation_cases import (
    BEAMS,
    EOS,
    GREEDY,
    METHODS,
    N,
    run,
    save_adapter,
    task,
    write_prompts,
)
from tests.tiny import CONFIGS, FAMILY, save_base


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    return write_prompts(tmp_path_factory.mktemp("prompts") / "prompts.parquet")


@pytest.fixture
def base(bases):
    return bases["llama"]


def fixed_batches(monkeypatch, size):
    def split(lengths, *, new_tokens, budget):
        order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
        return [order[n : n + size] for n in range(0, len(order), size)]

    monkeypatch.setattr(decoding, "batch_by_length", split)


@pytest.mark.parametrize("method", [None, *METHODS])
@pytest.mark.parametrize(
    "architecture",
    [pytest.param(name, marks=pytest.mark.exhaustive) if name == "gptj" else name for name in CONFIGS],
)
def test_the_batch_size_changes_no_answer(architecture, method, bases, prompts, tmp_path, monkeypatch):
    adapter = save_adapter(architecture, method, tmp_path / "adapter") if method else None
    tasks = [task("greedy", prompts, "g"), task("beams", prompts, "b", BEAMS)]
    answers = {}
    for size in (1, 8, 64):
        fixed_batches(monkeypatch, size)
        answers[size] = run(bases[architecture], adapter, tasks, tmp_path / f"size{size}" / "answers")
    assert answers[1] == answers[8] == answers[64]
    rows = answers[1]["greedy"]
    assert [row["id"] for row in rows] == [f"t/test/{n}" for n in range(N)]
    # the answers depend on the prompts
    assert len({row["text"] for row in rows}) > N / 4


def transformers_tokens(model, row, config):
    """Return the new tokens of transformers' own search for one prompt."""
    callee, inputs, skip = generation_inputs(model, torch.tensor([row]), torch.ones(1, len(row)).long())
    with torch.inference_mode():
        new = callee.generate(**inputs, generation_config=config).sequences[0, skip:].tolist()
    return new[: new.index(EOS) + 1] if EOS in new else new


@pytest.mark.parametrize("method", [None, *METHODS])
@pytest.mark.parametrize("architecture", CONFIGS)
def test_beams_equal_transformers_beam_search(architecture, method, bases, prompts, tmp_path):
    adapter = save_adapter(architecture, method, tmp_path / "adapter") if method else None
    model, tokenizer = load_model(bases[architecture], adapter, "float32", "cpu")
    config = decoding.configure_decoding(model, tokenizer, max_new_tokens=12, num_beams=3)
    ids, _ = encode_prompts(model, tokenizer, read_prompts(prompts)[:12], 12)
    assert decoding.decode(model, ids, config) == [transformers_tokens(model, row, config) for row in ids]


@pytest.mark.parametrize("architecture", sorted(FAMILY.keys() - CONFIGS.keys()))
def test_beams_equal_transformers_beam_search_on_more_architectures(architecture, prompts, tmp_path):
    save_base(architecture, tmp_path / "base")
    model, tokenizer = load_model(tmp_path / "base", None, "float32", "cpu")
    config = decoding.configure_decoding(model, tokenizer, max_new_tokens=12, num_beams=4)
    assert supports_shared_rows(model) == (architecture in ("gpt_neox", "qwen3", "olmo2"))
    rows, _ = encode_prompts(model, tokenizer, read_prompts(prompts)[:16], 12)
    batched = decoding.decode(model, rows, config)
    assert batched == [transformers_tokens(model, row, config) for row in rows]
    assert len({tuple(row) for row in batched}) > 4


def test_a_cpu_job_uses_one_thread(base, prompts, tmp_path):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        run(base, None, [task("greedy", prompts, "g")], tmp_path / "answers")
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("method", [None, *METHODS])
@pytest.mark.parametrize("architecture", CONFIGS)
def test_rows_that_end_early_change_no_other_row(architecture, method, bases, prompts, tmp_path, monkeypatch):
    base = shutil.copytree(bases[architecture], tmp_path / "base")
    settings = read_json(base / "generation_config.json")
    # a third of all tokens
    ends = [EOS, *range(5, 64, 3)]
    (base / "generation_config.json").write_text(json.dumps({**settings, "eos_token_id": ends}))
    adapter = save_adapter(architecture, method, tmp_path / "adapter") if method else None
    tasks = [task("t", prompts, "f", {**GREEDY, "max_new_tokens": 24})]
    answers = {}
    for size in (1, 64):
        fixed_batches(monkeypatch, size)
        answers[size] = run(base, adapter, tasks, tmp_path / f"size{size}" / "answers")["t"]
    assert answers[1] == answers[64]
    assert sum(row["stop"] == "eos" for row in answers[1]) > N / 4
    # the bare models repeat one token: their rows end at once or not at all
    if method == "lora":
        assert len({row["tokens"] for row in answers[1]}) > 3


def test_answers_equal_a_plain_loop_without_padding_or_cache(base, prompts, tmp_path):
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


def test_equal_runs_write_equal_files_and_the_models_own_generation_settings_are_ignored(
    base, prompts, tmp_path
):
    sampling = shutil.copytree(base, tmp_path / "sampling")
    settings = read_json(sampling / "generation_config.json")
    settings.update(do_sample=True, temperature=5.0, repetition_penalty=3.0, num_beams=2, max_length=3)
    (sampling / "generation_config.json").write_text(json.dumps(settings))
    for model, folder in ((base, "a"), (base, "b"), (sampling, "c")):
        run(model, None, [task("t", prompts, "f")], tmp_path / folder / "answers")
    files = [(tmp_path / folder / "answers/t.jsonl").read_bytes() for folder in "abc"]
    assert files[0] == files[1] == files[2]
    assert read_json(tmp_path / "a/answers/manifest.json") == {
        "fingerprint": "answers",
        "answers": {"t": "f"},
    }
    assert read_json(tmp_path / "a/answers/run.json")["tasks"]["t"]["answered"] == N
    assert sorted(os.listdir(tmp_path / "a")) == ["answers"]


def test_answers_of_a_sibling_folder_are_reused(base, prompts, tmp_path):
    run(base, None, [task("one", prompts, "f1"), task("two", prompts, "f2")], tmp_path / "first")
    (tmp_path / "first/one.jsonl").write_text('{"id": "as the sibling has it"}\n')
    changed = [task("one", prompts, "f1"), task("two", prompts, "other"), task("three", prompts, "f3")]
    answers = run(base, None, changed, tmp_path / "second")
    assert answers["one"] == [{"id": "as the sibling has it"}]
    assert len(answers["two"]) == len(answers["three"]) == N
    record = read_json(tmp_path / "second/run.json")
    assert (record["taken_over"], sorted(record["tasks"])) == ({"one": "first"}, ["three", "two"])
    assert read_json(tmp_path / "second/manifest.json")["answers"] == {
        "one": "f1",
        "two": "other",
        "three": "f3",
    }


def test_no_model_is_loaded_if_nothing_is_missing(base, prompts, tmp_path):
    tasks = [task("one", prompts, "f1"), task("two", prompts, "f2")]
    first = run(base, None, tasks, tmp_path / "first")
    second = run(tmp_path / "no-such-base", None, tasks[:1], tmp_path / "second")
    assert second == {"one": first["one"]}
    assert sorted(os.listdir(tmp_path / "second")) == ["manifest.json", "one.jsonl", "run.json"]


def test_a_killed_run_resumes_and_answers_nothing_twice(base, prompts, tmp_path, monkeypatch):
    second_prompts = write_prompts(tmp_path / "second.parquet", seed=2)
    small = {**GREEDY, "batch_tokens": 300}
    tasks = [task("one", prompts, "f1", small), task("two", second_prompts, "f2", small)]
    uninterrupted = run(base, None, tasks, tmp_path / "whole/answers")
    decode, before, after = decoding.decode, [], []

    def decode_until_killed(model, rows, *args, **options):
        if sum(before) > 1.5 * N:
            raise KeyboardInterrupt
        before.append(len(rows))
        return decode(model, rows, *args, **options)

    monkeypatch.setattr(decoding, "decode", decode_until_killed)
    output = tmp_path / "killed/answers"
    with pytest.raises(KeyboardInterrupt):
        run(base, None, tasks, output)
    assert not output.exists()
    with (output.parent / ".answers.work/.two.partial").open("a") as torn:
        torn.write('{"id": "t/test/3", "te')
    monkeypatch.setattr(
        decoding, "decode", lambda *args, **options: (after.append(len(args[1])), decode(*args, **options))[1]
    )
    assert run(base, None, tasks, output) == uninterrupted
    assert sum(before) + sum(after) == 2 * N
    assert sorted(os.listdir(output)) == ["manifest.json", "one.jsonl", "run.json", "two.jsonl"]
    assert sorted(os.listdir(output.parent)) == ["answers"]


def test_batches_that_do_not_fit_in_memory_are_halved(base, prompts, tmp_path, monkeypatch):
    expected = run(base, None, [task("t", prompts, "f")], tmp_path / "whole/answers")
    decode, max_rows = decoding.decode, [5]

    def decode_few(model, rows, *args, **options):
        if len(rows) > max_rows[0]:
            raise torch.OutOfMemoryError("pretended")
        return decode(model, rows, *args, **options)

    monkeypatch.setattr(decoding, "decode", decode_few)
    assert run(base, None, [task("t", prompts, "f")], tmp_path / "short/answers") == expected
    assert read_json(tmp_path / "short/answers/run.json")["tasks"]["t"]["rows_at_once"] <= 5
    max_rows[0] = 0
    with pytest.raises(UserError, match="out of memory with a single example"):
        run(base, None, [task("t", prompts, "f")], tmp_path / "none/answers")
    assert not (tmp_path / "none/answers").exists()


def test_prompts_beyond_the_models_positions_are_cut_and_counted(bases, prompts, tmp_path):
    # of 128 positions
    long = {**GREEDY, "max_new_tokens": 108}
    run(bases["gptj"], None, [task("t", prompts, "f", long)], tmp_path / "answers")
    lengths = [len(row["prompt"].split()) + 1 for row in read_jsonl(tmp_path / "answers/t.jsonl")]
    cut = read_json(tmp_path / "answers/run.json")["tasks"]["t"]["cut_prompts"]
    assert cut == sum(length > 20 for length in lengths) > 0
    assert decoding.truncate_prompt([1, 5, 6, 7, 8], limit=3, start=1) == [1, 7, 8]


def test_a_broken_adapter_is_refused(base, prompts, tmp_path):
    (tmp_path / "adapter").mkdir()
    with pytest.raises(UserError, match="adapter cannot be loaded"):
        run(base, tmp_path / "adapter", [task("t", prompts, "f")], tmp_path / "a/answers")


def test_an_adapter_of_another_base_or_tokenizer_is_refused(bases, prompts, tmp_path):
    base = shutil.copytree(bases["llama"], tmp_path / ("ab" * 6))
    adapter = save_adapter("llama", "lora", tmp_path / "adapter")
    tasks = [task("t", prompts, "f")]
    (adapter / "manifest.json").write_text(json.dumps({"inputs": {"base": "cd" * 6}}))
    with pytest.raises(UserError, match="was trained on the base cdcdcdcdcdcd, not on abababababab"):
        run(base, adapter, tasks, tmp_path / "a/answers")
    tokenizer = AutoTokenizer.from_pretrained(base)
    own = {"inputs": {"base": base.name}, "tokenizer": hash_tokenizer(tokenizer)}
    (adapter / "manifest.json").write_text(json.dumps(own))
    assert len(run(base, adapter, tasks, tmp_path / "b/answers")["t"]) == N
    file = base / "tokenizer.json"
    file.write_text(file.read_text().replace('"w1"', '"other"'))
    with pytest.raises(UserError, match=r"was trained with the tokenizer \w+, not with \w+"):
        run(base, adapter, tasks, tmp_path / "c/answers")


def test_unmasked_padding_changes_answers_and_uses_the_protocols_batches(
    bases, prompts, tmp_path, monkeypatch
):
    fault = {**BEAMS, "padding": "unmasked", "batch_size": 8}
    batches, decode = [], decoding.decode_unmasked
    monkeypatch.setattr(
        decoding,
        "decode_unmasked",
        lambda model, rows, config: (batches.append(rows), decode(model, rows, config))[1],
    )
    masked = run(bases["llama"], None, [task("t", prompts, "m", BEAMS)], tmp_path / "m/answers")["t"]
    alone = run(
        bases["llama"], None, [task("t", prompts, "a", {**fault, "batch_size": 1})], tmp_path / "a/answers"
    )
    # a row alone has no padding
    assert alone["t"] == masked
    batches.clear()
    unmasked = run(bases["llama"], None, [task("t", prompts, "u", fault)], tmp_path / "u/answers")["t"]
    lengths = [len(row["prompt"].split()) + 1 for row in masked]
    assert [[len(ids) for ids in rows] for rows in batches] == [lengths[n : n + 8] for n in range(0, N, 8)]
    changed = [a["text"] != b["text"] for a, b in zip(masked, unmasked, strict=True)]
    longest = [length == max(lengths[n - n % 8 : n - n % 8 + 8]) for n, length in enumerate(lengths)]
    assert sum(changed) > N / 4
    assert not any(change for change, unpadded in zip(changed, longest, strict=True) if unpadded)


def test_a_batch_set_by_the_protocol_is_never_halved(base, prompts, tmp_path, monkeypatch):
    def run_out_of_memory(model, rows, config):
        raise torch.OutOfMemoryError("pretended")

    monkeypatch.setattr(decoding, "decode_unmasked", run_out_of_memory)
    fault = {**BEAMS, "padding": "unmasked", "batch_size": 8}
    with pytest.raises(UserError, match="out of memory with a batch of 8, set by the protocol"):
        run(base, None, [task("t", prompts, "f", fault)], tmp_path / "answers")


@pytest.mark.parametrize("method", [None, "prefix", "prompt"])
def test_a_complete_answer_ends_its_row_at_the_same_token_in_every_batch(
    method, bases, prompts, tmp_path, monkeypatch
):
    adapter = save_adapter("llama", method, tmp_path / "adapter") if method else None
    long = {**GREEDY, "max_new_tokens": 40}
    full = run(bases["llama"], adapter, [task("t", prompts, "w", long)], tmp_path / "w/answers")["t"]
    words = [row["text"].split() for row in full]
    # pretend that a word begins another example from the third word on; many answers have this word early
    mark = max(
        {word for row in words for word in row[2:12]},
        key=lambda word: sum(word in row[2:12] for row in words),
    )
    monkeypatch.setattr(decoding, "is_complete", lambda text: mark in text.split()[2:])
    answers = {}
    for size in (1, 64):
        fixed_batches(monkeypatch, size)
        tasks = [task("t", prompts, f"f{size}", long)]
        answers[size] = run(bases["llama"], adapter, tasks, tmp_path / f"size{size}" / "answers")["t"]
    assert answers[1] == answers[64]
    ended = [row for row in answers[1] if row["stop"] == "complete"]
    assert len(ended) > N / 4
    for row, before, text in zip(answers[1], full, words, strict=True):
        cut = mark in text[2:]
        assert row["text"].split() == (text[: text.index(mark, 2) + 1] if cut else text)
        assert row["stop"] == ("complete" if cut else before["stop"])


def test_a_batch_of_complete_answers_stops_before_the_token_limit(base, prompts, tmp_path, monkeypatch):
    from transformers import LlamaForCausalLM

    steps, forward = [], LlamaForCausalLM.forward
    monkeypatch.setattr(LlamaForCausalLM, "forward", lambda *a, **k: (steps.append(1), forward(*a, **k))[1])
    monkeypatch.setattr(decoding, "completion_check", lambda *_: lambda new: len(new) >= 3)
    fixed_batches(monkeypatch, 64)
    rows = run(base, None, [task("t", prompts, "f", {**GREEDY, "max_new_tokens": 60})], tmp_path / "answers")
    assert max(row["tokens"] for row in rows["t"]) == 3
    assert len(steps) == stepwise.COMPLETION_CHECK_STEPS


def test_a_model_that_writes_only_padding_has_empty_answers(prompts, tmp_path):
    from transformers import AutoModelForCausalLM

    save_base("llama", tmp_path / "base")
    mute = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    with torch.no_grad():
        # every token is as likely as the first, which is special
        mute.lm_head.weight.zero_()
    mute.save_pretrained(tmp_path / "base")
    rows = [{**row, "answer": "5", "answer_form": "number"} for row in read_prompts(prompts)]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), tmp_path / "p.parquet")
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
    task_score = read_json(tmp_path / "scores.json")["tasks"]["t"]
    assert task_score["outcomes"] == {"right": 0, "wrong": 0, "unparsable": 0, "truncated": 0, "empty": N}


def test_a_log_file_has_a_line_for_each_progress_update(base, prompts, tmp_path, capfd):
    run(base, None, [task("t", prompts, "f")], tmp_path / "answers")
    before, _, last = capfd.readouterr().err.rpartition("t: ")
    assert before.endswith("\n")
    assert f"{N}/{N}" in last
