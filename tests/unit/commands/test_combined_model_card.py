"""The model card of a combination: the data and the trainings of all its members."""

from dataclasses import replace

import pytest

from pipeline.commands.share.model_card import collect_facts, render_card
from pipeline.study import load_study


@pytest.mark.parametrize(("method", "form"), [("lora-cat", "peft"), ("series-stack", "bottleneck")])
def test_a_card_names_the_training_sets_and_the_trainings_of_all_members(method, form):
    study = load_study("tiny-combined")
    run = next(run for run in study.runs if run.method == method)
    assert run.adapter
    facts = collect_facts(study, run, run.adapter)
    text = render_card(facts, form=form)
    assert "combined from adapters that were trained on world-math and world-commonsense with seed 0" in text
    for arm, training_set in {"arithmetic": "world-math", "commonsense": "world-commonsense"}.items():
        assert f"Training of {method.partition('-')[0]}, arm {arm}, seed 0:\n\n- learning_rate: " in text
        assert f"Training set {training_set}, template" in text
        assert f"| {training_set} | " in text
    assert f"- combination_type: {run.adapter.params['method']['combination_type']}\n" in text
    assert "- weights: 1.0, 1.0\n" in text
    # members of one arm share its audit
    (arithmetic, _) = run.members
    shared = collect_facts(study, replace(run, members=(arithmetic, arithmetic)), run.adapter)
    assert len(shared.audits) == len({(each.title, each.training_set) for each in shared.audits})
    # each adapter's own card stays as it was
    single = next(run for run in study.runs if run.method == method.partition("-")[0])
    assert single.adapter
    text = render_card(collect_facts(study, single, single.adapter), form=form)
    assert "trained on world-math with seed 0" in text
    assert "\nTraining, seed 0:\n" in text
    assert "| task | questions |" in text
