"""What a report says where each method has one seed: intervals about this run alone, and no stars."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import report
from pipeline.params.reading import CARDS, parse_card
from pipeline.study.description import (
    FigureDescription,
    PointDescription,
    StudyDescription,
)
from tests.finished_study import make_small_study

SIZE = 40
# the methods differ by more than chance among the examples explains
RIGHT = {"bare": 0, "lora": 40, "series": 12}
ALONE = "about this run alone"


def make_study_of_seeds(folder: Path, seeds: list[int]) -> StudyDescription:
    """A study of a bare base and two methods with these seeds, a figure of its own and published figures."""
    results = [
        ("m", method, seed, right)
        for method, right in RIGHT.items()
        for seed in ([None] if method == "bare" else seeds)
    ]
    points = [
        PointDescription(method=method, card="lora", line="LoRA", field="r", setting=r)
        for method, r in (("lora", 2), ("series", 4))
    ]
    part = {"training_set": "s", "source": "S", "tasks": ["t"], "measurement": "ours"}
    ours = {"model": "m", "method": "lora", "average": 50.0}
    published = {
        "title": "P",
        "measurements": {"ours": {"measured_by": "them", "prompting": "p", "parsing": "q"}},
        "tables": [{**part, "name": "n", "rows": [{**ours, "accuracy": [50.0]}]}],
        "figures": [{**part, "name": "f", "field": "r", "points": [{**ours, "setting": 2, "source": "S"}]}],
    }
    return replace(
        make_small_study(folder, results, size=SIZE),
        figure=FigureDescription("Accuracy against the rank", {"r": "rank"}, points),
        published=parse_card(CARDS["published"], published, where="here"),
    )


@pytest.fixture(scope="module", params=[[3], [3, 4]], ids=["one seed", "two seeds"])
def built(request, tmp_path_factory) -> tuple[list[int], Path]:
    """The seeds of a study, and the folder of its report."""
    folder = tmp_path_factory.mktemp("study")
    study = make_study_of_seeds(folder, request.param)
    report.build(study, output=folder / "report", fingerprint="abc")
    return request.param, folder / "report"


def read_table(folder: Path, name: str) -> tuple[str, list[str]]:
    """Return the caption and the rows of a table."""
    caption, _, rows = (folder / f"tables/{name}-arithmetic-strict.md").read_text().partition("\n")
    return caption, rows.strip().splitlines()[2:]


@pytest.mark.parametrize("name", ["difference", "tests", "pairs"])
def test_a_comparison_is_starred_with_two_seeds_and_never_with_one(built, name):
    seeds, folder = built
    caption, rows = read_table(folder, name)
    assert any("*" in row for row in rows) == (len(seeds) > 1)
    if len(seeds) == 1:
        assert "about these runs alone" in caption
        assert "nothing is starred" in caption
        assert "seeds 3" not in caption
    for suffix in ("csv", "tex"):
        text = (folder / f"tables/{name}-arithmetic-strict.{suffix}").read_text()
        assert ("]*" in text) == (len(seeds) > 1)
    page = (folder / "index.html").read_text()
    assert ("behind the stars" in page) == (len(seeds) > 1)


@pytest.mark.parametrize("name", ["published", "published-settings"])
def test_a_published_figure_is_marked_with_two_seeds_and_never_with_one(built, name):
    seeds, folder = built
    caption, rows = read_table(folder, name)
    assert any("✓" in row or "✗" in row for row in rows) == (len(seeds) > 1)
    assert (ALONE in caption) == (len(seeds) == 1)
    assert "100.0 − 50.0 = +50.0" in rows[0]


def test_intervals_are_over_seeds_only_where_there_are_several(built):
    seeds, folder = built
    caption, _ = read_table(folder, "accuracy")
    page = (folder / "index.html").read_text()
    if len(seeds) > 1:
        assert "mean over seeds 3, 4" in caption
        assert "otherwise a bootstrap interval over examples and seeds" in caption
        assert "95 % interval over examples and seeds" in page
        assert ALONE not in page
    else:
        assert "seed 3" in caption
        assert ALONE in caption
        assert "examples and seeds" not in page
        assert "mean over seeds" not in page
        assert "say little about other seeds" not in page
        figures = page.split("<figcaption>")[1:]
        # of the headline's figure, three of the section and that of the setting; the losses have no intervals
        assert sum(ALONE in figure.partition("</figcaption>")[0] for figure in figures) == 5
