"""Texts of a study: they add artifacts and move none; mistakes are refused before a job is planned."""

import pytest

from pipeline.core.errors import UserError
from pipeline.params.reading import parse_card
from pipeline.params.studies import StudyCard
from pipeline.study import load_study
from pipeline.study.checks import check_study_card
from tests.unit.study.test_evaluation_precision import study_with


def paths(study):
    return {artifact.path for artifact in study.named()}


def test_texts_add_likelihoods_of_every_model_and_change_only_the_report():
    before, study = study_with(), study_with(texts={"datasets": ["world-text"]})
    assert {path.parts[0] for path in paths(before) - paths(study)} == {"reports"}
    added = [study.results(run).text_likelihoods for run in study.runs]
    assert {artifact.path.parent.name for artifact in added} == {"texts"}
    # a bare base, and two methods in two arms
    assert len({artifact.path for artifact in added}) == 5
    assert {artifact.path for artifact in added} <= {part.path for part in study.report.inputs.values()}


@pytest.mark.parametrize(
    "change", [{"window": 64}, {"limit": 10}, {"datasets": ["world-text", "wikitext-2"]}]
)
def test_each_setting_of_texts_is_in_the_fingerprint(change):
    texts = {"datasets": ["world-text"]}
    first, second = (
        study.results(study.runs[0]).text_likelihoods.path
        for study in (study_with(texts=texts), study_with(texts=texts | change))
    )
    assert first != second


def test_a_further_dataset_keeps_the_likelihoods_of_the_first():
    def fingerprints(*datasets):
        study = study_with(texts={"datasets": list(datasets)})
        return {text.dataset: text.fingerprint for text in study.results(study.runs[1]).texts}

    assert fingerprints("world-text")["world-text"] == fingerprints("wikitext-2", "world-text")["world-text"]


def test_tiny_retention_trains_and_answers_nothing_that_quickstart_does_not():
    new = paths(load_study("tiny-retention")) - paths(load_study("quickstart"))
    kinds = {path.parts[1] for path in new if path.parts[0] == "results"}
    assert kinds == {"answers"}
    assert {path.parent.name for path in new if path.parts[1] == "answers"} == {"texts"}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"datasets": ["world-svamp"]}, "'world-svamp' has answer_form number; texts need"),
        ({"datasets": ["world-text", "world-text"]}, "texts: datasets: 'world-text' is repeated"),
        ({"datasets": ["wikitext"]}, "wikitext-2"),
        ({"datasets": ["world-text"], "window": 1}, "texts.window: .*greater than or equal to 2"),
        ({"datasets": []}, "texts.datasets"),
    ],
)
def test_a_mistake_is_refused_in_one_line(texts, message):
    with pytest.raises(UserError, match=message) as error:
        check_study_card(study_with(texts=texts).card, where="s")
    assert "\n" not in str(error.value)


def test_a_split_that_a_dataset_does_not_have_is_refused():
    study = study_with(texts={"datasets": ["alpaca"]})
    with pytest.raises(UserError, match=r"params/datasets/alpaca\.yaml: no split 'test'"):
        study.named()


def test_a_study_without_texts_is_dumped_as_before():
    assert "texts" not in study_with().card.model_dump()
    card = {**study_with().card.model_dump(), "texts": {"datasets": ["world-text"]}}
    assert parse_card(StudyCard, card, where="s").model_dump()["texts"]["window"] == 512
