"""A mistake in params is one line before any job, one in data one line in the job that reads it, one in a command one line."""

import re
import shutil
from collections.abc import Callable

import pytest

from tests.e2e.conftest import Checkout


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        ("params/params.yaml", "small", "smal", ["params/study", "'smal'", "quickstart"]),
        ("params/study/small.yaml", "[small-llama]", "[lama]", ["params/models", "'lama'", "llama-7b"]),
        ("params/study/small.yaml", "[lora,", "[lorra,", ["params/methods", "'lorra'", "lora"]),
        (
            "params/study/small.yaml",
            "[world-addsub]",
            "[world-adsub]",
            ["params/datasets", "'world-adsub'", "world-addsub"],
        ),
        ("params/study/small.yaml", "seeds: [0]", "seeds: []", ["params/study/small.yaml", "seeds"]),
        (
            "params/study/small.yaml",
            "limit: 6",
            "limits: 6",
            ["params/study/small.yaml", "limits: unknown key"],
        ),
        ("params/study/small.yaml", "max_steps: 4", "max_steps: -4", ["max_steps", "-4"]),
        ("params/methods/lora.yaml", "q_proj, k_proj", "qq_proj, k_proj", ["lora.yaml", "qq_proj", "q_proj"]),
    ],
)
def test_refused_before_the_dag_in_one_line(checkout, file, old, new, told):
    checkout.edit(file, old, new)
    output = checkout.run("snakemake", "--dry-run", "--cores", "1", ok=False)
    (line,) = [line for line in output.splitlines() if line.startswith("error:")]
    assert all(part in line for part in told)
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("device=tpu", ["--config device", "'tpu'", "cuda"]),
        ("stduy=small", ["--config stduy", "study"]),
        ("processes=0", ["--config processes", "'0'"]),
        ("study=smal", ["params/study", "'smal'", "small"]),
    ],
)
def test_a_wrong_option_is_refused_before_the_dag(checkout, given, told):
    output = checkout.run("snakemake", "--dry-run", "--cores", "1", "--config", given, ok=False)
    (line,) = [line for line in output.splitlines() if line.startswith("error:")]
    assert all(part in line for part in told)
    assert "Traceback" not in output


def test_a_missing_model_or_dataset_is_one_line_at_run_time(checkout):
    checkout.edit("params/params.yaml", "small", "paper-math")
    assert "train" in checkout.planned()
    output = checkout.run("env", "HF_HUB_OFFLINE=1", "snakemake", "--cores", "2", "all_fetch", ok=False)
    errors = {line for line in output.splitlines() if line.startswith("error:")}
    assert any("math_10k" in line and "data_root" in line for line in errors)
    assert "Traceback (most recent call last)" not in output


def refused(checkout: Checkout, command: str) -> str:
    """The one line with which a command of ours is refused."""
    output = checkout.run("python", "-m", "pipeline", *command.split(), ok=False)
    assert "Traceback" not in output
    (line,) = [line for line in output.splitlines() if line.startswith("error:")]
    return line


def test_what_no_command_can_do_is_one_line(finished):
    for command, told in {
        "status --study smal": "no 'smal' (choices: ",
        "verify nofile": "no artifact at or below nofile",
        "prune nostage": "unknown stage 'nostage' (choices: fetch, ",
        "prune --yes": "add --store",
        "prune --store --older-than -3": "0 days or more (got -3)",
        "paths nostage": "unknown stage 'nostage' (choices: fetch, ",
        "paths train --model other": "study 'small' has no train of 'other'",
        "check-remote other": "remote 'other' doesn't exist",
        "stage-code --keep nostage": "unknown stage 'nostage' (choices: all, ",
        "stage-code --raise nostage": "unknown stage 'nostage' (choices: all, ",
        "reproduce small-llama/lora/world-math/seed9": "nearest: small-llama/lora/world-math/seed0",
        "reproduce strict/small-llama/lora/other": "such as strict/small-llama/",
        "reproduce small-llama/bare --worktree .": "is there already; --worktree wants a new folder",
        "train 0123": "study 'small' has no train '0123'",
    }.items():
        assert told in refused(finished, command), command


def _no_git(checkout: Checkout) -> None:
    shutil.rmtree(checkout.folder / ".git")


def _no_results(checkout: Checkout) -> None:
    for folder in ("data", "results", "reports", ".dvc/cache"):
        shutil.rmtree(checkout.folder / folder, ignore_errors=True)


def _wrote(name: str, text: str) -> Callable[[Checkout], None]:
    return lambda checkout: (checkout.folder / name).write_text(text) and None


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (
            _no_git,
            {
                "commit": "is not a git repository",
                "check-remote": "is not a git repository",
                "reproduce small-llama/bare": "not a git checkout",
            },
        ),
        (
            _no_results,
            {
                "verify": "no artifacts in this checkout; get them with dvc pull or run snakemake",
                "commit": "output 'data/raw' does not exist",
                "reproduce small-llama/bare": "no record, .*dvc pull",
                "reproduce strict/small-llama/bare/world-addsub": "metrics.json is missing",
            },
        ),
        (
            _wrote("dvc.lock", "{{{"),
            {
                "commit": "dvc.lock: cut off or not valid .*git checkout dvc.lock",
                "check-remote": "dvc.lock: cut off or not valid .*git checkout dvc.lock",
            },
        ),
        (_wrote("dvc.lock", "a: 1"), {"commit": "dvc.lock: cut off or not valid .*git checkout dvc.lock"}),
        (
            _wrote(".dvc/config", "[broken"),
            dict.fromkeys(("status", "commit"), ".dvc/config: not valid") | {"check-remote": "config"},
        ),
        (_wrote("mlflow.db", "no database"), {"track": "4 of 4 runs were not recorded"}),
        (_wrote("reports/small/metrics.json", "{"), {"reproduce x": "metrics.json: not valid JSON"}),
        (_wrote("params/params.yaml", "study: ["), {"status": "params.yaml: not valid YAML"}),
        (_wrote("pipeline/study/stage_code.json", "{"), {"stage-code": "stage_code.json: not valid JSON"}),
    ],
    ids=[
        "no git",
        "no results",
        "lock",
        "other lock",
        "config",
        "database",
        "metrics",
        "params",
        "stage code",
    ],
)
def test_a_checkout_that_is_not_whole_is_told_in_one_line(checkout, damage, told):
    damage(checkout)
    for command, expected in told.items():
        assert re.search(expected, refused(checkout, command)), command


def test_a_damaged_remote_or_none_at_all_is_told_in_one_line(checkout):
    checkout.run("dvc", "remote", "add", "--quiet", "away", "s3://nowhere/x")
    checkout.run("dvc", "remote", "modify", "--quiet", "away", "endpointurl", "http://127.0.0.1:9")
    assert refused(checkout, "check-remote away").startswith("error: check-remote: ")
