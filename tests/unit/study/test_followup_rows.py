"""Follow-ups in a study: the runs that repeat a published row, and mistakes in cards and studies."""

import shutil
from copy import copy
from pathlib import Path

import pytest

from pipeline.core.errors import UserError
from pipeline.params import reading
from pipeline.params.published.cards import Published
from pipeline.params.reading import CARDS, PARAMS, parse_card, read_card
from pipeline.study import find, grid, load_study
from pipeline.study.checks import check_study_card
from pipeline.study.followups import check
from pipeline.study.followups.match import match_rows

FOLLOWUPS = ("dora", "hira", "reft", "stella", "d2mora", "reruns")
TASKS = ["boolq", "piqa"]
ROW = {"model": "llama-7b", "method": "dora", "accuracy": [70.0, 80.0], "average": 75.0}
MEASUREMENT = {"measured_by": "them", "prompting": "as printed", "parsing": "a rule", "protocol": "paper"}


def make_card(row: dict | None = None, *, measurement: dict | None = None, **table) -> Published:
    part = {
        "name": "T",
        "training_set": "commonsense_170k",
        "source": "S",
        "measurement": "m",
        "tasks": TASKS,
    }
    card = {
        "title": "P",
        "measurements": {"m": MEASUREMENT | (measurement or {})},
        "tables": [{**part, "rows": [ROW | (row or {})], **table}],
    }
    return parse_card(CARDS["published"], card, where="here")


@pytest.fixture(scope="module")
def study():
    return load_study("followups")


@pytest.fixture
def with_card(monkeypatch):
    """A function that gives the checks a card under the name "mine"."""

    def put(card: Published) -> None:
        monkeypatch.setattr(
            check,
            "read_card",
            lambda kind, name: card if (kind, name) == ("published", "mine") else read_card(kind, name),
        )

    return put


def refused(call) -> str:
    with pytest.raises(UserError) as raised:
        call()
    message = str(raised.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("row", "methods"),
    [
        ({"settings": {"r": 16, "learning_rate": 2e-4}}, ["dora-r16"]),
        ({"settings": {"r": 32}}, ["dora-r32"]),
        ({"model": "llama-2-7b", "settings": {"r": 32}}, ["dora-r32-2e-4"]),
        ({"settings": {"r": 16, "learning_rate": 1e-4}}, None),
        ({"model": "llama-3-8b", "settings": {"r": 16}}, None),
        # without settings the card's own, which no entry of DoRA has here
        ({}, None),
        ({"method": "lora"}, ["lora"]),
        ({"method": "lora", "settings": {"r": 32}}, ["lora", "lora-response-loss"]),
        ({"method": "lora", "settings": {"r": 32, "train_on_inputs": False}}, ["lora-response-loss"]),
    ],
)
def test_a_row_is_repeated_by_the_runs_of_its_base_method_and_settings(study, row, methods):
    matches = match_rows(study, make_card(row))
    assert [match.methods for match in matches] == ([methods] if methods else [])


def test_a_setting_that_is_the_default_of_peft_matches(study):
    row = {"method": "lora", "settings": {"r": 32, "use_dora": False}}
    assert [match.methods for match in match_rows(study, make_card(row))] == [["lora", "lora-response-loss"]]


def test_a_tuned_study_does_not_repeat_a_row_with_the_settings_of_the_card(study):
    row = make_card({"method": "lora"})
    assert match_rows(study, row)
    card = read_card("study", "tiny-tuned")
    # the same adapters, in a study whose rates trials choose
    object.__setattr__(tuned := copy(study), "card", study.card.model_copy(update={"tune": card.tune}))
    assert match_rows(tuned, row) == []


def test_a_combination_repeats_no_row(tmp_path, monkeypatch):
    text = (PARAMS / "study/followups.yaml").read_text()
    members = "[{method: lora, arm: commonsense}, {method: lora-response-loss, arm: commonsense}]"
    combined = f"  - {{method: combined-lora, members: {members}}}\n"
    shutil.copytree(PARAMS, tmp_path / "params")
    (tmp_path / "params/study/both.yaml").write_text(text.replace("seeds:", combined + "seeds:", 1))
    for module in (reading, grid, find):
        monkeypatch.setattr(module, "PARAMS", tmp_path / "params")
    reading.read_card.cache_clear()
    both = load_study("both")
    assert any(run.members for run in both.runs)
    assert [match.methods for match in match_rows(both, make_card({"method": "lora"}))] == [["lora"]]
    reading.read_card.cache_clear()


def test_a_row_on_another_training_set_is_repeated_by_nothing(study):
    assert match_rows(study, make_card({"method": "lora"}, training_set="math_10k")) == []


