"""The dtype that answers are computed in: each run's own, or the study's; it is in the answers' fingerprints."""

from typing import Any

import pytest

from pipeline.core.errors import UserError
from pipeline.params.reading import parse_card, read_card
from pipeline.params.studies import StudyCard
from pipeline.results.causes import find_param_file
from pipeline.study import Study
from pipeline.study.run import Run

HALF = {"dtype": "bfloat16", "weights": "bfloat16"}
ARMS = [
    {"name": "math", "training_set": "world-math", "tasks": ["world-addsub"]},
    {"name": "commonsense", "training_set": "world-commonsense", "tasks": ["world-boolq"]},
]


def study_with(**changes: Any) -> Study:
    """A study of two arms and two methods; "math" is the first arm, "lora" the first method."""
    card = {
        "title": "t",
        "description": "d",
        "models": ["tiny-llama"],
        "methods": ["lora", "series"],
        "seeds": [0],
        "arms": ARMS,
        "protocols": ["strict", "likelihood"],
    }
    return Study("s", parse_card(StudyCard, card | changes, where="s"))


def precisions(study: Study, run: Run) -> dict[str, str]:
    """Return the keys of precision that all tasks of a run have."""
    by_task = [{key: task.decoding[key] for key in HALF if key in task.decoding} for task in study.tasks(run)]
    assert all(keys == by_task[0] for keys in by_task)
    return by_task[0]


def answers_of(study: Study) -> dict[tuple[str, str], str]:
    """Return the fingerprint of each run's answers, by method and arm."""
    return {(run.method, run.arms[0].name): study.answers(run).fingerprint for run in study.runs}


def computed_in_half(study: Study) -> set[tuple[str, str]]:
    return {(run.method, run.arms[0].name) for run in study.runs if precisions(study, run) == HALF}


def test_float32_is_not_mentioned_so_that_answers_keep_their_fingerprints():
    plain = answers_of(study_with())
    assert answers_of(study_with(evaluation={"dtype": "float32"})) == plain
    assert answers_of(study_with(training={"dtype": "float32"})) == plain
    assert computed_in_half(study_with()) == set()


@pytest.mark.parametrize(
    ("changes", "halved"),
    [
        (
            {"training": {"dtype": "bfloat16"}},
            {(m, a) for m in ("lora", "series") for a in ("math", "commonsense")} | {("bare", "math")},
        ),
        (
            {"arms": [{**ARMS[0], "training": {"dtype": "bfloat16"}}, ARMS[1]]},
            {("lora", "math"), ("series", "math")},
        ),
        (
            {"arms": [{**ARMS[0], "training_by_model": {"tiny-llama": {"dtype": "bfloat16"}}}, ARMS[1]]},
            {("lora", "math"), ("series", "math")},
        ),
        (
            {"methods": ["lora", {"method": "series", "training": {"dtype": "bfloat16"}}]},
            {("series", "math"), ("series", "commonsense")},
        ),
    ],
    ids=["study", "arm", "model of an arm", "method"],
)
def test_answers_are_computed_in_the_dtype_that_their_adapter_was_trained_in(changes, halved):
    study, plain = study_with(**changes), study_with()
    assert computed_in_half(study) == halved
    before, after = answers_of(plain), answers_of(study)
    assert {key for key in before if before[key] != after[key]} == halved


def test_a_study_may_compute_its_answers_in_another_dtype_than_its_trainings():
    trained_in_half = study_with(training={"dtype": "bfloat16"}, evaluation={"dtype": "float32"})
    assert computed_in_half(trained_in_half) == set()
    halved = study_with(evaluation={"dtype": "bfloat16"})
    assert computed_in_half(halved) == set(answers_of(halved))
    assert [run.adapter for run in halved.runs] == [run.adapter for run in study_with().runs]


def test_16_bit_weights_computed_in_float32_have_answers_of_their_own():
    study = study_with(training={"dtype": "bfloat16"}, evaluation={"dtype": "float32", "weights": "bfloat16"})
    assert {str(precisions(study, run)) for run in study.runs} == {str({"weights": "bfloat16"})}
    whole = study_with(training={"dtype": "bfloat16"}, evaluation={"dtype": "float32"})
    halved = study_with(training={"dtype": "bfloat16"})
    for key, fingerprint in answers_of(study).items():
        assert fingerprint not in (answers_of(whole)[key], answers_of(halved)[key])


def test_a_full_model_has_no_weights_of_a_base_to_round():
    rounded = study_with(methods=["full"], evaluation={"dtype": "float32", "weights": "bfloat16"})
    plain = study_with(methods=["full"])
    full = [run for run in rounded.runs if run.adapter]
    assert full
    assert all(precisions(rounded, run) == {} for run in full)
    assert [rounded.answers(run).fingerprint for run in full] == [
        plain.answers(run).fingerprint for run in plain.runs if run.adapter
    ]


@pytest.mark.parametrize("evaluation", [{"weights": "bfloat16"}, {"dtype": "float16", "weights": "bfloat16"}])
def test_weights_are_rounded_apart_only_where_the_computation_is_in_float32(evaluation):
    with pytest.raises(UserError, match=r"evaluation: weights: .*dtype: float32") as caught:
        study_with(evaluation=evaluation)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "dtype"),
    [
        ({"evaluation": {"dtype": "float16"}}, "float16"),
        ({"arms": [ARMS[0], {**ARMS[1], "training": {"dtype": "bfloat16"}}]}, "bfloat16"),
    ],
)
def test_merging_in_16_bits_is_refused_before_any_job_runs(changes, dtype):
    with pytest.raises(UserError, match=rf"params/study/s\.yaml: merge_adapter: .*{dtype}") as caught:
        study_with(merge_adapter=True, **changes).named()
    assert "\n" not in str(caught.value)
    assert "evaluation: {dtype: float32}" in str(caught.value)


def test_merging_in_float32_is_allowed_whatever_the_trainings_were_in():
    for evaluation in ({"dtype": "float32"}, {"dtype": "float32", "weights": "bfloat16"}):
        study = study_with(merge_adapter=True, training={"dtype": "bfloat16"}, evaluation=evaluation)
        tasks = [task for run in study.runs if run.adapter for task in study.tasks(run)]
        assert tasks
        assert all(task.decoding["merge_adapter"] and "dtype" not in task.decoding for task in tasks)


@pytest.mark.parametrize(
    ("changes", "file"),
    [
        ({"evaluation": {"dtype": "bfloat16"}}, "params/study/s.yaml"),
        ({"methods": [{"method": "lora", "training": {"dtype": "bfloat16"}}]}, "params/study/s.yaml"),
    ],
)
def test_the_cause_of_another_dtype_is_the_file_that_sets_it(changes, file):
    study = study_with(**changes)
    run = study.runs[-1]
    key = ("world-boolq-strict", "dtype")
    assert find_param_file(study, study.answers(run), key) == file


def test_an_unused_section_is_left_out_of_the_card_as_a_dictionary():
    assert "evaluation" not in study_with().card.model_dump()
    card = study_with(evaluation={"dtype": "bfloat16"}).card
    assert card.model_dump()["evaluation"] == {"dtype": "bfloat16", "weights": None}
    assert parse_card(StudyCard, card.model_dump(), where="s") == card


def test_cards_of_shipped_studies_name_no_dtype_of_evaluation():
    assert read_card("study", "quickstart").evaluation.dtype is None
