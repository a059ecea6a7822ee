"""Combinations in a study: what they are made of, what their identity depends on, and what is refused."""

from typing import Any

import pytest

from pipeline.core.errors import UserError
from pipeline.params.reading import CARDS, parse_card
from pipeline.results.causes import find_param_file
from pipeline.study import Study, load_study
from pipeline.study.checks import check_study_card
from pipeline.study.description.describe import describe_report
from pipeline.study.find import find_run
from tests.unit.study.test_evaluation_precision import ARMS, study_with

MATH, OTHER = (arm["name"] for arm in ARMS)
MEMBERS = [{"method": "lora", "arm": MATH}, {"method": "lora", "arm": OTHER}]
LORA = {"method": "combined-lora", "members": MEMBERS}


def with_methods(*methods: Any, **changes: Any) -> Study:
    return study_with(methods=list(methods), **changes)


def combined(*, first: Any = "lora", changes: dict[str, Any] | None = None, **settings: Any) -> Study:
    return with_methods(first, {**LORA, **settings}, **(changes or {}))


def check(study: Study) -> None:
    check_study_card(study.card, where=study.where)
    study.named()


def message_of(study: Study) -> str:
    with pytest.raises(UserError) as error:
        check(study)
    message = str(error.value)
    assert "\n" not in message
    return message


def fingerprint_of(study: Study) -> str:
    return study.artifacts["combine"][0].fingerprint


def test_a_combination_is_made_of_the_members_with_its_seed_and_trains_nothing():
    study, alone = combined(), with_methods("lora")
    assert study.paths("train") == alone.paths("train")
    assert [path for path in alone.paths("generate") if path not in study.paths("generate")] == []
    for artifact in study.artifacts["combine"]:
        seed = artifact.params["seed"]
        members = [run for run in study.runs if run.seed == seed and run.method == "lora"]
        inputs = {name: source.path for name, source in artifact.inputs.items() if name != "base"}
        assert inputs == {
            f"member {number}": run.adapter.path for number, run in enumerate(members, 1) if run.adapter
        }
        assert artifact.params["method"]["weights"] == [1.0, 1.0]
    # it has a row in each arm, like a bare base, and one file of answers
    runs = [run for run in study.runs if run.members and run.seed == study.card.seeds[0]]
    assert [run.arms[0].name for run in runs] == [MATH, OTHER]
    assert len({study.answers(run).path for run in runs}) == 1
    assert {task.task for task in study.tasks(runs[0])} == set(study.task_names)
    sets = [arm["training_set"] for arm in ARMS]
    assert runs[0].training_set == " + ".join(sets)
    assert runs[0].name == f"tiny-llama/combined-lora/{'+'.join(sets)}@{MATH}/seed{study.card.seeds[0]}"


def test_the_identity_of_a_combination_has_its_settings_and_its_members():
    plain = fingerprint_of(combined())
    assert fingerprint_of(combined(weights=[1.0, 1.0])) == plain
    others = {
        "weights": combined(weights=[1.0, 0.5]),
        "type": combined(combination_type="svd"),
        "density": combined(combination_type="ties_svd", density=0.5),
        "other density": combined(combination_type="ties_svd", density=0.2),
        "order": combined(members=MEMBERS[::-1]),
        "member": combined(first={"method": "lora", "r": 4}),
    }
    assert len({plain, *map(fingerprint_of, others.values())}) == len(others) + 1


def test_no_other_path_moves_and_no_other_report_says_more():
    study, alone = combined(), with_methods("lora")
    for stage in ("fetch", "prompts", "audit", "base", "train"):
        assert study.paths(stage) == alone.paths(stage)
    assert alone.artifacts["combine"] == []
    assert "combined" not in str(describe_report(alone))
    transfer, tiny = load_study("tiny-transfer"), load_study("tiny-combined")
    assert set(tiny.paths("train")) < set(transfer.paths("train"))
    shared = [run for run in tiny.evaluated_runs if not run.members]
    assert {tiny.scores(run).path for run in shared} < {scores.path for scores in transfer.artifacts["score"]}


