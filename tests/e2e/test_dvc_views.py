"""What DVC's users look at after a change: params, metrics and plots, against the last commit."""

import json


def test_params_metrics_and_plots_show_a_change(checkout):
    checkout.run("git", "add", "--all")
    checkout.run("git", "commit", "--quiet", "--message", "results")
    checkout.edit("params/methods/lora.yaml", "r: 32", "r: 4")
    checkout.snakemake()
    checkout.run("python", "-m", "pipeline", "commit")

    params = json.loads(checkout.run("dvc", "params", "diff", "--json"))
    told = {key: (one["old"], one["new"]) for file in params.values() for key, one in file.items()}
    assert told == {"r": (32, 4)}

    shown = json.loads(checkout.run("dvc", "metrics", "show", "--json"))
    values = shown[""]["data"]["reports/small/metrics.json"]["data"]["strict"]["small-llama"]
    assert set(values) == {"bare", "lora", "series"}
    assert 0 <= values["lora"]["world-addsub"] <= 1
    checkout.run("dvc", "metrics", "diff")

    checkout.run("dvc", "plots", "diff", "--out", "plots")
    page = (checkout.folder / "plots/index.html").read_text()
    assert "learning_curves.csv" in page
    assert "accuracy.csv" in page
    assert "workspace" in page
