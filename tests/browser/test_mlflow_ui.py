"""MLflow's own page in a real browser: the runs table and the compare page show names, parameters and scores."""

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from urllib.parse import quote

import pytest
from mlflow.tracking import MlflowClient

from pipeline import tracking
from tests.integration.test_tracking import write_run

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="skipped: no chromium on this machine (apt-get install chromium)"
)


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("aaa", "bbb"):
        tracking.track(**write_run(name))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = tracking.default_store()
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        store,
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    running = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{address}/health", timeout=2)
            break
        except OSError:
            time.sleep(0.3)
    yield address
    subprocess.run(["pkill", "-TERM", "-s", str(running.pid)], check=False)
    running.wait(timeout=30)


def test_runs_table_and_compare_page_show_names_parameters_and_scores(server):
    from playwright.sync_api import sync_playwright

    client = MlflowClient(tracking.default_store())
    experiment = client.get_experiment_by_name("study").experiment_id
    ids = [run.info.run_id for run in client.search_runs([experiment])]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        page = browser.new_page(viewport={"width": 1600, "height": 1200})
        page.goto(f"{server}/#/experiments/{experiment}/runs")
        page.get_by_text("tiny-lora-aaa").first.wait_for(timeout=60_000)
        assert page.get_by_text("tiny-lora-bbb").count() > 0
        page.goto(
            f"{server}/#/compare-runs?runs={quote(json.dumps(ids))}&experiments={quote(json.dumps([experiment]))}"
        )
        page.get_by_text("accuracy/svamp-strict").first.wait_for(timeout=60_000)
        text = page.inner_text("body")
        browser.close()
    assert all(
        part in text for part in ("tiny-lora-aaa", "tiny-lora-bbb", "training.learning_rate", "0.0003", "0.5")
    )
