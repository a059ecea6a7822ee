"""Mistakes in params, data and commands are errors in one line; those in params before any job starts."""

import re
import shutil
from collections.abc import Callable

import pytest

from tests.e2e.conftest import Checkout, find_errors


def error_line(output: str) -> str:
    """Return the only error of an output, which must have no traceback."""
    assert "Traceback" not in output
    (line,) = [line for line in output.splitlines() if line.startswith("error:")]
    return line


@pytest.mark.parametrize(
    ("file", "old", "new", "parts"),
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
def test_a_mistake_in_params_is_refused_before_the_dag(checkout, file, old, new, parts):
    checkout.edit(file, old, new)
    output = checkout.run("snakemake", "--dry-run", "--cores", "1", ok=False)
    line = error_line(output)
    assert all(part in line for part in parts)


@pytest.mark.parametrize(
    ("option", "parts"),
    [
        ("device=tpu", ["--config device", "'tpu'", "cuda"]),
        ("stduy=small", ["--config stduy", "study"]),
        ("processes=0", ["--config processes", "'0'"]),
        ("study=../study/small", ["params/study", "'../study/small'", "a name has"]),
        ("study=smal", ["params/study", "'smal'", "small"]),
        ("data_root=nowhere", ["data_root", "no folder", "nowhere"]),
        ("seeds=2", ["params/study/small.yaml: seeds", "first 2 of 1"]),
    ],
)
def test_a_wrong_option_is_refused_before_the_dag(checkout, option, parts):
    output = checkout.run("snakemake", "--dry-run", "--cores", "1", "--config", option, ok=False)
    line = error_line(output)
    assert all(part in line for part in parts)


def test_a_run_from_another_folder_is_refused_before_the_dag(checkout, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    output = checkout.run("snakemake", "--cores", "1", "--directory", str(elsewhere), ok=False)
    assert f"cd {checkout.folder}" in error_line(output)
    # Snakemake's own folder is hidden
    assert list(elsewhere.glob("[!.]*")) == []
    elsewhere.mkdir(exist_ok=True)
    snakefile = checkout.folder / "params/../Snakefile"
    output = checkout.run(
        "sh", "-c", f"cd '{elsewhere}' && snakemake --cores 1 --snakefile '{snakefile}'", ok=False
    )
    assert error_line(output).endswith(f"cd {checkout.folder}")


def test_a_missing_gpu_is_refused_before_any_job(checkout):
    command = ("snakemake", "--cores", "1", "--forceall", "--config", "device=cuda")
    output = checkout.run("env", "CUDA_VISIBLE_DEVICES=", *command, ok=False)
    assert "device=cuda: torch finds no usable GPU" in error_line(output)
    assert "[1 of" not in output


def test_a_missing_dataset_is_one_line_at_run_time(checkout):
    checkout.edit("params/params.yaml", "small", "paper-math")
    assert "train" in checkout.planned()
    output = checkout.run("env", "HF_HUB_OFFLINE=1", "snakemake", "--cores", "2", "all_fetch", ok=False)
    assert any("math_10k" in line and "data_root" in line for line in find_errors(output))
    assert "Traceback (most recent call last)" not in output


def run_refused(checkout: Checkout, command: str) -> str:
    """Run a command of the pipeline, which must fail; return its error line."""
    return error_line(checkout.run("python", "-m", "pipeline", *command.split(), ok=False))


def test_a_command_with_wrong_arguments_is_refused_in_one_line(finished):
    for command, message in {
        "status --study smal": "no 'smal' (choices: ",
        "verify nofile": "no artifact at or below nofile",
        "prune nostage": "unknown stage 'nostage' (choices: fetch, ",
        "prune --yes": "add --store or --unfinished",
        "prune --store --unfinished": "cannot be combined",
        "prune --store --older-than -3": "0 days or more (got -3)",
        "paths nostage": "unknown stage 'nostage' (choices: fetch, ",
        "paths train --model other": "study 'small' has no train of 'other'",
        "check-remote other": "remote 'other' doesn't exist",
        "stage-code --keep nostage": "unknown stage 'nostage' (choices: all, ",
        "stage-code --raise nostage": "unknown stage 'nostage' (choices: all, ",
        "reproduce small-llama/lora/world-math/seed9": "nearest: small-llama/lora/world-math/seed0",
        "reproduce strict/small-llama/lora/other": "for example strict/small-llama/",
        "reproduce small-llama/bare --worktree .": "exists already; --worktree needs a new folder",
        "train 0123": "study 'small' has no train '0123'",
    }.items():
        assert message in run_refused(finished, command), command


def remove_git(checkout: Checkout) -> None:
    shutil.rmtree(checkout.folder / ".git")


def test_a_downloaded_archive_runs_and_says_what_it_lacks(checkout):
    remove_git(checkout)
    output = checkout.run("snakemake", "--cores", "1")
    assert "warning: no .git here" in output
    assert "Nothing to be done" in output


def remove_results(checkout: Checkout) -> None:
    for folder in ("data", "results", "reports", ".dvc/cache"):
        shutil.rmtree(checkout.folder / folder, ignore_errors=True)


def overwrite(name: str, text: str) -> Callable[[Checkout], None]:
    """Return a function that overwrites a file of a checkout."""

    def write(checkout: Checkout) -> None:
        (checkout.folder / name).write_text(text)

    return write


@pytest.mark.parametrize(
    ("damage", "messages"),
    [
        (
            remove_git,
            {
                "commit": "no .git here.*git clone",
                "push": "no .git here.*git clone",
                "check-remote": "no .git here.*git clone",
                "reproduce small-llama/bare": "not a git checkout",
            },
        ),
        (
            remove_results,
            {
                "verify": "no artifacts in this checkout; get them with dvc pull or run snakemake",
                "commit": "output '[^']+' does not exist",
                "reproduce small-llama/bare": "no record, .*dvc pull",
                "reproduce strict/small-llama/bare/world-addsub": "metrics.json is missing",
            },
        ),
        (
            overwrite("dvc.lock", "{{{"),
            {
                "commit": "dvc.lock: cut off or not valid .*git checkout dvc.lock",
                "check-remote": "dvc.lock: cut off or not valid .*git checkout dvc.lock",
            },
        ),
        (overwrite("dvc.lock", "a: 1"), {"commit": "dvc.lock: cut off or not valid .*git checkout dvc.lock"}),
        (
            overwrite(".dvc/config", "[broken"),
            dict.fromkeys(("status", "commit"), ".dvc/config: not valid") | {"check-remote": "config"},
        ),
        (overwrite("mlflow.db", "no database"), {"track": "5 of 5 runs were not recorded"}),
        (overwrite("reports/small/metrics.json", "{"), {"reproduce x": "metrics.json: not valid JSON"}),
        (overwrite("params/params.yaml", "study: ["), {"status": "params.yaml: not valid YAML"}),
        (overwrite("pipeline/study/stage_code.json", "{"), {"stage-code": "stage_code.json: not valid JSON"}),
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
def test_a_damaged_checkout_is_reported_in_one_line(checkout, damage, messages):
    damage(checkout)
    for command, pattern in messages.items():
        assert re.search(pattern, run_refused(checkout, command)), command


def test_an_unreachable_remote_is_reported_in_one_line(checkout):
    checkout.run("dvc", "remote", "add", "--quiet", "away", "s3://nowhere/x")
    checkout.run("dvc", "remote", "modify", "--quiet", "away", "endpointurl", "http://127.0.0.1:9")
    assert run_refused(checkout, "check-remote away").startswith("error: check-remote: ")
