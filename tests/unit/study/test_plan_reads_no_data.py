"""Planning reads only params/: no dataset, no result, and no tensor library."""

import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT

PLAN = """
import json, sys
opened = []
sys.addaudithook(lambda event, arguments: opened.append(str(arguments[0])) if event == "open" else None)
from pipeline.study import load_study
study = load_study(sys.argv[1])
for stage in study.artifacts:
    study.paths(stage)
    for artifact in study.artifacts[stage]:
        study.input_paths(stage, artifact.fingerprint)
print(json.dumps({"opened": opened, "loaded": sorted(sys.modules)}))
"""


@pytest.mark.parametrize("study", ["quickstart", "paper-commonsense"])
def test_planning_opens_no_data_and_imports_no_tensor_library(study):
    done = subprocess.run(
        [sys.executable, "-c", PLAN, study], cwd=ROOT, capture_output=True, text=True, check=True
    )
    plan = json.loads(done.stdout)
    assert any("params/study" in path for path in plan["opened"])
    data = [
        path
        for path in plan["opened"]
        if path.startswith((f"{ROOT}/data", f"{ROOT}/results", "data/", "results/"))
    ]
    assert data == []
    assert {"torch", "transformers", "pandas", "pyarrow", "mlflow"}.isdisjoint(plan["loaded"])
