"""What differs in what it computes has artifacts of its own; what does not is computed once."""

from dataclasses import replace

import pytest

from pipeline.core.errors import UserError
from pipeline.params.reading import parse_card, read_card
from pipeline.params.studies import StudyCard
from pipeline.results.causes import explain_changes, find_param_file
from pipeline.study import Study, find, load_groups
from pipeline.study.artifacts import Artifact
from pipeline.study.checks import check_study_card, refuse_aliases
from pipeline.study.datasets import list_order
from pipeline.study.description.describe import describe_study
from pipeline.study.stages import STAGES

FEW_AND_MANY = [
    {
        "name": "few",
        "training_set": "world-math",
        "tasks": ["world-addsub"],
        "limit": 8,
        "training": {"max_steps": 3},
    },
    {
        "name": "many",
        "training_set": "world-math",
        "tasks": ["world-addsub", "world-svamp"],
        "training": {"max_steps": 120},
    },
]


def make_study(**changes) -> Study:
    """The default study with one model, LoRA, one seed and these changes, checked as `check` does it."""
    card = read_card("study", "quickstart").model_dump()
    card |= {"models": ["tiny-llama"], "methods": ["lora"], "seeds": [0], "arms": FEW_AND_MANY[1:], **changes}
    study = Study("s", parse_card(StudyCard, card, where="params/study/s.yaml"))
    check_study_card(study.card, where=study.where)
    study.named()
    return study


def runs_of_arms(study: Study):
    return {run.arms[0].name: run for run in study.runs if run.adapter}


def test_arms_of_one_training_set_have_adapters_and_scores_of_their_own():
    study = make_study(arms=FEW_AND_MANY)
    assert len(study.artifacts["train"]) == 2
    few, many = runs_of_arms(study).values()
    assert few.adapter.params["training"]["max_steps"] == 3
    assert many.adapter.params["training"]["max_steps"] == 120
    for run in (few, many):
        assert study.answers(run).inputs["adapter"] is run.adapter
        assert study.run_of(study.scores(run).fingerprint).adapter is run.adapter
    assert [task.task for task in study.tasks(few)] == ["world-addsub"]
    assert [task.task for task in study.tasks(many)] == ["world-addsub", "world-svamp"]
    rows = {run.arm: run for run in describe_study(study).runs}
    assert rows["few"].scores == study.scores(few).path
    assert rows["many"].scores == study.scores(many).path != rows["few"].scores


TWINS = [
    {"name": "sums", "training_set": "world-math", "tasks": ["world-addsub"]},
    {"name": "stories", "training_set": "world-math", "tasks": ["world-svamp"]},
]


def test_arms_of_equal_settings_share_an_adapter_that_answers_the_tasks_of_both():
    study = make_study(arms=TWINS)
    assert len(study.artifacts["train"]) == 1
    assert len(study.artifacts["generate"]) == 2
    sums, stories = runs_of_arms(study).values()
    assert sums.adapter is stories.adapter
    assert study.scores(sums) is study.scores(stories)
    assert [task.task for task in study.tasks(stories)] == ["world-addsub", "world-svamp"]
    assert [run.arm for run in describe_study(study).runs] == [None, "sums", "stories"]
    assert len(study.evaluated_runs) == 2
    (group,) = load_groups.group_answers(study, "all").values()
    assert len(group) == 2


def test_methods_of_equal_settings_share_an_adapter():
    """AdapterP and Series are the same adapter on BLOOM."""
    entries = [
        {"method": method, "bottleneck_size": 8, "training": {"learning_rate": 0.01}}
        for method in ("series", "adapter-p")
    ]
    study = make_study(models=["tiny-llama", "tiny-bloom"], methods=entries, arms=FEW_AND_MANY, bare=False)
    assert len(study.artifacts["train"]) == 3 * 2
    by_name = {run.name: run for run in study.runs}
    assert len(by_name) == 4 * 2
    series, adapter_p = (
        by_name[f"tiny-bloom/{method}/world-math@few/seed0"] for method in ("series", "adapter-p")
    )
    assert series.adapter is adapter_p.adapter
    assert series.method != adapter_p.method


@pytest.mark.parametrize("arms", [FEW_AND_MANY, TWINS])
def test_every_fingerprint_has_one_path(arms):
    study = make_study(arms=arms, methods=["lora", {"method": "lora", "label": "again"}])
    artifacts = study.named()
    assert len({(artifact.stage, artifact.fingerprint) for artifact in artifacts}) == len(artifacts)


def find_in(study: Study, name: str, monkeypatch):
    monkeypatch.setattr(find, "load_study", lambda _: study)
    return find.find_run(name, study.name)[1]


def test_a_name_that_two_arms_have_needs_the_arm(monkeypatch):
    study = make_study(arms=FEW_AND_MANY)
    few, many = runs_of_arms(study).values()
    assert many.name == "tiny-llama/lora/world-math@many/seed0"
    for name in (many.name, many.adapter.fingerprint, str(many.adapter.path)):
        assert find_in(study, name, monkeypatch) == many
    with pytest.raises(UserError) as error:
        find_in(study, "tiny-llama/lora/world-math/seed0", monkeypatch)
    assert f"ambiguous: {few.name} ({few.adapter.fingerprint}), {many.name} (" in str(error.value)
    twins = make_study(arms=TWINS)
    assert find_in(twins, "tiny-llama/lora/world-math/seed0", monkeypatch).adapter


