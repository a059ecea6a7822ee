"""A mistake in params is one line before any job; a mistake in data is one line in the job that reads it."""

import pytest


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
