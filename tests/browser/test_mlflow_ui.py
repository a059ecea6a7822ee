"""MLflow's user interface in a real browser: the runs table and the compare page show names, parameters and scores."""

import contextlib
import json
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from urllib.parse import quote

import pytest
from mlflow.tracking import MlflowClient

from pipeline.results.mlflow import store as tracking
from pipeline.results.mlflow.view import view_path
from pipeline.study import load_study
from tests.conftest import ROOT
from tests.integration.test_tracking import make_run

CHROMIUM = shutil.which("chromium")
# long, since the machine may be busy
TIMEOUT_MS = 240_000
ACCURACY = "accuracy/world-svamp-strict"
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="skipped: no chromium on this machine (apt-get install chromium)"
)


@contextlib.contextmanager
def serve(store, log):
    """Run MLflow's server on a store, on a port that the kernel chooses; yield its address.

    Args:
        store: address of the store.
        log: file for the server's output, which has the address.
    """
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store]
    with log.open("w") as output:
        server = subprocess.Popen(
            [*command, "--port", "0", "--workers", "1"],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield wait_for_address(server, log)
    finally:
        subprocess.run(["pkill", "-TERM", "-s", str(server.pid)], check=False)
        server.wait(timeout=120)


def wait_for_address(server, log):
    """Return the address that a server has logged, once the server responds there."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()
        address = re.search(r"Uvicorn running on (http://127\.0\.0\.1:\d+)", log.read_text())
        if address:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{address[1]}/health", timeout=20)
                return address[1]
        time.sleep(0.3)
    raise AssertionError(f"no response from MLflow's server in five minutes: {log.read_text()}")


@contextlib.contextmanager
def open_page(**viewport):
    """Yield a page of a headless browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
            timeout=TIMEOUT_MS,
        )
        page = browser.new_page(viewport=viewport)
        page.set_default_timeout(TIMEOUT_MS)
        yield page
        browser.close()


def wait_for_text(page, *parts):
    """Wait until the text of a page, which is drawn step by step, contains all parts."""
    page.wait_for_function(
        "parts => parts.every(part => document.body.innerText.includes(part))", arg=list(parts)
    )


def compare_address(address, experiment, ids):
    """Return the address of the page that compares runs."""
    runs, experiments = quote(json.dumps(ids)), quote(json.dumps([experiment]))
    return f"{address}/#/compare-runs?runs={runs}&experiments={experiments}"


def test_runs_table_and_compare_page_show_names_parameters_and_scores(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("aaa", "bbb"):
        make_run(name).track()
    store = MlflowClient(tracking.default_store())
    experiment = store.get_experiment_by_name("study").experiment_id
    ids = [run.info.run_id for run in store.search_runs([experiment], "tags.kind = 'run'")]
    with (
        serve(tracking.default_store(), tmp_path / "server.log") as address,
        open_page(width=1600, height=1200) as page,
    ):
        page.goto(f"{address}{view_path(experiment)}")
        page.get_by_text("tiny/lora/aaa").first.wait_for()
        page.get_by_text("tiny/lora/bbb").first.wait_for()
        # the view's columns: averages and tags, without a choice of the user
        wait_for_text(page, "average/arithmetic-strict", "0.5", "method", "lora", "trainable_parameters")
        wait_for_text(page, "A study of two adapters")
        page.goto(compare_address(address, experiment, ids))
        wait_for_text(page, "accuracy/svamp-strict", "tiny/lora/aaa", "tiny/lora/bbb")
        wait_for_text(page, "training.learning_rate", "0.0003", "0.5")
        # a row compares the values of both runs
        row = page.get_by_role("row").filter(has_text="training.learning_rate").inner_text()
        assert row.split() == ["training.learning_rate", "0.0003", "0.0003"]


def test_all_runs_of_the_default_study_are_listed_and_compared(tmp_path):
    """Check the database that ``make results`` has written, as a user opens it."""
    if not (ROOT / "mlflow.db").exists():
        pytest.skip("skipped: no mlflow.db; run make results first")
    shutil.copy(ROOT / "mlflow.db", tmp_path / "mlflow.db")
    database = f"sqlite:///{tmp_path / 'mlflow.db'}"
    store = MlflowClient(database)
    experiment = store.get_experiment_by_name("quickstart")
    study = load_study("quickstart")
    fingerprints = {(run.adapter or study.answers(run)).fingerprint for run in study.runs}
    runs = [] if experiment is None else store.search_runs([experiment.experiment_id])
    runs = [run for run in runs if run.data.tags.get("fingerprint") in fingerprints]
    if len(runs) < len(fingerprints):
        pytest.skip("skipped: mlflow.db does not hold all runs of quickstart; run make results first")
    names = {run.info.run_name for run in runs}
    assert len(runs) == len(names) == len(study.runs)
    ids = [run.info.run_id for run in runs]
    averages = {key for run in runs for key in run.data.metrics if key.startswith("average/")}
    assert len(averages) == 2
    # both pages show a number without the zeros at its end
    shown_averages = {
        format_number(run.data.metrics[key], 6) for run in runs for key in averages & run.data.metrics.keys()
    }
    accuracies = {
        format_number(run.data.metrics[ACCURACY], 3) for run in runs if ACCURACY in run.data.metrics
    }
    assert len(shown_averages) > 20
    assert len(accuracies) > 20
    with serve(database, tmp_path / "server.log") as address:
        # high: the table of runs fills only the rows in view
        with open_page(width=2400, height=5000) as page:
            page.goto(f"{address}{view_path(experiment.experiment_id)}")
            wait_for_text(page, *names, *averages, *shown_averages)
            assert shown_averages <= set(page.inner_text("body").split())
        # wide: the compare page fills only the columns in view, and of the metrics the first rows
        with open_page(width=14000, height=5000) as page:
            page.goto(compare_address(address, experiment.experiment_id, ids))
            wait_for_text(page, ACCURACY, "training.learning_rate", "method.peft_type", *names)
            wait_for_text(page, *accuracies)
            assert accuracies <= set(page.inner_text("body").split())


def format_number(value, digits):
    """Return a number as MLflow's pages show it."""
    return f"{value:.{digits}f}".rstrip("0").rstrip(".")