def test_two_names_of_one_combination_share_it():
    study = with_methods("lora", LORA, {**LORA, "label": "again", "weights": [1, 1]})
    assert len(study.artifacts["combine"]) == len(study.card.seeds)


def test_a_combination_is_evaluated_in_the_precision_of_its_members():
    member = {"method": "lora", "training": {"dtype": "bfloat16"}}
    study = combined(first=member)
    lora, both = (
        study.tasks(next(run for run in study.runs if run.method == name))
        for name in ("lora", "combined-lora")
    )
    assert lora[0].decoding["dtype"] == "bfloat16"
    assert both[0].decoding == lora[0].decoding
    adapter = study.artifacts["combine"][0]
    assert find_param_file(study, adapter, ("method", "weights")) == "params/methods/combined-lora.yaml"
    assert find_param_file(study, adapter, ("method", "members")) == study.where


def test_runs_of_combinations_are_known_by_their_names_and_paths():
    study = load_study("tiny-combined")
    run = next(run for run in study.runs if run.members)
    assert run.adapter
    for name in (run.name, str(run.adapter.path), run.adapter.fingerprint):
        assert find_run(name, "tiny-combined")[1].adapter == run.adapter


def test_bottlenecks_of_any_size_and_scale_are_combined():
    wide = {"method": "series", "label": "wide", "bottleneck_size": 8, "scaling": 4.0}
    members = [{"method": "series", "arm": MATH}, {"method": "wide", "arm": OTHER}]
    for kind in ("sum", "stack"):
        entry = {"method": "combined-bottleneck", "members": members, "combination_type": kind}
        assert with_methods("series", wide, entry).artifacts["combine"]


BOTH = [{"method": "lora", "arm": MATH}, {"method": "other", "arm": OTHER}]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"members": None}, "members: missing; name at least two adapters"),
        ({"members": MEMBERS[:1]}, "members: List should have at least 2 items"),
        (
            {"members": [{"method": "lorra", "arm": MATH}, MEMBERS[1]]},
            "members: 'lorra' is not a method of the study (choices: lora, combined-lora); did you mean 'lora'?",
        ),
        (
            {"members": [MEMBERS[0], {"method": "lora", "arm": "maths"}]},
            "members: 'maths' is not an arm of the study, so it has no training set (choices:",
        ),
        (
            {"members": [MEMBERS[0], {"method": "combined-lora", "arm": OTHER}]},
            "members: 'combined-lora' is a combination itself; name its members instead",
        ),
        ({"members": [MEMBERS[0], MEMBERS[0]]}, "members: two of them are the same adapter"),
        ({"weights": [1.0]}, "weights: 1 for 2 members; give each member one weight"),
        (
            {"combination_type": "tie"},
            "combination_type: unknown combination_type (choices: cat, linear, svd, ties,",
        ),
        ({"combination_type": "sum"}, "combination_type: sum is not for LoRA adapters (choices: cat,"),
        (
            {"combination_type": "ties"},
            "density: missing; combination_type ties keeps that share of the values",
        ),
        (
            {"density": 0.5},
            "density: combination_type cat does not use it, only ties, dare_* or magnitude_prune does",
        ),
        ({"svd_rank": 4}, "svd_rank: combination_type cat does not use it, only svd does"),
        ({"training": {"epochs": 1}}, "training: a combination trains nothing; set it for its members"),
        ({"r": 4}, "r: unknown key"),
    ],
)
def test_mistakes_of_a_combination_are_named_in_one_line(settings, expected):
    message = message_of(combined(**settings))
    assert message.startswith("params/study/s.yaml: methods.combined-lora: ")
    assert expected in message


