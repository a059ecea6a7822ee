"""What DVC's users look at after a change: params, metrics and plots, against the last commit."""

import csv
import json
import re
from typing import Any

import pytest

from tests.e2e.conftest import Checkout

PLOTS = {
    "accuracy.csv": ("Accuracy by method", ["accuracy", "revision"]),
    "learning_curves.csv": ("Training loss", ["step", "loss", "revision"]),
}


def averages(checkout: Checkout) -> dict[str, float]:
    """The average of the one arm, by the file that DVC shows it of."""
    methods = json.loads((checkout.folder / "reports/small/metrics.json").read_text())["strict"][
        "small-llama"
    ]
    return {
        f"results/summary/small-llama/{method}.json": scores["average arithmetic"]
        for method, scores in methods.items()
    }


def reported(checkout: Checkout) -> tuple[dict[str, float], dict[str, list[dict[str, str]]]]:
    """The numbers of the report, and the rows of what it plots."""
    folder = checkout.folder / "reports/small"
    return averages(checkout), {
        name: list(csv.DictReader((folder / "plots" / name).read_text().splitlines())) for name in PLOTS
    }


@pytest.fixture
def changed(checkout) -> tuple[Checkout, list[Any]]:
    """A checkout with another learning rate than in its last commit, at which it learns; what was reported of both."""
    study = "params/study/small.yaml"
    checkout.edit(study, "training_set: world-math", "training_set: small-yes-no")
    checkout.edit(study, "[world-addsub], limit: 40", "[world-boolq]")
    checkout.edit(study, "limit: 6\nmax_new_tokens: 4", "limit: 20\nmax_new_tokens: 6")
    checkout.edit(study, "max_steps: 4", "max_steps: 40")
    told = []
    for old, rate in (("1.0e-2", "1.0e-6"), ("1.0e-6", "1.0e-2")):
        checkout.edit(study, f"learning_rate: {old}", f"learning_rate: {rate}")
        checkout.snakemake()
        checkout.run("python", "-m", "pipeline", "commit")
        told.append(reported(checkout))
        if not checkout.run("git", "log", "--oneline", "--grep", "results"):
            checkout.run("git", "add", "--all")
            checkout.run("git", "commit", "--quiet", "--message", "results")
    return checkout, told


def test_params_metrics_and_plots_show_a_change(changed, tmp_path):
    checkout, ((before, plotted_before), (now, plotted_now)) = changed
    (told,) = json.loads(checkout.run("dvc", "params", "diff", "--json"))["params/study/small.yaml"].items()
    assert (told[0], told[1]["old"], told[1]["new"]) == ("training.learning_rate", 1e-6, 1e-2)
    _metrics(checkout, before, now)
    _plots(checkout, {"HEAD": plotted_before, "workspace": plotted_now})
    checkout.run("dvc", "plots", "diff", "--out", str(tmp_path / "plots"))
    page = (tmp_path / "plots/index.html").read_text()
    for title, _ in PLOTS.values():
        assert title in page
    assert all(f'"rev": "{revision}"' in page for revision in ("HEAD", "workspace"))


def _metrics(checkout: Checkout, before: dict[str, float], now: dict[str, float]) -> None:
    """DVC shows old and new accuracy of what changed, in tables that fit a terminal of 80 columns."""
    difference = json.loads(checkout.run("dvc", "metrics", "diff", "--json"))
    assert {
        path: (change["arithmetic"]["old"], change["arithmetic"]["new"])
        for path, change in difference.items()
    } == {path: (before[path], now[path]) for path in now if now[path] != before[path]}
    lora = "results/summary/small-llama/lora.json"
    assert lora in difference
    assert "results/summary/small-llama/bare.json" not in difference  # the bare base was not trained
    (scores,) = checkout.folder.glob("results/scores/small-llama/lora/small-yes-no/seed0/*.json")
    scored = json.loads(scores.read_text())["tasks"]["world-boolq-strict"]["accuracy"]
    assert now[lora] == pytest.approx(scored, abs=1e-6)
    shown = json.loads(checkout.run("dvc", "metrics", "show", "--json"))[""]["data"]
    assert {path: file["data"]["arithmetic"] for path, file in shown.items()} == now
    for view in (("metrics", "show"), ("metrics", "diff"), ("params", "diff"), ("exp", "diff")):
        lines = checkout.run("dvc", *view).splitlines()
        assert len(lines) <= 24
        # the last column of the others is the difference of two rates, which has many digits
        assert view[0] != "metrics" or max(map(len, lines)) <= 80


def _plots(checkout: Checkout, plotted: dict[str, dict[str, list[dict[str, str]]]]) -> None:
    """Each plot has both revisions' rows, as the report has them, under a title, on axes with names."""
    told = json.loads(checkout.run("dvc", "plots", "diff", "--json"))["data"]
    assert {path.rpartition("/")[2] for path in told} == set(PLOTS)
    for path, (plot,) in told.items():
        name = path.rpartition("/")[2]
        title, axes = PLOTS[name]
        content = plot["content"]
        assert title in content["title"]["text"]
        shown = re.findall(r'"title": "([^"]+)"', json.dumps(content["spec"]))
        assert set(axes) <= set(shown)
        for revision, rows in plotted.items():
            here = [row for row in content["data"]["values"] if row["rev"] == revision]
            assert len(here) > 1
            assert [{key: row[key] for key in rows[name][0]} for row in here] == rows[name]
