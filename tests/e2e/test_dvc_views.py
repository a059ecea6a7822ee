"""What DVC's users look at after a change: params, metrics and plots, against the last commit."""

import csv
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.conftest import Checkout

PLOTS = {
    "accuracy.csv": ("Accuracy by method", ["accuracy", "revision"]),
    "learning_curves.csv": ("Training loss", ["step", "loss", "revision"]),
}


def leaves(value: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, float]]:
    """The numbers of a report's metrics by the names that DVC gives them."""
    for key, one in value.items():
        if isinstance(one, dict):
            yield from leaves(one, (*above, key))
        else:
            yield ".".join((*above, key)), one


def reported(checkout: Checkout) -> tuple[dict[str, float], dict[str, list[dict[str, str]]]]:
    """The numbers of the report, and the rows of what it plots."""
    folder = checkout.folder / "reports/small"
    numbers = dict(leaves(json.loads((folder / "metrics.json").read_text())))
    return numbers, {
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
    """What changed is told with both its values, which are those of the score files; what did not is left out."""
    told = json.loads(checkout.run("dvc", "metrics", "diff", "--json"))["reports/small/metrics.json"]
    differing = {name for name in now if now[name] != before[name]}
    assert {name: (one["old"], one["new"]) for name, one in told.items()} == {
        name: (before[name], now[name]) for name in differing
    }
    name = "strict.small-llama.lora.world-boolq"
    assert name in differing
    assert not any(".bare." in one for one in differing)  # it was not trained
    (scores,) = checkout.folder.glob("results/scores/small-llama/lora/small-yes-no/seed0/*.json")
    scored = json.loads(scores.read_text())["tasks"]["world-boolq-strict"]["accuracy"]
    assert told[name]["new"] == pytest.approx(scored, abs=1e-6)
    (line,) = [line for line in checkout.run("dvc", "metrics", "diff").splitlines() if f"{name} " in line]
    assert line.split()[2:4] == [str(before[name]), str(now[name])]
    shown = json.loads(checkout.run("dvc", "metrics", "show", "--json"))
    assert dict(leaves(shown[""]["data"]["reports/small/metrics.json"]["data"])) == now


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
