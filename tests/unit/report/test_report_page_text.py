"""The report page and the files beside it as text: links, ids, captions and the study's own figure."""

import csv
import re
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import report
from pipeline.report.figures import place_settings
from tests.finished_study import make_small_study, make_varied_study


def count_drawings(page: str) -> int:
    return page.count('<div class="sheet" role="img"')


@pytest.fixture
def page_folder(tmp_path) -> Path:
    report.build(make_small_study(tmp_path), output=tmp_path / "reports/small", fingerprint="abc")
    return tmp_path / "reports/small"


def test_equal_inputs_give_equal_bytes(tmp_path, page_folder):
    before = {path: path.read_bytes() for path in page_folder.rglob("*") if path.is_file()}
    report.build(make_small_study(tmp_path), output=page_folder, fingerprint="abc")
    assert {path: path.read_bytes() for path in page_folder.rglob("*") if path.is_file()} == before


def test_every_number_links_to_the_files_of_its_runs(page_folder):
    text = (page_folder / "index.html").read_text()
    body = text[text.index('<table id="accuracy-arithmetic-strict"') :]
    rows = re.findall(r'<tr data-model="LLaMA".*?</tr>', body[: body.index("</table>")])
    assert len(rows) == 3
    for method, *numbers in (re.findall(r"<td.*?>(.*?)</td>", row) for row in rows):
        assert len(numbers) == 2
        for number in numbers:
            (target,) = re.findall(r'href="#([^"]+)"', number)
            row = re.search(rf'<tr id="{target}"(.*?)</tr>', text).group(1)
            assert {"LoRA": ">lora<", "Series": ">series<", "no adapter": ">bare<"}[method] in row
            assert len(re.findall('href="../../', row)) == 2
            assert len(re.findall('href="#answers/', row)) == 1


@pytest.mark.parametrize("make_report_study", [make_small_study, make_varied_study])
def test_the_contents_link_to_every_section(tmp_path, make_report_study):
    study = make_report_study(tmp_path)
    report.build(study, output=tmp_path / "reports/small", fingerprint="abc")
    page = (tmp_path / "reports/small/index.html").read_text()
    targets = re.findall(r'href="#([^"]+)"', page[page.index("<nav") : page.index("</nav>")])
    assert re.findall(r'<h2 id="([^"]+)"', page) == targets
    # the study's own figure comes first and needs no link
    assert page.count("<h2") - len(targets) == (study.figure is not None)


def test_the_ids_of_the_page_differ_and_its_figures_refer_to_their_own(page_folder):
    page = (page_folder / "index.html").read_text()
    # without the scripts, which have parts of pages as texts
    page = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    for figure in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL):
        own = set(re.findall(r'\bid="([^"]+)"', figure))
        targets = set(re.findall(r'(?:url\(|href=")#([^")]+)', figure))
        assert targets
        assert targets <= own


def test_the_first_screen_has_a_figure_of_the_headline(page_folder):
    page = (page_folder / "index.html").read_text()
    header = page[: page.index("</header>")]
    assert (
        header.index('id="headline"')
        < header.index('<figure id="figure-headline">')
        < header.index('<ul class="conclusions">')
    )
    assert (page_folder / "figures/headline.svg").read_text().startswith("<svg")


def test_captions_state_what_is_corrected(page_folder):
    tables = page_folder / "tables"
    for name in ("difference-arithmetic-strict", "pairs-arithmetic-strict"):
        caption = (tables / f"{name}.md").read_text().partition("\n")[0]
        assert "not corrected for the number of comparisons" in caption
        assert "after Holm's correction over the" in caption
    assert "Wilson's for a task with a single run" in (tables / "accuracy-arithmetic-strict.md").read_text()


def test_a_study_without_bare_bases_has_a_report(tmp_path):
    study = make_small_study(tmp_path)
    study = replace(study, runs=[run for run in study.runs if run.method != "bare"])
    report.build(study, output=tmp_path / "reports/small", fingerprint="abc")
    page = (tmp_path / "reports/small/index.html").read_text()
    assert "difference-" not in page
    assert count_drawings(page) == 6


def test_a_study_that_varies_a_setting_has_a_figure_and_its_numbers(tmp_path):
    folder = tmp_path / "reports/small"
    report.build(make_varied_study(tmp_path), output=folder, fingerprint="abc")
    page = (folder / "index.html").read_text()
    assert "<h2>Accuracy against the rank</h2>" in page
    figure = page[page.index('<figure id="figure-settings-arithmetic-strict">') :]
    assert "<svg" in figure[: figure.index("</figure>")]
    assert count_drawings(page) == 7
    with (folder / "plots/settings.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["line"], row["setting"], row["method"], row["seeds"]) for row in rows] == [
        ("LoRA", "2", "series", "2"),
        ("LoRA", "4", "lora", "2"),
    ]
    assert [float(row["estimate"]) for row in rows] == pytest.approx([0.5, 0.7])
    assert all(float(row["low"]) < float(row["estimate"]) < float(row["high"]) for row in rows)
    accuracies = (folder / "tables" / "accuracy-arithmetic-strict.md").read_text()
    for row in rows:
        low, high = (f"{100 * float(row[key]):.1f}" for key in ("low", "high"))
        assert f"[{low}, {high}]" in accuracies


def test_a_study_without_a_figure_has_no_section_for_it(page_folder):
    assert not (page_folder / "plots/settings.csv").exists()
    assert "figure-settings" not in (page_folder / "index.html").read_text()


@pytest.mark.parametrize(
    ("settings", "positions"),
    [
        (["MLP", "both", "MLP"], {"MLP": 0, "both": 1}),
        ([4, 2, 16], {2: 1, 4: 2, 16: 4}),
        ([10, 20, 40, 10], {10: 10, 20: 20, 40: 40}),
        ([0, 8], {0: 0, 8: 8}),
    ],
)
def test_settings_are_placed_in_order_by_value_or_by_magnitude(settings, positions):
    placed = place_settings(settings)
    assert placed == pytest.approx(positions)
    assert list(placed) == list(positions)


def test_a_task_whose_questions_are_in_the_training_set_is_marked(page_folder):
    table = (page_folder / "tables" / "accuracy-arithmetic-strict.md").read_text()
    assert "| Task † |" in table
