"""``--config adapters_per_load``: fewer loads of a base, and the same bytes."""

import re
import shutil

import pytest

from tests.chaos.conftest import read_report_tables, read_results
from tests.e2e.conftest import find_errors


def remove_results(checkout, *names):
    """Remove these models' answers, scores, their records and the report."""
    for name in names:
        for folder in ("answers", "scores", "records/generate", "records/score"):
            shutil.rmtree(checkout.folder / f"results/{folder}/small-llama/{name}")
    shutil.rmtree(checkout.folder / "reports")


@pytest.mark.parametrize(("size", "loads"), [pytest.param("all", 1, marks=pytest.mark.exhaustive), ("2", 2)])
@pytest.mark.exhaustive
def test_models_that_share_a_load_write_the_same_bytes(checkout, finished, size, loads):
    remove_results(checkout, "bare", "lora", "series")
    checkout.snakemake("--config", f"adapters_per_load={size}")
    assert read_results(checkout.folder) == read_results(finished.folder)
    assert read_report_tables(checkout.folder) == read_report_tables(finished.folder)
    logs = sorted((checkout.folder / "logs/generate_group").glob("*.log"))
    assert len(logs) == loads
    assert all(log.read_text().endswith("their base was loaded 1 times\n") for log in logs)
    assert not list((checkout.folder / "logs/generate_group").glob("*.done"))
    assert not list((checkout.folder / "results/answers").rglob(".*.work"))
    assert checkout.planned() == {}
    assert "Nothing to be done" in checkout.run("snakemake", "-n", "--config", f"adapters_per_load={size}")
    assert "all match their records" in checkout.run("python", "-m", "pipeline", "verify")


def test_only_missing_answers_are_generated(checkout, finished):
    remove_results(checkout, "lora")
    plan = ("snakemake", "--cores", "1", "--config", "adapters_per_load=all")
    summary = checkout.run(*plan, "--dry-run")
    assert re.search(r"^generate_group +1$", summary, re.M)
    assert "at one load" not in summary
    # the list of the jobs, which a plan has on demand
    output = checkout.run(*plan, "--dry-run", "--printshellcmds")
    fingerprint = next(
        (finished.folder / "results/answers/small-llama/lora").rglob("manifest.json")
    ).parent.name
    assert f"at one load of their base: {fingerprint}\n" in output
    checkout.snakemake("--config", "adapters_per_load=all")
    assert read_results(checkout.folder) == read_results(finished.folder)


def test_a_broken_adapter_is_reported_and_the_remaining_models_are_not_evaluated_again(checkout, finished):
    remove_results(checkout, "lora", "series")
    [weights] = (checkout.folder / "results/adapters/small-llama/lora").rglob("adapter_model.safetensors")
    content = weights.read_bytes()
    weights.write_bytes(content[:-100])
    output = checkout.run("snakemake", "--cores", "1", "--config", "adapters_per_load=all", ok=False)
    [line] = find_errors(output)
    assert "/lora/" in line
    weights.write_bytes(content)
    checkout.snakemake("--config", "adapters_per_load=all")
    assert read_results(checkout.folder) == read_results(finished.folder)
    logs = checkout.folder / "logs/generate_group"
    assert [path.read_text().count("100%|") for path in logs.glob("*.log")] == [1]


@pytest.mark.parametrize("value", ["0", "some", "1.5"])
def test_an_invalid_size_is_refused(checkout, value):
    output = checkout.run("snakemake", "-n", "--config", f"adapters_per_load={value}", ok=False)
    assert f"error: --config adapters_per_load: must be a positive integer or 'all' (got '{value}')" in output
