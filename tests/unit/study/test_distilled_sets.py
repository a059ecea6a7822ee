"""Distilled sets as artifacts: what asks a teacher again, and which studies are refused."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.commands.run.deployment.engine import Engine
from pipeline.commands.run.slurm.resources import Devices
from pipeline.commands.run.workflow import StudyRun
from pipeline.core.errors import UserError
from pipeline.params import reading
from pipeline.params.datasets import Dataset
from pipeline.params.machine import MachineSettings
from pipeline.params.reading import parse_card, read_card
from pipeline.results.causes import find_param_file
from pipeline.study import Study, load_study
from pipeline.study.artifacts import list_with_inputs
from pipeline.study.description.describe import describe_report, describe_study
from pipeline.study.distillation.teacher import list_base_models, list_distilled_sets

RIGHT, ALL = "world-distilled-right", "world-distilled-all"


@pytest.fixture
def load(monkeypatch):
    """Load the study tiny-distill, with changes to the section `distilled` of the card of right answers."""

    def load(**changes):
        card = read_card("datasets", RIGHT)
        data = card.model_dump() | {"distilled": card.distilled.model_dump() | changes}
        changed = parse_card(Dataset, data, where=f"params/datasets/{RIGHT}.yaml")

        def read(kind, name):
            return changed if (kind, name) == ("datasets", RIGHT) else reading.read_card(kind, name)

        for module in (
            "datasets",
            "distillation.resolve",
            "distillation.teacher",
            "distillation.description",
        ):
            monkeypatch.setattr(f"pipeline.study.{module}.read_card", read)
        return load_study("tiny-distill")

    return load


def answers_of(study):
    right = list_distilled_sets(study)[RIGHT]
    return {artifact.path for artifact in right.inputs.values() if artifact.stage == "distill"}


def decodings_of(study):
    return [
        decoding
        for artifact in study.artifacts["distill"]
        if artifact.label.startswith("answers/")
        for decoding in artifact.params.values()
    ]


def test_a_teacher_answers_on_the_base_that_it_was_trained_on():
    study = load_study("tiny-distill")
    assert not any("quantization" in decoding for decoding in decodings_of(study))
    teacher, *students = study.card.arms
    overlay = teacher.training.model_copy(update={"quantization": "nf4"})
    arms = [teacher.model_copy(update={"training": overlay}), *students]
    quantized = Study("tiny-distill", study.card.model_copy(update={"arms": arms}))
    assert {decoding["quantization"] for decoding in decodings_of(quantized)} == {"nf4"}
    answers = next(each for each in quantized.artifacts["distill"] if "adapter" in each.inputs)
    assert find_param_file(quantized, answers, ("world-addsub", "quantization")) == study.where


@pytest.mark.parametrize(("temperature", "sent"), [(0.0, None), (0.7, 0.0), (None, 0.0)])
def test_greedy_rationales_are_greedy_whatever_the_temperature_of_the_card(
    load, monkeypatch, temperature, sent
):
    card = read_card("models", "gpt-4o-mini").model_copy(update={"temperature": temperature})
    monkeypatch.setattr(
        reading, "read_card", lambda kind, name: card if name == "gpt-4o-mini" else read_card(kind, name)
    )
    study = load(teacher={"model": "gpt-4o-mini"}, temperature=0, samples=1)
    decodings = [decoding for decoding in decodings_of(study) if "num_beams" not in decoding]
    assert [decoding.get("temperature") for decoding in decodings] == [sent] * 4


def test_a_teacher_behind_an_endpoint_is_queried_by_one_job_at_a_time(load):
    study = load(teacher={"model": "gpt-4o-mini"})
    run = StudyRun(study, Path(), 0, MachineSettings(), {}, None, Devices(1, 1, 1), Engine(), "")
    (resource,) = run.endpoint_limits
    assert run.endpoint_resources("teacher")[resource](SimpleNamespace(teacher="gpt-4o-mini/bare")) == 1
    teachers = {
        artifact.label.removeprefix("answers/").rpartition("/")[0].rpartition("/")[0]
        for artifact in study.artifacts["distill"]
        if artifact.label.startswith("answers/")
    }
    queried = {teacher for teacher in teachers if re.fullmatch(run.endpoint_teachers, teacher)}
    assert queried == {"gpt-4o-mini/bare"} < teachers
    # as a model of the study itself, which there is none of
    assert not re.fullmatch(run.endpoints, "gpt-4o-mini/bare")


def test_both_filters_share_the_answers_of_the_teacher():
    study = load_study("tiny-distill")
    sets = list_distilled_sets(study)
    assert set(sets) == {ALL, RIGHT}
    assert sets[ALL].path != sets[RIGHT].path
    answers = [artifact for artifact in study.artifacts["distill"] if artifact.label.startswith("answers/")]
    assert {artifact.path for artifact in answers} == answers_of(study)
    assert len(answers) == 4


def test_another_parser_asks_nothing_again(load):
    study = load_study("tiny-distill")
    answers, path = answers_of(study), list_distilled_sets(study)[RIGHT].path
    changed = load(protocol="paper")
    assert answers_of(changed) == answers
    assert list_distilled_sets(changed)[RIGHT].path != path


@pytest.mark.parametrize(
    "changes", [{"temperature": 0.9}, {"samples": 5}, {"seed": 1}, {"top_p": 0.9}, {"prompt": "alpaca"}]
)
def test_another_prompt_or_sampling_asks_again(load, changes):
    before = answers_of(load_study("tiny-distill"))
    assert not answers_of(load(**changes)) & before


def test_a_further_source_asks_only_for_itself(load):
    before = answers_of(load_study("tiny-distill"))
    sources = read_card("datasets", RIGHT).distilled.sources[:3]
    fewer = load(sources=[source.model_dump() for source in sources])
    assert answers_of(fewer) < before


def test_the_teacher_is_the_adapter_that_the_study_trains_and_scores():
    study = load_study("tiny-distill")
    (run,) = [run for run in study.runs if run.adapter and run.arms[0].name == "teacher" and run.seed == 0]
    teachers = {
        each.inputs["adapter"].path for each in study.artifacts["distill"] if "adapter" in each.inputs
    }
    assert teachers == {run.adapter.path}
    students = [run for run in study.runs if run.adapter and run.arms[0].name == "right"]
    assert all(
        run.adapter.path in {each.path for each in list_with_inputs([student.adapter])}
        for student in students
    )


def test_a_changed_card_is_the_cause_of_a_new_set():
    study = load_study("tiny-distill")
    for artifact in study.artifacts["distill"]:
        assert find_param_file(study, artifact, ("filter",)).startswith("params/datasets/world-distilled-")


def test_the_report_reads_the_yields_and_no_other_report_changes():
    study = load_study("tiny-distill")
    assert [described.name for described in describe_study(study).distilled] == [ALL, RIGHT]
    assert {str(each.path) for each in list_distilled_sets(study).values()} <= set(study.report.inputs)
    assert "distilled" not in describe_report(load_study("quickstart"))


def test_a_set_of_made_questions_is_made_here_where_its_teacher_is():
    described = describe_study(load_study("tiny-distill"))
    assert all(source.made_here for source in described.sources)
    assert {each.teacher for each in described.distilled} == {
        "LLaMA (tiny) with LoRA, trained in the arm teacher"
    }
    with_others = describe_study(load_study("math-distilled"))
    assert not any(source.made_here for source in with_others.sources)


def test_a_bare_teacher_needs_its_base(load):
    study = load(teacher={"model": "tiny-bloom"})
    assert list_base_models(study) == ["tiny-llama", "tiny-bloom"]
    assert {artifact.label for artifact in study.artifacts["base"]} == {"tiny-llama/", "tiny-bloom/"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": ["gsm9k"]}, "distilled.sources: params/datasets: no 'gsm9k' (choices: "),
        ({"sources": ["svamp"]}, "distilled.sources: 'svamp' has no split 'train' (it has: test)"),
        (
            {"sources": ["commonsense-7"]},
            "distilled.sources: 'commonsense-7' is a mixture; list its parts (boolq, ",
        ),
        ({"sources": [ALL]}, f"distilled.sources: '{ALL}' is distilled itself"),
        ({"sources": ["alpaca"]}, "distilled.sources: 'alpaca' has no gold labels"),
        (
            {"protocol": "likelihood"},
            "distilled.protocol: 'likelihood' does not parse a single generated text",
        ),
        ({"protocol": "strct"}, "distilled.protocol: params/protocols: no 'strct' (choices: "),
        ({"prompt": "chat"}, "distilled.prompt has the template 'chat', but 'tiny-llama' is pretrained"),
        ({"teacher": "tiny-lama"}, "distilled.teacher: params/models: no 'tiny-lama' (choices: "),
        (
            {"teacher": {"model": "tiny-llama", "arm": "techer", "method": "lora"}},
            "distilled.teacher: arm: 'techer' is not an arm of params/study/tiny-distill.yaml (choices: teacher, all, right)",
        ),
        (
            {"teacher": {"model": "tiny-llama", "arm": "teacher", "method": "series"}},
            "does not train 'series' on 'tiny-llama' (choices: lora)",
        ),
        (
            {"teacher": {"model": "tiny-llama", "arm": "all", "method": "lora"}},
            "distilled.teacher: arm: 'all' is trained on a distilled set itself",
        ),
    ],
)
def test_a_mistake_is_found_before_the_dag(load, changes, message):
    with pytest.raises(UserError) as error:
        load(**changes)
    assert f"params/datasets/{RIGHT}.yaml" in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_two_cards_of_one_content_are_refused_by_their_names(load):
    with pytest.raises(UserError, match=f"'{ALL}' and '{RIGHT}' are the same dataset under two names"):
        load(filter="all")
