"""benchmarks.gpu on tiny shapes of a CPU."""

import sys

import pytest

from benchmarks import gpu


@pytest.mark.parametrize("options", [[], ["--checkpointing"]])
def test_training_and_evaluation_run_on_tiny_shapes(monkeypatch, capsys, options):
    monkeypatch.setattr(
        sys, "argv", ["gpu", "--tiny", "--device", "cpu", "--methods", "lora", "series", *options]
    )
    gpu.main()
    rows = capsys.readouterr().out.splitlines()[-2:]
    assert [row.split()[1] for row in rows] == ["lora", "series"]
    assert all(float(cell.replace(",", "")) > 0 for row in rows for cell in row.split("|")[2:-1])