def test_folders_of_adapters_do_not_depend_on_the_other_arms():
    """So that a study which gains an arm trains only what is new."""
    first, both = make_study(arms=FEW_AND_MANY[:1]), make_study(arms=FEW_AND_MANY)
    assert first.paths("train") == both.paths("train")[:1]


def test_a_whole_number_is_printed_as_one():
    """Snakemake's reasons and `status`: the field `epochs` accepts 0.5, so its values are floats."""
    three, half = (
        make_study(training={"epochs": epochs}, arms=[{**FEW_AND_MANY[0], "training": {}}])
        for epochs in (3, 0.5)
    )
    changes = explain_changes(
        half, half.artifacts["train"][0], three.artifacts["train"][0].identity, lambda *_: None
    )
    assert list(changes) == ["training.epochs: 3 -> 0.5 (params/study/s.yaml)"]


def test_a_report_is_stale_when_any_of_its_words_change(monkeypatch):
    """Titles, the names and the order of arms, and the headline are in no score."""
    plain = make_study(arms=FEW_AND_MANY)
    renamed = [{**FEW_AND_MANY[0], "name": "some"}, FEW_AND_MANY[1]]
    swapped = [
        {**FEW_AND_MANY[0], "name": "many"},
        {**FEW_AND_MANY[1], "name": "few"},
    ]
    others = [
        make_study(arms=renamed),
        make_study(arms=swapped),
        make_study(arms=FEW_AND_MANY[::-1]),
        make_study(arms=FEW_AND_MANY, protocols=["strict", "paper"]),
        make_study(arms=FEW_AND_MANY, protocols=["strict", "paper"], headline=["paper"]),
    ]
    reports = [study.report.fingerprint for study in (plain, *others)]
    assert len(set(reports)) == len(reports)
    card = read_card("datasets", "world-addsub")
    monkeypatch.setitem(card.__dict__, "title", "Sums")
    retitled = make_study(arms=FEW_AND_MANY)
    assert retitled.report.fingerprint != plain.report.fingerprint
    assert retitled.paths("score") == plain.paths("score")
    changes = dict(
        line.rsplit(" (", 1)
        for line in explain_changes(retitled, retitled.report, plain.report.identity, lambda *_: None)
    )
    assert set(changes.values()) == {"params/datasets/world-addsub.yaml)"}
    # of the table of sources
    model = plain.card.models[0]
    assert (
        find_param_file(plain, plain.report, ("sources", model, "licence")) == f"params/models/{model}.yaml"
    )


def test_answers_of_an_earlier_version_of_the_code_are_not_taken_over(monkeypatch):
    before = make_study()
    stage = STAGES["generate"]
    monkeypatch.setitem(STAGES, "generate", replace(stage, version=stage.version + 1))
    after = make_study()
    for run, later in zip(before.runs, after.runs, strict=True):
        fingerprints = [{task.fingerprint for task in s.tasks(r)} for s, r in ((before, run), (after, later))]
        assert fingerprints[0].isdisjoint(fingerprints[1])


def test_the_order_in_which_sets_are_mixed_is_part_of_what_is_made_of_them():
    assert list_order(["world-math", "gsm8k"]) != list_order(["gsm8k", "world-math"])
    # mixtures from before the order counted
    for name in ("commonsense-7", "commonsense-7-clean", "commonsense_170k-rebuilt", "mawps-clean"):
        assert list_order(read_card("datasets", name).parts) == {}


def test_how_a_likelihood_becomes_the_accuracy_is_part_of_the_scores(monkeypatch):
    arms = [{**FEW_AND_MANY[0], "tasks": ["world-boolq"]}]
    raw = make_study(arms=arms, protocols=["strict", "likelihood"])
    monkeypatch.setitem(read_card("protocols", "likelihood").__dict__, "headline", "normalised")
    normalised = make_study(arms=arms, protocols=["strict", "likelihood"])
    assert raw.paths("generate") == normalised.paths("generate")
    assert set(raw.paths("score")).isdisjoint(normalised.paths("score"))


def test_two_cards_of_one_model_are_refused():
    bases = [Artifact("base", f"{name}/", {"repo_id": "a/b", "revision": None}) for name in ("mine", "yours")]
    with pytest.raises(UserError, match=r"s\.yaml: 'mine' and 'yours' are the same model under two names"):
        refuse_aliases(bases, where="s.yaml")
    refuse_aliases([bases[0], bases[0]], where="s.yaml")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_adapters_in_16_bits_are_not_those_whose_own_weights_were_in_16_bits(dtype):
    arms = FEW_AND_MANY[:1]
    (plain,) = make_study(arms=arms).artifacts["train"]
    assert plain.params.keys() == {"method", "training", "seed"}
    study = make_study(arms=arms, training={"dtype": dtype})
    (adapter,) = study.artifacts["train"]
    assert adapter.params["precision"] == "autocast"
    assert find_param_file(study, adapter, ("precision",)) == study.where