def test_every_trained_method_repeats_a_published_row(study):
    """Two entries alone have no published row: each is a method with the loss of the other publication."""
    matched = {
        method
        for name in study.card.followups
        for match in match_rows(study, read_card("published", name))
        for method in match.methods
    }
    rest = {entry.name for entry in study.card.methods} - matched
    assert rest == {"lora-response-loss", "hira-prompt-loss"}


@pytest.mark.parametrize("source", ["", "  ", None])
def test_a_number_without_a_source_is_refused(source):
    message = refused(lambda: make_card(source=source))
    assert message.startswith("here: tables.0.source: ")
    if source is not None:
        assert "say where this is printed, or leave out what has no source" in message


def test_a_step_without_a_source_is_refused():
    procedure = {"decoding": {"value": "beam 4", "source": ""}}
    message = refused(lambda: make_card(measurement={"procedure": procedure}))
    assert message.startswith("here: measurements.m.procedure.decoding.source: ")
    procedure = {"beams": {"value": "4", "source": "S"}}
    assert "beams" in refused(lambda: make_card(measurement={"procedure": procedure}))


def test_differences_need_a_protocol_to_differ_from():
    message = refused(lambda: make_card(measurement={"protocol": None, "differences": "no padding"}))
    assert "differences: only with protocol" in message


@pytest.mark.parametrize(
    ("card", "message"),
    [
        (make_card(measurement={"protocol": "papr"}), "params/published/mine.yaml: measurements: params/protocols: no 'papr'"),
        (make_card({"method": "doora"}), "params/published/mine.yaml: T: params/methods: no 'doora'"),
        (
            make_card({"settings": {"rank": 16}}),
            "params/published/mine.yaml: T: dora on llama-7b: settings: 'rank' is a field neither of 'dora' nor of training",
        ),
        (
            make_card({"model": "llama-3-8b"}),
            "here: followups: 'mine' has figures for llama-3-8b, and none is a model of the study (llama-7b, llama-2-7b)",
        ),
        (
            make_card(training_set="math_10k"),
            "here: followups: 'mine' has figures for math_10k, which no arm of the study trains on (commonsense_170k)",
        ),
    ],
    ids=["protocol", "method", "setting", "base", "training set"],
)  # fmt: skip
def test_a_followup_that_refers_to_nothing_is_refused(study, with_card, card, message):
    with_card(card)
    changed = study.card.model_copy(update={"followups": ["mine"]})
    assert refused(lambda: check_study_card(changed, where="here")).startswith(message)


def test_an_unknown_or_repeated_followup_is_refused(study):
    changed = study.card.model_copy(update={"followups": ["doora"]})
    message = refused(lambda: check_study_card(changed, where="here"))
    assert message.startswith("here: followups: params/published: no 'doora'")
    assert "did you mean 'dora'?" in message
    changed = study.card.model_copy(update={"followups": ["dora", "dora"]})
    assert "followups: 'dora' is repeated" in refused(lambda: check_study_card(changed, where="here"))


def test_the_publication_of_the_study_is_no_followup(study):
    """Its rows would be in two tables."""
    changed = study.card.model_copy(update={"followups": [study.card.published, "dora"]})
    message = refused(lambda: check_study_card(changed, where="here"))
    assert message.startswith("here: followups: 'llm-adapters' is the study's 'published' too")


def test_a_source_below_the_repository_has_its_address():
    card = read_card("published", "dora")
    address = card.locate("commonsense_reasoning/finetune.py#L75")
    assert address == f"{card.repository}/commonsense_reasoning/finetune.py#L75"
    assert card.locate("arXiv:2404.03592v3, Table 1") == "arXiv:2404.03592v3, Table 1"
    assert (
        card.locate("https://github.com/NVlabs/DoRA/issues/26") == "https://github.com/NVlabs/DoRA/issues/26"
    )


@pytest.mark.parametrize("name", FOLLOWUPS)
def test_figures_agree_with_their_averages(name):
    """Catches figures that were copied wrongly; the authors cut off some averages."""
    for table in read_card("published", name).tables:
        for row in table.rows:
            if row.average is not None and None not in row.accuracy:
                assert row.average == pytest.approx(sum(row.accuracy) / len(row.accuracy), abs=0.101), row


@pytest.mark.parametrize("name", ["dora_llama7b_ranks", "dora_llama2_7b", "dora_llama3_8b"])
def test_figures_of_dora_equal_the_reference(shared, name):
    lines = (Path(shared) / f"data/real/reference/{name}.csv").read_text().splitlines()[1:]
    reference = [line.split(",")[1:] for line in lines]
    tables = [
        [
            [float(row.settings["r"]), row.settings.get("learning_rate"), *row.accuracy, row.average]
            for row in table.rows
        ]
        for table in read_card("published", "dora").tables
    ]
    assert [[float(cell) for cell in row] for row in reference] in tables
