"""dvc.yaml tells DVC of every params file and of every stage."""

import yaml

from pipeline.artifacts import STAGE_FOLDERS
from tests.conftest import ROOT


def stages() -> dict:
    return yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def test_every_params_file_is_listed_in_every_stage():
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "params").rglob("*.yaml")}
    files -= {"params/lock.yaml"}  # made by the first download of what has no sum, checked by each later one
    for name, stage in stages().items():
        assert {next(iter(one)) for one in stage["params"]} == files, name


def test_there_is_one_stage_for_each_step_with_its_folder():
    outs = {name: next(iter(stage["outs"][0])) for name, stage in stages().items()}
    assert outs == {**STAGE_FOLDERS, "report": "reports/${study}"}


def test_code_that_is_depended_on_exists():
    for stage in stages().values():
        for path in stage["deps"]:
            assert (ROOT / path).exists() or path in STAGE_FOLDERS.values(), path
