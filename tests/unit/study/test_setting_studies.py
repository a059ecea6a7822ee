"""Studies that vary a setting of their methods: positions on the figure, and what a figure changes."""

import pytest

from pipeline.core.errors import UserError
from pipeline.params.reading import parse_card, read_card
from pipeline.params.resolve import resolve_method
from pipeline.params.studies import Entry, StudyCard
from pipeline.study import Study, load_study


def study_with_methods(methods, figure, **changes) -> Study:
    """A study with these method entries and this figure, otherwise equal to tiny-placement."""
    card = read_card("study", "tiny-placement").model_dump(exclude={"methods", "figure"})
    return Study(
        "s", parse_card(StudyCard, {**card, "methods": methods, "figure": figure, **changes}, where="s")
    )


RANKS = [{"method": "lora", "label": f"lora-{r}", "r": r} for r in (2, 4)]


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("placement", {key: ["attention", "MLP", "both"] for key in ("series", "parallel", "lora")}),
        (
            "hyperparameters",
            {
                "prefix-tuning": [10, 20, 30, 40],
                **{key: [64, 128, 256, 512] for key in ("adapter-p", "parallel")},
                "lora": [4, 8, 16, 32],
            },
        ),
    ],
)
def test_the_studies_of_a_setting_have_the_points_of_the_paper(name, lines):
    study = load_study(name)
    settings: dict[str, list] = {}
    for point in study.points:
        settings.setdefault(point.card, []).append(point.setting)
    assert settings == lines
    assert study.card.models == ["llama-7b"]
    assert study.card.arms == load_study("paper-math").card.arms
    tiny = load_study(f"tiny-{name}")
    assert len({point.card for point in tiny.points}) == len(lines)
    assert len(tiny.points) == len(study.points)


def test_a_study_can_change_the_placement_of_a_method():
    method = {run.method: run.adapter.params["method"] for run in load_study("placement").runs}
    assert method["series-attention"]["placement"] == {"o_proj": "after"}
    assert method["lora-mlp"]["target_modules"] == ["up_proj", "down_proj"]
    assert method["parallel-attention"]["placement"] == dict.fromkeys(
        ("q_proj", "k_proj", "v_proj"), "parallel"
    )


def test_studies_of_a_setting_share_adapters_with_the_paper_study():
    paper = {
        run.method: run.adapter for run in load_study("paper-math", seeds=1).runs if run.model == "llama-7b"
    }
    sizes = {run.method: run.adapter for run in load_study("hyperparameters").runs}
    places = {run.method: run.adapter for run in load_study("placement").runs}
    for name, adapter in (
        ("adapter-p", sizes["adapter-p-256"]),
        ("adapter-p", places["series-mlp"]),
        ("parallel", sizes["parallel-256"]),
        ("lora", sizes["lora-32"]),
        ("prefix-tuning", sizes["prefix-10"]),
        ("parallel", places["parallel-mlp"]),
        ("lora", places["lora-both"]),
    ):
        assert adapter.fingerprint == paper[name].fingerprint


def test_a_figure_changes_only_the_report():
    figure = {"title": "t", "x": {"r": "rank"}}
    plain, drawn, renamed = (
        study_with_methods(RANKS, spec) for spec in (None, figure, {**figure, "x": {"r": "another title"}})
    )
    for stage in ("train", "generate", "score"):
        assert plain.paths(stage) == drawn.paths(stage)
    assert len({study.report.fingerprint for study in (plain, drawn, renamed)}) == 3
    assert plain.points == []


def test_a_word_on_the_axis_changes_only_the_report():
    figure = {"title": "t", "x": {"setting": "place"}}
    attention_and_mlp, mlp = (
        study_with_methods([{"method": "lora", "setting": word}], figure) for word in ("both", "MLP")
    )
    assert attention_and_mlp.paths("train") == mlp.paths("train")
    assert attention_and_mlp.report.fingerprint != mlp.report.fingerprint


def test_a_figure_can_vary_a_training_setting():
    entries = [{"method": "lora", "label": f"l{n}", "training": {"learning_rate": n / 1000}} for n in (1, 2)]
    study = study_with_methods(entries, {"title": "t", "x": {"learning_rate": "learning rate"}})
    assert [point.setting for point in study.points] == [0.001, 0.002]


@pytest.mark.parametrize(
    ("methods", "x", "message"),
    [
        (
            RANKS,
            {"bottleneck_size": "size"},
            "'lora-2' must set exactly one of bottleneck_size (it sets: none)",
        ),
        (RANKS, {"r": "rank", "lora_alpha": "alpha"}, "(it sets: r, lora_alpha)"),
        (["lora", {**RANKS[0], "r": 32}], {"r": "rank"}, "'lora-2' has the same position as 'lora': r 32"),
        (["lora"], {"target_modules": "modules"}, "target_modules of 'lora' is neither a number nor a word"),
    ],
)
def test_a_method_without_a_position_of_its_own_in_the_figure_is_refused(methods, x, message):
    with pytest.raises(UserError, match="figure: ") as caught:
        study_with_methods(methods, {"title": "t", "x": x}).named()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_setting_without_an_axis_is_refused():
    with pytest.raises(
        UserError, match=r"'lora' has a setting, but no figure of the study has the axis x\.setting"
    ):
        study_with_methods([{"method": "lora", "setting": "both"}], {"title": "t", "x": {"r": "rank"}})


def test_unknown_modules_of_a_study_are_reported_with_its_file():
    with pytest.raises(UserError, match=r"params/study/s\.yaml: methods\.mine: placement: llama has no"):
        study_with_methods(
            [{"method": "series", "label": "mine", "placement": {"out_proj": "after"}}], None
        ).named()


def test_a_placement_missing_in_a_card_is_reported_with_its_file():
    with pytest.raises(UserError, match=r"params/methods/series\.yaml: placement: no value for architecture"):
        resolve_method(Entry(method="series", bottleneck_size=8), architecture="no-such", where="s")
