"""The report page in a real browser: it opens from disk without a network, is filled, and does what a reader asks of it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline import report
from pipeline.core.io import write_jsonl
from tests.finished_study import make_small_study, make_varied_study

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="skipped: no chromium on this machine (apt-get install chromium)"
)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@dataclass
class OpenPage:
    """A page in the browser with what went wrong on it and what it loaded."""

    page: Page
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@contextmanager
def open_page(browser: Browser, folder: Path, **options) -> Iterator[OpenPage]:
    page = browser.new_page(**options)
    page.set_default_timeout(10_000)
    opened = OpenPage(page)
    page.on("pageerror", lambda error: opened.errors.append(str(error)))
    page.on(
        "console", lambda message: opened.errors.append(message.text) if message.type == "error" else None
    )
    page.on("request", lambda request: opened.requests.append(request.url))
    page.goto((folder / "index.html").as_uri())
    yield opened
    page.close()
    assert opened.errors == []
    assert all(url.startswith((folder.as_uri(), "data:", "blob:")) for url in opened.requests)


# hostile texts where models, methods, questions and answers are shown
SCRIPT = "</script><script>window.hacked = 1</script>"
IMAGE = "<img src=x onerror='window.hacked = 1'>"


@pytest.fixture(scope="module")
def played_folder(tmp_path_factory) -> Path:
    """A page of two models, one with a hostile title, two methods and hostile answers."""
    folder = tmp_path_factory.mktemp("played")
    runs = [
        (model, method, seed, right)
        for model, shift in (("m", 0), ("n", 1))
        for method, seed, right in (
            ("bare", None, 1),
            ("lora", 0, 4),
            ("lora", 1, 3),
            ("series", 0, 2),
            ("series", 1, 2),
        )
        for right in [right + shift]
    ]
    study = make_small_study(folder, runs)
    models = [
        replace(model, title=f"{model.title} {SCRIPT}") if model.name == "n" else model
        for model in study.models
    ]
    for run in study.runs:
        if run.adapter and run.method == "series":
            # series has more parameters than lora and is worse: lora beats it
            (run.adapter / "manifest.json").write_text(
                '{"trainable_parameters": 5000, "all_parameters": 100000}'
            )
    answers = next(run.answers for run in study.runs if run.model == "m" and run.method == "lora")
    rows = [json.loads(line) for line in (answers / "t-strict.jsonl").read_text().splitlines()]
    rows[2]["text"] = f"needle {SCRIPT} {IMAGE}"
    write_jsonl(answers / "t-strict.jsonl", rows)
    # the small study's fingerprints are those of one model
    named = [replace(run, fingerprint=f"{run.model}{run.method}{run.seed}") for run in study.runs]
    report.build(
        replace(study, models=models, runs=named), output=folder / "reports/small", fingerprint="abc"
    )
    return folder / "reports/small"


@pytest.mark.parametrize(
    ("make_report_study", "figure_count"), [(make_small_study, 6), (make_varied_study, 7)]
)
def test_the_page_opens_offline_and_is_filled(tmp_path, browser, make_report_study, figure_count):
    folder = tmp_path / "reports/small"
    report.build(make_report_study(tmp_path), output=folder, fingerprint="abc")
    with open_page(browser, folder) as opened:
        tables = opened.page.eval_on_selector_all(
            "table.data", "all => all.map(t => [t.id, t.querySelectorAll('td').length])"
        )
        drawings = opened.page.eval_on_selector_all(
            "figure .sheet > svg",
            "all => all.map(s => [s.getBoundingClientRect().height, s.querySelectorAll('path').length])",
        )
        text = opened.page.inner_text("body")
        assert len(opened.requests) == 1
    names = {name for name, _ in tables}
    assert names >= {"accuracy-arithmetic-strict", "difference-arithmetic-strict", "cost", "runs"}
    assert all(cells for _, cells in tables)
    assert len(drawings) == figure_count
    assert all(height > 50 and paths > 10 for height, paths in drawings)
    assert all(word in text for word in ("LLaMA", "LoRA", "Series", "70.0", "tags.fingerprint = 'flora0'"))


def list_methods(page: Page) -> list[str]:
    return page.eval_on_selector_all(
        "#accuracy-arithmetic-strict tr[data-model=LLaMA]",
        "rows => rows.filter(r => r.offsetParent).map(r => r.dataset.method)",
    )


def test_rows_are_sorted_within_their_model(browser, played_folder):
    with open_page(browser, played_folder) as opened:
        button = opened.page.locator("#accuracy-arithmetic-strict th button", has_text="Macro average")
        before = list_methods(opened.page)
        button.click()
        down = list_methods(opened.page)
        button.click()
        up = list_methods(opened.page)
    assert before == ["no adapter", "LoRA", "Series"]
    assert down == ["LoRA", "Series", "no adapter"]
    assert up == down[::-1]


def test_a_choice_hides_rows_columns_and_intervals(browser, played_folder):
    with open_page(browser, played_folder) as opened:
        page = opened.page
        table = page.locator("#accuracy-arithmetic-strict")
        page.locator("#choices summary").click()
        page.get_by_label("Series", exact=True).uncheck()
        page.get_by_label("show intervals").uncheck()
        page.get_by_label("Task", exact=True).uncheck()
        assert list_methods(page) == ["no adapter", "LoRA"]
        assert table.locator("th[data-task]").is_hidden()
        assert table.locator(".ci").first.is_hidden()
        page.get_by_role("button", name="Show everything").click()
        assert list_methods(page) == ["no adapter", "LoRA", "Series"]
        assert table.locator("th[data-task]").is_visible()


def test_a_choice_hides_methods_and_models_of_the_headline(browser, played_folder):
    with open_page(browser, played_folder) as opened:
        page = opened.page
        table = page.locator("#headline")
        before = table.inner_text()
        page.locator("#choices summary").click()
        page.get_by_label("Series", exact=True).uncheck()
        page.get_by_label("LLaMA", exact=True).uncheck()
        assert table.locator("tbody tr:visible th").all_inner_texts() == ["no adapter", "LoRA"]
        heads = table.locator("thead th:visible").all_inner_texts()
        assert heads[:2] == ["Method", "arithmetic"]
        assert [head[:5] for head in heads[2:]] == ["BLOOM"]
        assert table.locator("tbody tr:visible td:visible").count() == 2
        page.get_by_role("button", name="Show everything").click()
        page.wait_for_function("text => document.getElementById('headline').innerText === text", arg=before)


def test_a_choice_counts_the_outcomes_of_its_runs(browser, played_folder):
    with open_page(browser, played_folder) as opened:
        page = opened.page
        row = page.locator("#task-outcomes tbody tr")
        before = row.inner_text()
        # two models, and of each method the answers of its runs
        assert "right 29 (58.0 %)" in before
        page.locator("#choices summary").click()
        page.get_by_label("Series", exact=True).uncheck()
        page.get_by_label("LLaMA", exact=True).uncheck()
        assert "right 11 (73.3 %)" in row.inner_text()
        width = row.locator(".bar .right").evaluate("part => part.style.width")
        assert float(width.removesuffix("%")) == pytest.approx(100 * 11 / 15, abs=0.01)
        page.get_by_role("button", name="Show everything").click()
        page.wait_for_function(
            "text => document.querySelector('#task-outcomes tbody tr').innerText === text", arg=before
        )
        page.get_by_label("Task", exact=True).uncheck()
        assert row.is_hidden()


def test_on_paper_heads_repeat_and_the_figure_is_light(browser, played_folder):
    with open_page(
        browser, played_folder, color_scheme="dark", viewport={"width": 390, "height": 800}
    ) as opened:
        page = opened.page
        text = "() => getComputedStyle(document.querySelector('#pareto .xtitle')).fill"
        assert page.evaluate(text) == "rgb(236, 236, 240)"
        page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
        assert page.evaluate(text) == "rgb(27, 27, 31)"
        page.emulate_media(media="print")
        # Chromium repeats no head with a box of a button in it
        assert (
            page.locator("#runs th button").first.evaluate("b => getComputedStyle(b).display") == "contents"
        )
        assert page.locator("#choices").is_hidden()
        page.emulate_media(media="screen")
        page.evaluate("window.dispatchEvent(new Event('afterprint'))")
        assert page.evaluate(text) == "rgb(236, 236, 240)"


def test_the_figure_shows_which_methods_are_not_beaten_in_two_costs(browser, played_folder):
    with open_page(browser, played_folder) as opened:
        page = opened.page
        status = page.locator("#pareto-status")
        assert "LLaMA: LoRA 70.0;" in status.inner_text()
        labels = page.eval_on_selector_all("#pareto .textpoint text", "all => all.map(t => t.textContent)")
        # two models with two methods in two panels
        assert sorted(set(labels)) == ["LoRA", "Series"]
        assert len(labels) == 8
        page.locator("#pareto-form select[name=first]").select_option("memory")
        page.locator("#pareto-form select[name=second]").select_option("")
        assert "peak memory" in page.locator("#pareto .xtitle").text_content()
        assert page.locator("#pareto .textpoint text").count() == 4
        page.locator("#choices summary").click()
        page.get_by_label("LoRA", exact=True).uncheck()
        assert "LLaMA: Series 40.0;" in status.inner_text()


def test_a_method_is_not_beaten_by_one_whose_accuracy_only_rounds_to_the_same(
    browser, played_folder, tmp_path
):
    folder = Path(shutil.copytree(played_folder, tmp_path / "report"))
    page = (folder / "index.html").read_text(encoding="utf-8")
    text = re.search(r'id="report-data">(.*?)</script>', page, flags=re.DOTALL)[1]
    data = json.loads(text)
    for point in data["points"]:
        is_lora = point["method"] == "LoRA"
        costs = dict.fromkeys(point["costs"], 2 if is_lora else 1)
        point |= {"average": [70.0, 60.0, 80.0], "exact": 70.04 if is_lora else 69.96, "costs": costs}
    page = page.replace(text, json.dumps(data).replace("<", "\\u003c"))
    (folder / "index.html").write_text(page, encoding="utf-8")
    with open_page(browser, folder) as opened:
        assert "LLaMA: LoRA 70.0, Series 70.0" in opened.page.locator("#pareto-status").inner_text()


def test_answers_are_chosen_searched_and_shown_as_text(browser, played_folder):
    with open_page(browser, played_folder) as opened:
        page = opened.page
        page.locator("#answer-form button[type=submit]").click()
        status = page.locator("#answer-status")
        status.get_by_text("50 answers of 10 runs").wait_for()
        page.locator("#answer-form [name=model]").select_option("LLaMA")
        page.locator("#answer-form [name=method]").select_option("LoRA")
        status.get_by_text("10 answers of 2 runs, 7 of them right").wait_for()
        page.locator("#answer-form [name=outcome]").select_option("unparsable")
        status.get_by_text("2 answers of 2 runs, 0 of them right").wait_for()
        page.locator("#answer-form [name=outcome]").select_option("")
        page.locator("#answer-form [name=search]").fill("NEEDLE")
        page.locator("#answer-form button[type=submit]").click()
        status.get_by_text("1 answers").wait_for()
        cells = page.locator("#answer-table tbody td").all_inner_texts()
        assert cells == [
            "t/2",
            "LLaMA, LoRA, arithmetic, seed 0, strict",
            "right",
            "Is <b>2</b> so?",
            f"needle {SCRIPT} {IMAGE}",
            "true",
            "true",
        ]
        assert page.evaluate("window.hacked") is None


def test_a_run_leads_to_its_answers(browser, played_folder):
    with open_page(browser, played_folder) as opened:
        page = opened.page
        page.locator("#runs tr[data-model=LLaMA][data-method=Series] a[href^='#answers/']").first.click()
        page.locator("#answer-status").get_by_text("5 answers of 1 run").wait_for()
        assert page.locator("#answer-table tbody tr").count() == 5


def test_a_page_without_its_files_says_so(browser, played_folder, tmp_path):
    shutil.copy(played_folder / "index.html", tmp_path)
    page = browser.new_page()
    page.goto((tmp_path / "index.html").as_uri())
    page.locator("#answer-form button[type=submit]").click()
    page.locator("#answer-status").get_by_text("is not beside this page").wait_for()
    assert page.locator("#answer-table tbody tr").count() == 0
    page.close()


@pytest.mark.parametrize("width", [390, 1180, 1440])
def test_nothing_is_cut_off(browser, played_folder, width):
    with open_page(browser, played_folder, viewport={"width": width, "height": 900}) as opened:
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_accessible(browser, played_folder, scheme):
    axe = pytest.importorskip("axe_playwright_python", reason="skipped: needs axe-playwright-python")
    script = Path(axe.__file__).parent / "axe.min.js"
    with open_page(browser, played_folder, color_scheme=scheme) as opened:
        page = opened.page
        page.eval_on_selector_all("details", "all => all.forEach(part => part.open = true)")
        page.locator("#answer-form button[type=submit]").click()
        page.locator("#answer-status").get_by_text("50 answers").wait_for()
        page.evaluate(script.read_text())
        result = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    assert [(rule["id"], rule["nodes"][0]["html"]) for rule in result["violations"]] == []
