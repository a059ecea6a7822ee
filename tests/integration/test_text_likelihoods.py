"""Likelihoods of texts equal those of plain passes over the model, in any batch; an identity adapter changes none."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoTokenizer

from pipeline.adapters import add_adapter
from pipeline.core.errors import UserError
from pipeline.core.io import read_jsonl
from pipeline.evaluate.texts.measure import write_text_likelihoods
from pipeline.evaluate.texts.nats import estimate_forgetting, read_likelihoods
from pipeline.prompts.write import SCHEMA, read_prompts
from tests.integration.generation_cases import run, save_adapter, task
from tests.tiny import model_of

ARCHITECTURES = ("llama", "bloom", "gptj")
WINDOW = 16


def write_texts(path, form="passage", n=12):
    """Texts of 1 to 45 tokens, most of them longer than the window; references have prompts of up to 12 tokens."""
    rows = []
    for number in range(n):
        prompt = (
            ""
            if form == "passage"
            else " ".join(f"w{(number * 5 + k) % 60}" for k in range(1 + number)) + " "
        )
        text = " ".join(f"w{(number * 7 + k * k) % 60}" for k in range(1 + 4 * number))
        row = dict.fromkeys(SCHEMA.names, "") | {"id": f"t/test/{number}", "task": "t", "choices": []}
        rows.append(row | {"prompt": prompt, "response": text, "answer_form": form})
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)
    return path


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return write_texts(tmp_path_factory.mktemp("texts") / "passages.parquet")


def measure(model, tokenizer, prompts, output, *, window=WINDOW, budget=64):
    """Return the rows of a dataset of texts."""
    write_text_likelihoods(
        model, tokenizer, read_prompts(prompts), window=window, budget=budget, output=output, label="t"
    )
    return read_jsonl(output)


@torch.inference_mode()
def plain_nats(model, ids, count):
    """Return the negative log-likelihood of the last ``count`` of the ids, from one pass over all of them."""
    logits = model(input_ids=torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1)
    values = logits.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    return -float(values[-count:].sum())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_passage_is_read_in_windows_and_each_token_counts_once(bases, texts, tmp_path, architecture):
    tokenizer, model = AutoTokenizer.from_pretrained(bases[architecture]), model_of(architecture)
    rows = measure(model, tokenizer, texts, tmp_path / "o.jsonl")
    for row, example in zip(rows, read_prompts(texts), strict=True):
        ids = tokenizer(example["response"], add_special_tokens=False)["input_ids"]
        together = [tokenizer.bos_token_id, *ids]
        expected = 0.0
        for begin in range(0, len(ids), WINDOW):
            count = min(WINDOW, len(ids) - begin)
            end = begin + count
            # the model reads a full window wherever there are as many tokens
            expected += plain_nats(model, together[max(0, end - WINDOW) : end + 1], count)
        assert row["tokens"] == len(ids)
        assert row["nats"] == pytest.approx(expected, abs=2e-3, rel=1e-5)


def test_a_reference_is_read_behind_its_prompt_and_cut_at_the_window(bases, tmp_path):
    tokenizer, model = AutoTokenizer.from_pretrained(bases["llama"]), model_of("llama")
    prompts = write_texts(tmp_path / "p.parquet", form="text")
    rows = measure(model, tokenizer, prompts, tmp_path / "o.jsonl", window=40)
    for row, example in zip(rows, read_prompts(prompts), strict=True):
        prompt = tokenizer(example["prompt"].rstrip())["input_ids"]
        ids = tokenizer(example["response"], add_special_tokens=False)["input_ids"][: 41 - len(prompt)]
        assert row["tokens"] == len(ids)
        assert row["nats"] == pytest.approx(plain_nats(model, prompt + ids, len(ids)), abs=2e-3, rel=1e-5)


def test_the_batch_changes_no_likelihood(bases, texts, tmp_path):
    tokenizer, model = AutoTokenizer.from_pretrained(bases["llama"]), model_of("llama")
    alone = measure(model, tokenizer, texts, tmp_path / "a.jsonl", budget=1)
    together = measure(model, tokenizer, texts, tmp_path / "b.jsonl", budget=4096)
    for first, second in zip(alone, together, strict=True):
        assert first["nats"] == pytest.approx(second["nats"], rel=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_identity_adapter_forgets_exactly_nothing(bases, texts, tmp_path, architecture):
    # a LoRA as it begins: B = 0
    method = {"kind": "peft", "peft_type": "LORA", "r": 4, "lora_alpha": 32}
    add_adapter(model_of(architecture), method, architecture=architecture, seed=3).save_pretrained(
        tmp_path / "a"
    )
    files = []
    for name, adapter in (("bare", None), ("identity", tmp_path / "a")):
        run(bases[architecture], adapter, [task("t", texts, name, {"window": WINDOW})], tmp_path / name)
        files.append(tmp_path / name / "t.jsonl")
    assert files[0].read_bytes() == files[1].read_bytes()
    base, adapter = (read_likelihoods([file]) for file in files)
    forgetting = estimate_forgetting(adapter, base)
    assert (forgetting["estimate"], forgetting["low"], forgetting["high"]) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("method", ["lora", "prefix", "parallel"])
def test_an_adapter_is_measured_on_the_tokens_of_its_base(bases, texts, tmp_path, method):
    adapter = save_adapter("llama", method, tmp_path / "a")
    settings = {"window": WINDOW}
    base = run(bases["llama"], None, [task("t", texts, "b", settings)], tmp_path / "b")["t"]
    adapted = run(bases["llama"], adapter, [task("t", texts, "c", settings)], tmp_path / "c")["t"]
    assert [row["tokens"] for row in base] == [row["tokens"] for row in adapted]
    assert all(a["nats"] != b["nats"] for a, b in zip(base, adapted, strict=True))


def test_a_window_beyond_the_models_positions_is_refused_with_what_fits(bases, texts, tmp_path):
    with pytest.raises(
        UserError, match="t: texts: window: 129, but the model has 128 positions for text; set it to 128"
    ):
        run(bases["gptj"], None, [task("t", texts, "x", {"window": 129})], tmp_path / "x")
    prompt = save_adapter("gptj", "prompt", tmp_path / "a")
    with pytest.raises(UserError, match="the model has 123 positions for text"):
        run(bases["gptj"], prompt, [task("t", texts, "x", {"window": 128})], tmp_path / "y")
