"""Log-likelihoods of choices: those of a plain forward pass, whatever stands beside them in a batch."""

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
from pipeline.prompts.write import SCHEMA
from tests.integration.asking import METHODS
from tests.tiny import CONFIGS, FAMILY, model_of, save_base

N = 24
LABELS = ["w1", "w2 w3", "w4 w5 w6 w7"]
ALIKE = ["w8 w9 w1", "w8 w9 w2", "w8 w9 w3 w4"]  # tokens that are read once for all choices


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


def adapted(architecture, method):
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


def asked(tokenizer, rows):
    pairs = [[likelihood.encode_pair(tokenizer, row["prompt"], c) for c in row["choices"]] for row in rows]
    return [likelihood.Asked(one[0][0], [tokens for _, tokens in one]) for one in pairs]


def plain(model, one):
    """One unpadded pass a choice, without a cache."""
    values = []
    for tokens in one.continuations:
        ids = torch.tensor([one.prompt + tokens])
        with torch.inference_mode():
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[
                0, -len(tokens) - 1 : -1
            ]
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
def test_they_are_those_of_a_plain_pass_whatever_is_beside_them(architecture, method, tokenizer):
    model = adapted(architecture, method)
    given = asked(tokenizer, examples())
    half = len(given) // 2  # its prompts begin alike
    together = [
        row for part in (given[:half], given[half:]) for row in likelihood.loglikelihoods(model, part, pad=0)
    ]
    for one, found in zip(given, together, strict=True):
        alone = likelihood.loglikelihoods(model, [one], pad=0)[0]
        assert found == pytest.approx(alone, abs=1e-4)
        assert found == pytest.approx(plain(model, one), abs=1e-4)
    assert len({round(value, 2) for row in together for value in row}) > N


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
    task = {"name": "t", "prompts": prompts, "fingerprint": "f", "decoding": {**FRAME, **changed}}
    given = {"siblings": output.parent, "device": "cpu", "manifest": {"fingerprint": output.name}}
    generate(base, None, tasks=[task], output=output, **given)
    return read_jsonl(output / "t.jsonl")


def test_a_row_says_what_was_scored_and_how_long_it_is(base, tmp_path):
    rows = run(base, write(tmp_path / "p.parquet", examples()), tmp_path / "answers")
    assert [row["id"] for row in rows] == [f"t/test/{n}" for n in range(N)]
    assert rows[3]["choices"] == LABELS
    assert rows[3]["continuations"] == [f"so {label}" for label in LABELS]
    assert rows[3]["characters"] == rows[3]["bytes"] == [5, 8, 14]
    assert rows[3]["tokens"] == [2, 3, 5]
    assert all(value < 0 for row in rows for value in row["loglikelihoods"])
    task = read_json(tmp_path / "answers/run.json")["tasks"]["t"]
    assert (task["asked"], task["cut_prompts"]) == (N, 0)


def test_a_killed_run_goes_on_and_gives_the_same_bytes(base, tmp_path, monkeypatch):
    prompts = write(tmp_path / "p.parquet", examples())
    run(base, prompts, tmp_path / "whole/answers", batch_tokens=300)
    real, asked = likelihood.loglikelihoods, []

    def killed(model, some, *, pad):
        if sum(asked) > N / 2:
            raise KeyboardInterrupt
        asked.append(len(some))
        return real(model, some, pad=pad)

    monkeypatch.setattr(likelihood, "loglikelihoods", killed)
    output = tmp_path / "killed/answers"
    with pytest.raises(KeyboardInterrupt):
        run(base, prompts, output, batch_tokens=300)
    assert not output.exists()
    with (output.parent / ".answers.work/.t.partial").open("a") as torn:
        torn.write('{"id": "t/test/3", "log')
    asked.append(-sum(asked))
    run(base, prompts, output, batch_tokens=300)
    assert (output / "t.jsonl").read_bytes() == (tmp_path / "whole/answers/t.jsonl").read_bytes()
    assert read_json(output / "run.json")["tasks"]["t"]["asked"] < N


def test_an_example_without_choices_is_refused_by_name(base, tmp_path):
    rows = examples()
    rows[3]["choices"] = []
    with pytest.raises(UserError, match="t/test/3: has no choices"):
        run(base, write(tmp_path / "p.parquet", rows), tmp_path / "answers")


def test_words_that_the_instruction_does_not_state_are_refused_by_name(base, tmp_path):
    with pytest.raises(UserError, match=r"t/test/0: the instruction states no words for w1/w2 w3"):
        run(base, write(tmp_path / "p.parquet", examples()), tmp_path / "answers", continuation="{text}")


def test_the_words_of_options_are_scored_where_the_protocol_says_so(base, tmp_path):
    row = examples(1)[0] | {"choices": ["solution1", "solution2"]}
    row["instruction"] = "Which? Solution1: w5 w6. Solution2: w7 Answer format: solution1/solution2"
    found = run(base, write(tmp_path / "p.parquet", [row]), tmp_path / "answers", continuation="{text}")
    assert found[0]["continuations"] == ["w5 w6.", "w7"]


def test_a_model_that_knows_no_number_is_counted_and_not_scored(base, tmp_path, monkeypatch):
    monkeypatch.setattr(
        likelihood, "loglikelihoods", lambda _, some, **__: [[float("nan"), -1.0, -2.0]] * len(some)
    )
    rows = run(base, write(tmp_path / "p.parquet", examples()), tmp_path / "answers")
    assert rows[0]["loglikelihoods"] == [None, -1.0, -2.0]


def test_prompts_beyond_the_models_positions_keep_their_end_and_are_counted(tmp_path):
    save_base("gptj", tmp_path / "base", n_positions=24)
    prompts = write(tmp_path / "p.parquet", examples())
    rows = run(tmp_path / "base", prompts, tmp_path / "answers")
    # a start token, the prompt and "so w1 ..." less its last token
    lengths = [1 + len(row["prompt"].split()) + max(row["tokens"]) - 1 for row in rows]
    cut = read_json(tmp_path / "answers/run.json")["tasks"]["t"]["cut_prompts"]
    assert cut == sum(length > 24 for length in lengths) > 0


def test_a_test_set_that_nobody_could_answer_is_refused_before_a_model_is_loaded(tmp_path):
    row = examples(1)[0]
    for rows, told in (
        ([], "no examples, so there is nothing to ask"),
        ([{**row, "answer_form": "number", "answer": "many"}], "t/test/0: gold answer 'many' is no number"),
        (
            [{**row, "answer_form": "option", "answer": "option3"}],
            "t/test/0: gold answer 'option3' is no option",
        ),
    ):
        prompts = write(tmp_path / "p.parquet", rows)
        with pytest.raises(UserError, match=told):
            run(tmp_path / "no-base", prompts, tmp_path / "answers")