@pytest.mark.parametrize(
    ("first", "other", "settings", "expected"),
    [
        (
            {"r": 8},
            {"r": 4},
            {"combination_type": "linear"},
            "'lora' has r: 8, and 'other' has 4; combination_type linear needs equal ranks",
        ),
        ({}, {"rank_pattern": {"q_proj": 4}}, {"combination_type": "linear"}, "'other' has a rank_pattern"),
        (
            {},
            {"init_lora_weights": "pissa_niter_4"},
            {"combination_type": "linear"},
            "'other' is saved with twice its r, since its initial weights are taken from the base, and 'lora' is not",
        ),
        (
            {"init_lora_weights": "eva", "init_batches": 1},
            {"init_lora_weights": "eva", "init_batches": 1},
            {"combination_type": "linear"},
            "'lora' has init_lora_weights: eva, whose ranks are known only after training",
        ),
        ({}, {"bias": "all"}, {}, "'other' has bias: all, which cannot be combined"),
        ({}, {"use_dora": True}, {}, "'other' has use_dora: True, which cannot be combined"),
        (
            {},
            {"layers_to_transform": [0]},
            {},
            "'lora' has layers_to_transform: None, and 'other' has [0]; members need the same",
        ),
        ({}, {"training": {"dtype": "bfloat16"}}, {}, "'lora' has dtype: float32, and 'other' has bfloat16"),
    ],
)
def test_members_that_do_not_fit_each_other_are_refused(first, other, settings, expected):
    entries = ({"method": "lora", **first}, {"method": "lora", "label": "other", **other})
    assert expected in message_of(with_methods(*entries, {**LORA, "members": BOTH, **settings}))


@pytest.mark.parametrize(
    ("methods", "settings", "expected"),
    [
        (
            ["lora", "series"],
            {},
            "'lora' is a LoRA adapter and 'series' a bottleneck adapter; members need the same kind",
        ),
        (["prefix-tuning", "lora"], {}, "'prefix-tuning' is of type PREFIX_TUNING, which cannot be combined"),
        (["full", "lora"], {}, "'full' is of type full, which cannot be combined"),
        (["ia3", "lora"], {}, "'ia3' is of type IA3, which cannot be combined"),
        (["series", "parallel"], {"combination_type": "sum"}, "'series' has placement: {"),
        (
            ["series", "adapter-p"],
            {"combination_type": "cat"},
            "combination_type: cat is not for bottleneck adapters (choices: sum, stack)",
        ),
    ],
)
def test_other_methods_are_not_combined(methods, settings, expected):
    members = [{"method": method, "arm": arm} for method, arm in zip(methods, (MATH, OTHER), strict=True)]
    assert expected in message_of(with_methods(*methods, {**LORA, "members": members, **settings}))


def test_parallel_adapters_are_not_stacked():
    members = [{"method": "parallel", "arm": arm} for arm in (MATH, OTHER)]
    entry = {"method": "combined-bottleneck", "combination_type": "stack", "members": members}
    assert "stack needs series adapters, and 'parallel' is parallel to its module; use sum" in message_of(
        with_methods("parallel", entry)
    )


def test_members_have_the_base_of_the_combination():
    entries = (
        "lora",
        {"method": "lora", "label": "other", "models": ["tiny-bloom"]},
        {**LORA, "members": BOTH},
    )
    message = message_of(with_methods(*entries, models=["tiny-llama", "tiny-bloom"]))
    assert "'other' is not trained on 'tiny-llama', and all members need the same base" in message


def test_nothing_of_a_combination_is_tuned():
    tune = {
        **{"trials": 2, "max_steps": 200, "rule": "loss", "validation": {"held_out": 50}, "seed": 9},
        "fields": {"learning_rate": [1e-3, 1e-2]},
    }
    study = combined(changes={"tune": tune})
    assert {choice.method for choice in study.choices} == {"lora"}
    adapter = study.artifacts["combine"][0].inputs["member 1"]
    assert "choice" in adapter.inputs
    tune["methods"] = {"combined-lora": {"learning_rate": [1e-3, 1e-2]}}
    assert "'combined-lora' is a combination, which trains nothing" in message_of(
        combined(changes={"tune": tune})
    )


def test_a_card_may_name_members_itself():
    card = {"name": "Both", "kind": "combined", "combination_type": "cat", "members": MEMBERS, "source": "s"}
    assert parse_card(CARDS["methods"], card, where="card").members[0].arm == MATH
