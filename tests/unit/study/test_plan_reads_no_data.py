"""Planning reads params alone: no dataset, result or library of tensors, however many rows there are."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT

PLAN = """
import json, sys
opened = []
sys.addaudithook(lambda event, given: opened.append(str(given[0])) if event == "open" else None)
from pipeline.study import load_study
study = load_study(sys.argv[1])
for stage in study.artifacts:
    study.paths(stage)
    for one in study.artifacts[stage]:
        study.input_paths(stage, one.fingerprint)
print(json.dumps({"opened": opened, "loaded": sorted(sys.modules)}))
"""


@pytest.mark.parametrize("study", ["quickstart", "paper-commonsense"])
def test_a_plan_opens_no_data_and_loads_no_tensors(study):
    done = subprocess.run(
        [sys.executable, "-c", PLAN, study], cwd=ROOT, capture_output=True, text=True, check=True
    )
    told = json.loads(done.stdout)
    assert any("params/study" in path for path in told["opened"])
    data = [
        path
        for path in told["opened"]
        if path.startswith((f"{ROOT}/data", f"{ROOT}/results", "data/", "results/"))
    ]
    assert data == []
    assert {"torch", "transformers", "pandas", "pyarrow", "mlflow"}.isdisjoint(told["loaded"])
