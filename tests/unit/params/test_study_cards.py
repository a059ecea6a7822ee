"""Mistakes in params/ are refused before the DAG is built, in one line with file, key, value and choices."""

import shutil

import pytest

from pipeline.core.errors import UserError
from pipeline.params import reading
from pipeline.params.base import TrainingOverlay
from pipeline.params.protocols import Protocol
from pipeline.params.reading import PARAMS, parse_card, read_card, read_yaml
from pipeline.params.resolve import resolve_method, resolve_training
from pipeline.params.studies import Entry
from pipeline.params.studies import StudyCard as Card


def error_message(call) -> str:
    with pytest.raises(UserError) as error:
        call()
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(("kind", "choice"), [("methods", "lora"), ("models", "llama-7b")])
def test_unknown_card_lists_the_choices(kind, choice):
    message = error_message(lambda: read_card(kind, "lorra"))
    assert f"params/{kind}" in message
    assert "'lorra'" in message
    assert choice in message


def test_cards_whose_names_differ_in_case_only_are_refused(tmp_path, monkeypatch):
    shutil.copytree(PARAMS / "methods", tmp_path / "methods")
    shutil.copy(tmp_path / "methods/lora.yaml", tmp_path / "methods/LoRA.yaml")
    monkeypatch.setattr(reading, "PARAMS", tmp_path)
    read_card.cache_clear()
    message = error_message(lambda: read_card("methods", "lora"))
    assert "'LoRA' and 'lora' differ in case only" in message


def test_unknown_method_field_has_file_and_key():
    message = error_message(
        lambda: resolve_method(
            Entry(method="lora", rank=8), architecture="llama", where="params/study/s.yaml"
        )
    )
    assert "params/study/s.yaml" in message
    assert "rank: unknown key" in message


def test_value_out_of_bounds_is_quoted():
    message = error_message(
        lambda: resolve_method(Entry(method="lora", r=-1), architecture="llama", where="s")
    )
    assert "r: " in message
    assert "-1" in message


def test_unknown_target_modules_list_those_of_the_architecture():
    entry = Entry(method="lora", target_modules=["q_proj", "qq_proj"])
    message = error_message(lambda: resolve_method(entry, architecture="bloom", where="s"))
    assert "q_proj" in message
    assert "query_key_value" in message


def test_a_method_has_the_placement_of_its_own_architecture_only():
    method = resolve_method(Entry(method="series"), architecture="llama", where="s")
    assert method["placement"] == {"up_proj": "before", "gate_proj": "before"}


def test_later_layers_take_precedence_and_steps_replace_epochs():
    training = resolve_training(
        ("card", TrainingOverlay(learning_rate=0.1)),
        ("study", TrainingOverlay(max_steps=7)),
        ("entry", TrainingOverlay(learning_rate=0.2)),
    )
    assert (training.learning_rate, training.max_steps, training.epochs) == (0.2, 7, None)


def test_unknown_training_key_is_refused():
    message = error_message(lambda: parse_card(TrainingOverlay, {"lr": 1}, where="params/x.yaml"))
    assert message.startswith("params/x.yaml: lr: unknown key (choices: learning_rate, ")


def test_published_settings_are_the_defaults():
    training = resolve_training(("card", TrainingOverlay()))
    assert (training.learning_rate, training.batch_size, training.epochs) == (3e-4, 16, 3)
    assert (training.warmup_steps, training.cutoff_len, training.train_on_inputs) == (100, 256, True)


def test_study_without_seeds_is_refused():
    study = {
        "title": "t",
        "description": "d",
        "models": ["a"],
        "methods": ["lora"],
        "seeds": [],
        "protocols": ["strict"],
    }
    study["arms"] = [{"name": "x", "training_set": "y", "tasks": ["z"]}]
    assert "seeds" in error_message(lambda: parse_card(Card, study, where="params/study/s.yaml"))


def test_a_repeated_key_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_text("r: 8\nr: 16\n")
    assert "'r' is repeated" in error_message(lambda: read_yaml(tmp_path / "a.yaml"))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("strict", {"continuation": {"letter": "{label}"}}, "not both"),
        ("strict", {"max_new_tokens": {}}, "any other parser max_new_tokens"),
        ("likelihood", {"parser": "strict"}, "parser likelihood needs continuation"),
        (
            "likelihood",
            {"continuation": {"letter": "it is"}},
            "continuation.letter: must contain {label} or {text}",
        ),
        ("likelihood", {"continuation": {"letter": "{label} {x}"}}, "no other braces"),
        ("paper-unmasked", {"batch_size": None}, "padding unmasked needs a batch_size"),
        ("paper", {"batch_size": 8}, "batch_size: only with padding unmasked"),
        ("strict", {"shots": -1}, "shots"),
    ],
)
def test_a_contradictory_protocol_is_refused(name, changes, message):
    card = read_card("protocols", name).model_dump() | changes
    with pytest.raises(UserError) as error:
        parse_card(Protocol, card, where="p")
    assert message in str(error.value)


@pytest.mark.parametrize("path", sorted((PARAMS / "protocols").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_changelog_of_a_protocol_reaches_its_version(path):
    card = read_card("protocols", path.stem)
    assert list(card.changelog) == list(range(1, card.version + 1))
