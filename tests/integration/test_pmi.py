"""Likelihoods behind a neutral prompt: computed in the same job, compared as PMI, and in no other protocol's files."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from pipeline.core.errors import UserError
from pipeline.core.io import read_jsonl
from pipeline.evaluate.generation.generate import generate
from pipeline.evaluate.generation.likelihood import EncodedChoices, encode_pair, loglikelihoods
from pipeline.evaluate.generation.rows import GenerationRequest, GenerationTask
from pipeline.evaluate.scoring.choices import find_likeliest
from pipeline.evaluate.scoring.confidence import choice_probabilities
from pipeline.evaluate.scoring.rows import ScoringTask
from pipeline.evaluate.scoring.score import score_task
from pipeline.params.protocols import Protocol
from pipeline.params.reading import parse_card, read_card
from pipeline.prompts.write import SCHEMA
from tests.tiny import model_of

FRAME = "w5 {label}"


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    rows = [
        dict.fromkeys(SCHEMA.names, "")
        | {"id": f"t/test/{n}", "task": "t", "prompt": f"w{n} w{n + 3} w9 ", "answer": "true"}
        | {"choices": ["true", "false"], "answer_form": "boolean"}
        for n in range(20)
    ]
    path = tmp_path_factory.mktemp("prompts") / "p.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)
    return path


def answer(base, prompts, output, **decoding):
    settings = {"template": "strict", "continuation": FRAME.replace("{label}", "{label} w7"), **decoding}
    tasks = (GenerationTask("t", prompts, settings, output.name),)
    request = GenerationRequest("bare", None, tasks, output, output.parent)
    generate(base, request, device="cpu", manifest={})
    return read_jsonl(output / "t.jsonl")


@pytest.mark.parametrize("neutral", ["", "w20 w21 "])
@pytest.mark.parametrize("architecture", ["llama", "bloom"])
def test_each_choice_is_scored_behind_the_neutral_prompt_too(bases, prompts, tmp_path, architecture, neutral):
    rows = answer(bases[architecture], prompts, tmp_path / "pmi", unconditional=neutral)
    tokenizer, model = AutoTokenizer.from_pretrained(bases[architecture]), model_of(architecture)
    start = [tokenizer.bos_token_id]
    for row in rows:
        pairs = [encode_pair(tokenizer, neutral, text) for text in row["continuations"]]
        alone = EncodedChoices(pairs[0][0] or start, [tokens for _, tokens in pairs])
        (expected,) = loglikelihoods(model, [alone], pad=0)
        assert row["unconditional"] == pytest.approx(expected, rel=1e-5)
    plain = answer(bases[architecture], prompts, tmp_path / "plain")
    assert [{**row, "unconditional": 0} for row in plain] == [{**row, "unconditional": 0} for row in rows]
    assert "unconditional" not in plain[0]


def make_row(conditional, unconditional=None):
    row = {"choices": ["a", "b"], "loglikelihoods": conditional, "characters": [1, 1], "bytes": [1, 1]}
    return row | ({"unconditional": unconditional} if unconditional else {})


def test_pmi_takes_away_what_a_choice_has_without_the_question():
    row = make_row([-2.0, -3.0], [-1.0, -4.0])
    best = find_likeliest(row)
    assert (best.raw, best.pmi) == ("a", "b")
    # differences -1 and 1
    assert choice_probabilities(row, "pmi")[1] == pytest.approx(1 / (1 + 2.718281828459045**-2))
    assert find_likeliest(make_row([-2.0, -3.0])).pmi is None
    assert find_likeliest(make_row([-2.0, -3.0], [None, -4.0])).pmi is None


def test_the_score_has_the_harness_accuracy_and_the_headline(bases, prompts, tmp_path):
    rows = answer(bases["llama"], prompts, tmp_path / "pmi", unconditional="")
    fields = {"name": "t", "task": "t", "answer_form": "boolean", "prompts": prompts}
    for headline, key in (("pmi", "acc_mutual_info"), ("raw", "acc")):
        card = read_card("protocols", "likelihood-pmi").model_copy(update={"headline": headline})
        score = score_task(tmp_path / "pmi/t.jsonl", ScoringTask.under(card, **fields))
        assert score["accuracy"] == score[key]
        assert score["acc_mutual_info"] == sum(find_likeliest(row).pmi == "true" for row in rows) / len(rows)
    answer(bases["llama"], prompts, tmp_path / "plain")
    score = score_task(
        tmp_path / "plain/t.jsonl", ScoringTask.under(read_card("protocols", "likelihood"), **fields)
    )
    assert "acc_mutual_info" not in score
    assert all("pmi" not in item for item in score["items"])


def make_card(**changes):
    card = {
        "name": "p",
        "version": 1,
        "template": "strict",
        "parser": "likelihood",
        "changelog": {1: "first"},
    }
    return parse_card(Protocol, card | {"continuation": {"boolean": "{label}"}, **changes}, where="p")


def test_a_protocol_without_a_neutral_prompt_has_the_decoding_and_the_card_of_before():
    card = make_card()
    assert "unconditional" not in card.decoding("boolean", max_new_tokens=None)
    assert "unconditional" not in card.model_dump()
    # an empty neutral prompt is not none
    empty = make_card(unconditional="")
    assert empty.decoding("boolean", max_new_tokens=None)["unconditional"] == ""
    assert empty.model_dump()["unconditional"] == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"headline": "pmi"}, "headline: pmi needs unconditional"),
        ({"unconditional": "", "template": "chat"}, "unconditional: not with the template 'chat'"),
        (
            {"unconditional": "", "parser": "strict", "continuation": {}, "max_new_tokens": {"number": 3}},
            "unconditional: only with parser likelihood",
        ),
    ],
)
def test_a_contradiction_is_refused(changes, message):
    with pytest.raises(UserError, match=message) as error:
        make_card(**changes)
    assert "\n" not in str(error.value)
