"""The report page in a real browser: it opens from disk without further requests, and no table or figure is empty."""

import csv
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import report
from pipeline.report.figures import place_settings
from pipeline.study.description import FigureDescription, PointDescription, StudyDescription
from tests.finished_study import make_small_study

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="skipped: no chromium on this machine (apt-get install chromium)"
)


def make_varied_study(folder: Path) -> StudyDescription:
    """Return the small study with its methods as two ranks of the same line."""
    points = [
        PointDescription(method="series", card="lora", line="LoRA", field="r", setting=2),
        PointDescription(method="lora", card="lora", line="LoRA", field="r", setting=4),
    ]
    figure = FigureDescription("Accuracy against the rank", {"r": "rank"}, points)
    return replace(make_small_study(folder), figure=figure)


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
    body = text[text.index('id="accuracy-arithmetic-strict"') : text.index("</table>")]
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", body)][1:]
    for model, method, *numbers in rows[:-2]:
        assert model == "LLaMA"
        for number in numbers:
            (target,) = re.findall(r'href="#([^"]+)"', number)
            row = re.search(rf'<tr id="{target}">(.*?)</tr>', text).group(1)
            assert {"LoRA": ">lora<", "Series": ">series<", "no adapter": ">bare<"}[method] in row
            assert len(re.findall('href="../../', row)) == 2


@pytest.mark.parametrize("make_report_study", [make_small_study, make_varied_study])
def test_the_contents_link_to_every_section(tmp_path, make_report_study):
    study = make_report_study(tmp_path)
    report.build(study, output=tmp_path / "reports/small", fingerprint="abc")
    page = (tmp_path / "reports/small/index.html").read_text()
    targets = re.findall(r'href="#([^"]+)"', page[page.index("<nav>") : page.index("</nav>")])
    assert re.findall(r'<h2 id="([^"]+)"', page) == targets
    # the study's own figure comes first and needs no link
    assert page.count("<h2") - len(targets) == (study.figure is not None)


def test_captions_state_what_is_corrected(page_folder):
    tables = page_folder / "tables"
    for name in ("difference-arithmetic-strict", "pairs-arithmetic-strict"):
        caption = (tables / f"{name}.md").read_text().partition("\n")[0]
        assert "of each comparison by itself: without the correction" in caption
        assert "after Holm's correction over the" in caption
    assert "of one run, as a bare base's" in (tables / "accuracy-arithmetic-strict.md").read_text()


def test_a_study_without_bare_bases_has_a_report(tmp_path):
    study = make_small_study(tmp_path)
    study = replace(study, runs=[run for run in study.runs if run.method != "bare"])
    report.build(study, output=tmp_path / "reports/small", fingerprint="abc")
    page = (tmp_path / "reports/small/index.html").read_text()
    assert "difference-" not in page
    assert page.count("<svg") == 4


def test_a_study_that_varies_a_setting_has_a_figure_and_its_numbers(tmp_path):
    folder = tmp_path / "reports/small"
    report.build(make_varied_study(tmp_path), output=folder, fingerprint="abc")
    page = (folder / "index.html").read_text()
    assert "<h2>Accuracy against the rank</h2>" in page
    figure = page[page.index('<figure id="figure-settings-arithmetic-strict">') :]
    assert "<svg" in figure[: figure.index("</figure>")]
    assert page.count("<svg") == 5
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


@pytest.mark.parametrize(
    ("make_report_study", "figure_count"), [(make_small_study, 4), (make_varied_study, 5)]
)
def test_the_page_opens_offline_and_is_filled(tmp_path, make_report_study, figure_count):
    from playwright.sync_api import sync_playwright

    page_folder = tmp_path / "reports/small"
    report.build(make_report_study(tmp_path), output=page_folder, fingerprint="abc")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        page = browser.new_page()
        errors, requests = [], []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: requests.append(request.url))
        page.goto((page_folder / "index.html").as_uri())
        tables = page.eval_on_selector_all("table", "all => all.map(t => [t.id, t.tBodies[0].rows.length])")
        drawings = page.eval_on_selector_all(
            "figure svg",
            "all => all.map(s => [s.getBoundingClientRect().height, s.querySelectorAll('path').length])",
        )
        text = page.inner_text("body")
        browser.close()
    assert errors == []
    assert len(requests) == 1
    assert {name for name, rows in tables if rows} >= {
        "accuracy-arithmetic-strict",
        "difference-arithmetic-strict",
        "cost",
        "runs",
    }
    assert all(rows for _, rows in tables)
    assert len(drawings) == figure_count
    assert all(height > 50 and paths > 10 for height, paths in drawings)
    assert all(word in text for word in ("LLaMA", "LoRA", "Series", "70.0", "tags.fingerprint = 'flora0'"))


def test_answers_unfold_by_outcome_and_are_escaped(tmp_path, page_folder):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        page = browser.new_page()
        page.set_default_timeout(120_000)
        page.goto((page_folder / "index.html").as_uri())
        summary = page.locator("details.outcome > summary").inner_text()
        widths = page.eval_on_selector_all(
            ".bar > span", "all => all.map(s => s.getBoundingClientRect().width)"
        )
        visible_at_first = page.get_by_text("<i>0</i>").first.is_visible()
        page.locator("details.outcome > summary").click()
        page.locator("details.sample > summary", has_text="right: 3 of 13").click()
        cells = page.locator("details.sample[open] tbody tr").first.locator("td").all_inner_texts()
        browser.close()
    assert "right 13 (52.0 %), wrong 7 (28.0 %), unparsable 5 (20.0 %)" in " ".join(summary.split())
    assert widths == pytest.approx([share * sum(widths) for share in (0.52, 0.28, 0.2)], abs=1)
    assert not visible_at_first
    assert cells == ["t/0", "m bare", "Is <b>0</b> so?", "<i>0</i>", "true", "true"]
