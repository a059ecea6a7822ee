"""Published commands beside our runs: every difference is found, and each has exactly one written reason."""

from functools import cache

import pytest

from pipeline.commands.maintain.deviations import CARD, format_names, format_value
from pipeline.commands.maintain.sections import replace_section
from pipeline.core.errors import UserError
from pipeline.params.published.cards import PublishedCommands
from pipeline.params.reading import PARAMS, parse_card, read_card, read_yaml
from pipeline.params.studies import StudyCard
from pipeline.study import Study, load_study
from pipeline.study.fidelity.differences import Comparison, compare_commands, compare_settings
from pipeline.study.fidelity.settings import Settings, published_settings, resolved_settings


@pytest.fixture
def data() -> dict:
    """The content of the shipped card, for a test to change."""
    return read_yaml(PARAMS / f"commands/{CARD}.yaml")


@cache
def load_shipped(name: str) -> Study:
    return load_study(name)


def compare(data: dict) -> list[Comparison]:
    card = parse_card(PublishedCommands, data, where="card")
    studies = {command.study: load_shipped(command.study) for command in card.commands.values()}
    return compare_commands(card, studies, where="card")


def error_of(data: dict) -> str:
    with pytest.raises(UserError) as caught:
        compare(data)
    return str(caught.value)


def differing(rows: list[Comparison], setting: str) -> set[str]:
    return {row.command for row in rows if row.setting == setting and row.published != row.ours}


def test_every_difference_of_the_shipped_card_has_a_reason(data):
    rows = compare(data)
    assert all(row.reason for row in rows if row.published != row.ours)
    assert differing(rows, "load_8bit") == {"A3", "A5", "A7", "A10", "A11"}
    assert differing(rows, "load_best_model_at_end") == {"A2", "A3", "A11", "A12", "C1", "C2"}
    assert differing(rows, "autocast") == set(data["commands"])


def test_method_and_schedule_are_those_of_the_commands(data):
    rows = compare(data)
    settings = ["target_modules", "placement", "bottleneck_size", "non_linearity", "scaling", "init_weights"]
    settings += ["lora_r", "lora_alpha", "lora_dropout", "num_virtual_tokens", "method_settings"]
    settings += ["learning_rate", "num_epochs", "cutoff_len", "warmup_steps", "train_on_inputs", "num_beams"]
    assert {setting: differing(rows, setting) for setting in settings} == {name: set() for name in settings}


@pytest.mark.parametrize(
    ("command", "flag", "value", "message"),
    [
        ("A1", "lora_r", 16, "no reason for lora_r of A1 (published 16, here 32)"),
        ("A2", "num_virtual_tokens", 30, "no reason for num_virtual_tokens of A2 (published 30, here 10)"),
        ("A4", "use_parallel_adapter", False, "no reason for placement of A4 "),
        ("A5", "target_modules", ["query_key_value"], "no reason for target_modules of A5 "),
        ("A6", "batch_size", 128, "no reason for batch_size of A6 (published 128, here 16)"),
        ("C1", "train_on_inputs", False, "no reason for train_on_inputs of C1 (published False, here True)"),
        (
            "A9",
            "adapter_name",
            "lora",
            "no reason for adapter_name of A9 (published 'lora', here 'bottleneck')",
        ),
    ],
)
def test_a_difference_without_a_reason_is_an_error(data, command, flag, value, message):
    data["commands"][command]["flags"][flag] = value
    assert error_of(data).startswith(f"card: reasons: {message}")


def test_a_change_of_the_evaluation_is_a_difference(data):
    data["evaluations"]["commonsense"]["num_beams"] = 1
    assert error_of(data) == (
        "card: reasons: no reason for num_beams of C1 (published 1, here 4); "
        "no reason for num_beams of C2 (published 1, here 4)"
    )


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ({"settings": ["cutoff_len"]}, "a reason for cutoff_len, which does not differ"),
        ({"settings": ["load_8bitt"]}, "a reason for load_8bitt, which does not differ"),
        ({"settings": ["lora_r"], "commands": ["A1"]}, "a reason for lora_r of A1, which does not differ"),
        (
            {"settings": ["load_8bit"], "commands": ["A3"]},
            "two reasons for load_8bit of A3 (published True, here False)",
        ),
    ],
)
def test_a_reason_that_explains_nothing_is_an_error(data, reason, message):
    data["reasons"].append({**reason, "reason": "because"})
    assert error_of(data) == f"card: reasons: {message}"


def test_a_reason_covers_only_the_commands_that_it_names(data):
    (reason,) = (entry for entry in data["reasons"] if "load_8bit" in entry["settings"])
    reason["commands"] = ["A3", "A5", "A7", "A10"]
    assert error_of(data) == "card: reasons: no reason for load_8bit of A11 (published True, here False)"


