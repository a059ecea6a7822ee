"""Log-likelihoods of choices equal those of a plain forward pass, whatever else is in the batch."""

import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.adapters import add_adapter
from pipeline.core.errors import UserError
from pipeline.core.io import read_json, read_jsonl
from pipeline.evaluate.generation import likelihood
from pipeline.evaluate.generation.generate import generate
from pipeline.evaluate.generation.likelihood import EncodedChoices, encode_pair
from pipeline.prompts.write import SCHEMA
from tests.integration.generation_cases import METHODS, request, task
from tests.tiny import CONFIGS, FAMILY, model_of, save_base

N = 24
LABELS = ["w1", "w2 w3", "w4 w5 w6 w7"]
# choices whose common tokens are read once
ALIKE = ["w8 w9 w1", "w8 w9 w2", "w8 w9 w3 w4"]


def examples(n=N, seed=1):
    """Prompts of 2 to 30 tokens, with two or three choices of one to four."""
    rng = random.Random(seed)
    rows = []
    for number in range(n):
        words = " ".join(f"w{rng.randrange(60)}" for _ in range(rng.randint(2, 30)))
        text = f"w7 w7 w5 {words}" if number < n // 2 else words
        row = dict.fromkeys(SCHEMA.names, "") | {"id": f"t/test/{number}", "instruction": text}
        choices = (ALIKE if number % 3 else LABELS)[: 2 + number % 2]
        rows.append({**row, "choices": choices, "answer": choices[0], "prompt": f"{text}\n"})
    return rows


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from pipeline.models.base import load_base

    folder = tmp_path_factory.mktemp("base")
    save_base("llama", folder)
    return load_base(folder)[1]


def make_model(architecture, method):
    settings = METHODS.get(method) and {
        key: value for key, value in METHODS[method].items() if key not in ("name", "training", "source")
    }
    model = model_of(architecture)
    if settings is None:
        return model
    for key in ("placement", "target_modules"):
        if isinstance(settings.get(key), dict):
            settings[key] = settings[key][architecture]
    return add_adapter(model, settings, architecture=architecture, seed=3).eval()


def encode_examples(tokenizer, rows):
    encoded = []
    for row in rows:
        pairs = [encode_pair(tokenizer, row["prompt"], choice) for choice in row["choices"]]
        encoded.append(EncodedChoices(pairs[0][0], [tokens for _, tokens in pairs]))
    return encoded


def plain_loglikelihoods(model, example):
    """An unpadded pass for each choice, without a cache."""
    values = []
    for tokens in example.continuations:
        ids = torch.tensor([example.prompt + tokens])
        with torch.inference_mode():
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        logits = logits[0, -len(tokens) - 1 : -1]
        values.append(logits.log_softmax(-1).gather(1, torch.tensor(tokens)[:, None]).sum().item())
    return values


CASES = [(architecture, method) for architecture in CONFIGS for method in (None, *METHODS)]
CASES += [
    (architecture, method)
    for architecture in FAMILY
    if architecture not in CONFIGS
    for method in (None, "prefix")
]


@pytest.mark.parametrize(("architecture", "method"), CASES)
def test_log_likelihoods_equal_a_plain_forward_pass_in_any_batch(architecture, method, tokenizer):
    model = make_model(architecture, method)
    encoded = encode_examples(tokenizer, examples())
    # prompts of the first half begin alike
    half = len(encoded) // 2
    batched = [
        row
        for batch in (encoded[:half], encoded[half:])
        for row in likelihood.loglikelihoods(model, batch, pad=0)
    ]
    for example, values in zip(encoded, batched, strict=True):
        alone = likelihood.loglikelihoods(model, [example], pad=0)[0]
        assert values == pytest.approx(alone, abs=1e-4)
        assert values == pytest.approx(plain_loglikelihoods(model, example), abs=1e-4)
    assert len({round(value, 2) for row in batched for value in row}) > N


FRAME = {"template": "strict", "continuation": "so {label}"}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "b"
    save_base("llama", folder)
    return folder


def write(path, rows):
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)
    return path


def run(base, prompts, output, **changed):
    tasks = [task("t", prompts, "f", {**FRAME, **changed})]
    generate(base, request(None, tasks, output), device="cpu", manifest={"fingerprint": output.name})
    return read_jsonl(output / "t.jsonl")


