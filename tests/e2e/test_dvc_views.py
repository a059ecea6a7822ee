"""What DVC shows after a change, compared with the last commit: params, metrics and plots."""

import csv
import json
import re
from dataclasses import dataclass

import pytest

from tests.e2e.conftest import Checkout

PLOTS = {
    "accuracy.csv": ("Accuracy by method", ["accuracy", "revision"]),
    "learning_curves.csv": ("Training loss", ["step", "loss", "revision"]),
}


@dataclass(frozen=True)
class ReportNumbers:
    """The numbers of a report.

    Attributes:
        averages: average accuracy of the only arm, by the file in which DVC shows it.
        plots: rows of each plot, by file name.
    """

    averages: dict[str, float]
    plots: dict[str, list[dict[str, str]]]


def read_report(checkout: Checkout) -> ReportNumbers:
    """Return the numbers of a checkout's report."""
    folder = checkout.folder / "reports/small"
    methods = json.loads((folder / "metrics.json").read_text())["strict"]["small-llama"]
    averages = {
        f"results/summary/small-llama/{method}.json": scores["average arithmetic"]
        for method, scores in methods.items()
    }
    plots = {name: list(csv.DictReader((folder / "plots" / name).read_text().splitlines())) for name in PLOTS}
    return ReportNumbers(averages, plots)


@pytest.fixture
def changed(checkout) -> tuple[Checkout, ReportNumbers, ReportNumbers]:
    """Return a checkout with a higher learning rate than in its last commit, and the numbers of both reports.

    The adapters learn nothing with the committed rate, and something with the new rate.
    """
    study = "params/study/small.yaml"
    checkout.edit(study, "training_set: world-math", "training_set: small-yes-no")
    checkout.edit(study, "[world-addsub], limit: 40", "[world-boolq]")
    checkout.edit(study, "limit: 6\nmax_new_tokens: 4", "limit: 20\nmax_new_tokens: 6")
    checkout.edit(study, "max_steps: 4", "max_steps: 40")
    reports = []
    for old, rate in (("1.0e-2", "1.0e-6"), ("1.0e-6", "1.0e-2")):
        checkout.edit(study, f"learning_rate: {old}", f"learning_rate: {rate}")
        checkout.snakemake()
        checkout.run("python", "-m", "pipeline", "commit")
        reports.append(read_report(checkout))
        if not checkout.run("git", "log", "--oneline", "--grep", "results"):
            checkout.run("git", "add", "--all")
            checkout.run("git", "commit", "--quiet", "--message", "results")
    before, now = reports
    return checkout, before, now


def test_params_metrics_and_plots_show_a_change(changed, tmp_path):
    checkout, before, now = changed
    differences = json.loads(checkout.run("dvc", "params", "diff", "--json"))
    ((key, change),) = differences["params/study/small.yaml"].items()
    assert (key, change["old"], change["new"]) == ("training.learning_rate", 1e-6, 1e-2)
    check_metrics(checkout, before.averages, now.averages)
    check_plots(checkout, {"HEAD": before.plots, "workspace": now.plots})
    checkout.run("dvc", "plots", "diff", "--out", str(tmp_path / "plots"))
    page = (tmp_path / "plots/index.html").read_text()
    assert 'src="http' not in page
    for title, _ in PLOTS.values():
        assert title in page
    assert all(f'"rev": "{revision}"' in page for revision in ("HEAD", "workspace"))


def check_metrics(checkout: Checkout, before: dict[str, float], now: dict[str, float]) -> None:
    """Check that DVC shows the changed accuracies, in tables that fit a terminal of 80 columns."""
    difference = json.loads(checkout.run("dvc", "metrics", "diff", "--json"))
    changes = {
        path: (change["arithmetic"]["old"], change["arithmetic"]["new"])
        for path, change in difference.items()
    }
    assert changes == {path: (before[path], now[path]) for path in now if now[path] != before[path]}
    lora = "results/summary/small-llama/lora.json"
    assert lora in difference
    # the bare base was not trained
    assert "results/summary/small-llama/bare.json" not in difference
    (scores,) = checkout.folder.glob("results/scores/small-llama/lora/small-yes-no/seed0/*.json")
    accuracy = json.loads(scores.read_text())["tasks"]["world-boolq-strict"]["accuracy"]
    assert now[lora] == pytest.approx(accuracy, abs=1e-6)
    files = json.loads(checkout.run("dvc", "metrics", "show", "--json"))[""]["data"]
    assert {path: file["data"]["arithmetic"] for path, file in files.items()} == now
    for view in (("metrics", "show"), ("metrics", "diff"), ("params", "diff"), ("exp", "diff")):
        lines = checkout.run("dvc", *view).splitlines()
        assert len(lines) <= 24
        # the last column of the other views is the difference of two rates, which has many digits
        assert view[0] != "metrics" or max(map(len, lines)) <= 80


def check_plots(checkout: Checkout, plots: dict[str, dict[str, list[dict[str, str]]]]) -> None:
    """Check that each plot has a title, titled axes, and the rows of both revisions as in their reports.

    Args:
        checkout: the checkout.
        plots: revision -> file name -> rows.
    """
    views = json.loads(checkout.run("dvc", "plots", "diff", "--json"))["data"]
    assert {path.rpartition("/")[2] for path in views} == set(PLOTS)
    for path, (plot,) in views.items():
        name = path.rpartition("/")[2]
        title, axes = PLOTS[name]
        content = plot["content"]
        assert title in content["title"]["text"]
        titles = re.findall(r'"title": "([^"]+)"', json.dumps(content["spec"]))
        assert set(axes) <= set(titles)
        for revision, files in plots.items():
            rows = [row for row in content["data"]["values"] if row["rev"] == revision]
            assert len(rows) > 1
            assert [{key: row[key] for key in files[name][0]} for row in rows] == files[name]