def test_a_command_without_a_run_is_an_error(data):
    data["commands"]["A1"]["method"] = "vera"
    assert error_of(data) == (
        "card: commands.A1: params/study/paper-math.yaml has no run of 'llama-7b' with 'vera'"
    )


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("evaluation", "commands.A1: unknown evaluation 'nowhere' (choices: arithmetic, commonsense)"),
        ("reasons", "reasons: unknown command 'Z9' (choices: A1, "),
    ],
)
def test_an_unknown_name_is_refused(data, section, message):
    data["commands"]["A1"]["evaluation"] = "nowhere" if section == "evaluation" else "arithmetic"
    data["reasons"][0]["commands"] = ["Z9"] if section == "reasons" else ["A3"]
    assert error_of(data).startswith(f"card: {message}")


def test_where_an_adapter_sits_follows_from_its_modules(data):
    card = parse_card(PublishedCommands, data, where="card")
    assert published_settings(card, "A3").placement == {"gate_proj": "before", "up_proj": "before"}
    assert published_settings(card, "A7").placement == {
        "dense_4h_to_h": "parallel",
        "dense_h_to_4h": "parallel",
    }
    assert published_settings(card, "A11").placement == {"down_proj": "after"}
    data["commands"]["A11"]["flags"]["use_adapterp"] = False
    card = parse_card(PublishedCommands, data, where="card")
    places = {"down_proj": "after", "gate_proj": "before", "up_proj": "before"}
    assert published_settings(card, "A11").placement == places


def change_study(**changes: object) -> Study:
    """The study paper-math with another method or with other settings of training."""
    card = read_yaml(PARAMS / "study/paper-math.yaml") | {"models": ["llama-7b"]} | changes
    return Study("paper-math", parse_card(StudyCard, card, where="study"))


@pytest.mark.parametrize(
    ("changes", "setting", "value"),
    [
        ({"methods": [{"method": "lora", "use_rslora": True}]}, "method_settings", {"use_rslora": True}),
        ({"methods": [{"method": "lora", "target_modules": ["q_proj"]}]}, "target_modules", ["q_proj"]),
        ({"training": {"max_steps": 5}}, "num_epochs", None),
        ({"max_new_tokens": 9}, "max_new_tokens", [9]),
        ({"seeds": [3, 1]}, "seeds", [1, 3]),
    ],
)
def test_a_change_of_a_study_is_a_difference(changes, setting, value):
    card = read_card("commands", CARD)
    ours = resolved_settings(change_study(**changes), card.commands["A1"], where="card")
    rows = compare_settings("A1", published_settings(card, "A1"), ours)
    (row,) = (row for row in rows if row.setting == setting)
    assert row.ours == value
    assert row.published != value


def test_a_study_without_the_published_protocol_is_an_error():
    card = read_card("commands", CARD)
    with pytest.raises(
        UserError, match=r"^card: params/study/paper-math.yaml does not have the protocol 'paper'$"
    ):
        resolved_settings(change_study(protocols=["strict"]), card.commands["A1"], where="card")


def test_a_study_names_every_setting_of_training_that_the_published_program_has():
    training = next(run for run in load_shipped("paper-math").runs if run.adapter).adapter.params["training"]
    # max_steps and micro_batch_tokens have other names among the settings; the last two only watch a training
    unnamed = {"epochs", "max_steps", "micro_batch_tokens", "dtype", "eval_steps", "logging_steps"}
    assert set(training) - set(Settings.model_fields) == unnamed


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "not set"),
        (True, "yes"),
        (3e-4, "0.0003"),
        (3.0, "3"),
        (["a", "b"], "a, b"),
        ({"a": "after", "b": "after"}, "after"),
        ({"a": "after", "b": "before"}, "a: after, b: before"),
    ],
)
def test_values_in_words(value, text):
    assert format_value(value) == text


def test_names_in_a_short_form():
    names = ["A1", "A2", "A3", "A4", "C1", "C2"]
    assert format_names(names, names) == "all"
    assert format_names(["A1", "A2", "A3", "C1"], names) == "A1–A3, C1"
    assert format_names(["A3", "A4", "C1", "C2"], names) == "A3, A4, C1, C2"


def test_a_page_without_its_marks_is_refused(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("a\n<begin>\nold\n<end>\nb\n")
    assert replace_section(page, "<begin>", "<end>", "new\n") == "a\n<begin>\n\nnew\n\n<end>\nb\n"
    page.write_text("a\n<begin>\nold\n")
    with pytest.raises(UserError, match="the line '<end>' is missing"):
        replace_section(page, "<begin>", "<end>", "new\n")