def test_a_row_has_the_scored_texts_and_their_lengths(base, tmp_path):
    rows = run(base, write(tmp_path / "p.parquet", examples()), tmp_path / "answers")
    assert [row["id"] for row in rows] == [f"t/test/{n}" for n in range(N)]
    assert rows[3]["choices"] == LABELS
    assert rows[3]["continuations"] == [f"so {label}" for label in LABELS]
    assert rows[3]["characters"] == rows[3]["bytes"] == [5, 8, 14]
    assert rows[3]["tokens"] == [2, 3, 5]
    assert all(value < 0 for row in rows for value in row["loglikelihoods"])
    cost = read_json(tmp_path / "answers/run.json")["tasks"]["t"]
    assert (cost["answered"], cost["cut_prompts"]) == (N, 0)


def test_a_killed_run_resumes_and_writes_the_same_bytes(base, tmp_path, monkeypatch):
    prompts = write(tmp_path / "p.parquet", examples())
    run(base, prompts, tmp_path / "whole/answers", batch_tokens=300)
    loglikelihoods, sizes = likelihood.loglikelihoods, []

    def score_until_killed(model, batch, *, pad):
        if sum(sizes) > N / 2:
            raise KeyboardInterrupt
        sizes.append(len(batch))
        return loglikelihoods(model, batch, pad=pad)

    monkeypatch.setattr(likelihood, "loglikelihoods", score_until_killed)
    output = tmp_path / "killed/answers"
    with pytest.raises(KeyboardInterrupt):
        run(base, prompts, output, batch_tokens=300)
    assert not output.exists()
    with (output.parent / ".answers.work/.t.partial").open("a") as torn:
        torn.write('{"id": "t/test/3", "log')
    sizes.clear()
    run(base, prompts, output, batch_tokens=300)
    assert (output / "t.jsonl").read_bytes() == (tmp_path / "whole/answers/t.jsonl").read_bytes()
    assert read_json(output / "run.json")["tasks"]["t"]["answered"] < N


def test_an_example_without_choices_is_refused(base, tmp_path):
    rows = examples()
    rows[3]["choices"] = []
    with pytest.raises(UserError, match="t/test/3: has no choices"):
        run(base, write(tmp_path / "p.parquet", rows), tmp_path / "answers")


def test_options_without_words_in_the_instruction_are_refused(base, tmp_path):
    with pytest.raises(UserError, match=r"t/test/0: the question states no words for w1/w2 w3"):
        run(base, write(tmp_path / "p.parquet", examples()), tmp_path / "answers", continuation="{text}")


def test_the_words_of_options_are_scored_under_a_text_continuation(base, tmp_path):
    row = examples(1)[0] | {"choices": ["solution1", "solution2"]}
    row["instruction"] = "Which? Solution1: w5 w6. Solution2: w7 Answer format: solution1/solution2"
    rows = run(base, write(tmp_path / "p.parquet", [row]), tmp_path / "answers", continuation="{text}")
    assert rows[0]["continuations"] == ["w5 w6.", "w7"]


def test_values_that_are_not_finite_are_null(base, tmp_path, monkeypatch):
    monkeypatch.setattr(
        likelihood, "loglikelihoods", lambda _, batch, **__: [[float("nan"), -1.0, -2.0]] * len(batch)
    )
    rows = run(base, write(tmp_path / "p.parquet", examples()), tmp_path / "answers")
    assert rows[0]["loglikelihoods"] == [None, -1.0, -2.0]


def test_prompts_beyond_the_models_positions_keep_their_end_and_are_counted(tmp_path, capsys):
    save_base("gptj", tmp_path / "base", n_positions=24)
    prompts = write(tmp_path / "p.parquet", examples())
    rows = run(tmp_path / "base", prompts, tmp_path / "answers")
    # a start token, the prompt and "so w1 ..." less its last token
    lengths = [1 + len(row["prompt"].split()) + max(row["tokens"]) - 1 for row in rows]
    cut = read_json(tmp_path / "answers/run.json")["tasks"]["t"]["cut_prompts"]
    assert f"t: the beginnings of {cut} prompts are cut: they have up to " in capsys.readouterr().err
    assert cut == sum(length > 24 for length in lengths) > 0


def test_an_unanswerable_test_set_is_refused_before_a_model_is_loaded(tmp_path):
    row = examples(1)[0]
    for rows, message in (
        ([], "no examples to evaluate or score"),
        (
            [{**row, "answer_form": "number", "answer": "many"}],
            "t/test/0: gold label 'many' is not a possible number",
        ),
        (
            [{**row, "answer_form": "option", "answer": "option3"}],
            "t/test/0: gold label 'option3' is not a possible option",
        ),
    ):
        prompts = write(tmp_path / "p.parquet", rows)
        with pytest.raises(UserError, match=message):
            run(tmp_path / "no-base", prompts, tmp_path / "answers")
