"""``quantization`` in a study: identity of adapters and answers, and what ``check`` refuses."""

import re
from typing import Any

import pytest

from pipeline.core.errors import UserError
from pipeline.params.peft import quantization as quantized
from pipeline.results.causes import find_param_file
from pipeline.study import Study
from pipeline.study.checks import lacks_quantized_results
from tests.unit.study.test_evaluation_precision import answers_of, study_with

NF4 = {"quantization": "nf4"}


def adapters_of(study: Study) -> dict[tuple[str, str], str]:
    return {(run.method, run.arms[0].name): run.adapter.fingerprint for run in study.runs if run.adapter}


def bases_of(study: Study) -> dict[tuple[str, str], set[str | None]]:
    """Return how the base is quantized in the answers of each run."""
    return {
        (run.method, run.arms[0].name): {task.decoding.get("quantization") for task in study.tasks(run)}
        for run in study.runs
    }


def message_of(**changes: Any) -> str:
    with pytest.raises(UserError) as error:
        study_with(**changes).named()
    message = str(error.value)
    assert "\n" not in message
    return message


def test_null_keeps_every_name_and_nf4_renames_adapters_and_answers():
    plain, null = study_with(), study_with(training={"quantization": None})
    assert adapters_of(null) == adapters_of(plain)
    assert answers_of(null) == answers_of(plain)
    nf4, int8 = study_with(training=NF4), study_with(training={"quantization": "int8"})
    for names in (adapters_of, answers_of):
        for run, name in names(plain).items():
            assert len({name, names(nf4)[run], names(int8)[run]}) == 3


def test_answers_are_given_on_the_base_of_the_training_and_the_bare_base_follows_the_study():
    assert set(map(frozenset, bases_of(study_with(training=NF4)).values())) == {frozenset({"nf4"})}
    methods = ["lora", {"method": "series", "training": NF4}]
    by_run = bases_of(study_with(methods=methods))
    assert {method for (method, _), bases in by_run.items() if bases == {"nf4"}} == {"series"}
    methods = ["lora", {"method": "series", "training": {"quantization": None}}]
    by_run = bases_of(study_with(methods=methods, training=NF4))
    assert {method for (method, _), bases in by_run.items() if bases == {"nf4"}} == {"bare", "lora"}


def test_a_quantized_study_names_its_own_file_as_the_place_of_the_setting():
    study = study_with(training=NF4)
    run = next(run for run in study.runs if run.adapter)
    task = study.tasks(run)[0].name
    assert find_param_file(study, study.answers(run), (task, "quantization")) == study.where
    assert find_param_file(study, run.adapter, ("training", "quantization")) == study.where


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["full"]}, r"kind: full, .* set training: {quantization: null} for this one"),
        (
            {"methods": ["lora"], "merge_adapter": True},
            "merge_adapter: not allowed on a base quantized to nf4",
        ),
        (
            {"methods": [{"method": "lora", "init_lora_weights": "pissa"}]},
            "init_lora_weights: pissa, which needs the unquantized weights",
        ),
        (
            {"methods": [{"method": "lora", "modules_to_save": ["down_proj"]}]},
            "modules_to_save: down_proj, since quantized weights have no gradients",
        ),
        (
            {"methods": [{"method": "lora", "use_dora": True}], "training": {"quantization": "int8"}},
            "use_dora: true, which fails in peft; use nf4",
        ),
        ({"training": {"quantization": "fp4"}}, "nf4"),
    ],
)
def test_what_fails_on_a_quantized_base_is_refused_in_one_line(changes, message):
    assert re.search(message, message_of(**{"training": NF4, **changes}))


def test_a_missing_package_is_one_line_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(quantized, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"^s: training: quantization: needs the package bitsandbytes.*run: pip"
    ):
        quantized.require_bitsandbytes("s")


def test_only_studies_with_quantized_results_to_make_need_the_package():
    assert not lacks_quantized_results(study_with().artifacts)
    assert lacks_quantized_results(study_with(training=NF4).artifacts)
