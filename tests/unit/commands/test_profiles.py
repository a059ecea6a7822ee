"""The profiles: no failed job takes away a result that has its name, and each has what the default profile says is needed."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT

PROFILES = ROOT / "workflow/profiles"
NEEDED = (
    "rerun-triggers",
    "nolock",
    "ignore-incomplete",
    "keep-incomplete",
    "show-failed-logs",
    "keep-going",
)
# The job is cancelled after its result got its name.
SNAKEFILE = """
rule train:
    output: directory("adapter")
    shell: "mkdir adapter; touch adapter/weights; kill -9 $$"
"""


@pytest.mark.parametrize("name", sorted(path.name for path in PROFILES.iterdir()))
def test_each_profile_has_the_settings_that_resuming_needs(name):
    default, profile = (
        yaml.safe_load((PROFILES / folder / "config.yaml").read_text()) for folder in ("default", name)
    )
    assert {key: profile[key] for key in NEEDED} == {key: default[key] for key in NEEDED}


def test_a_job_that_is_killed_after_its_result_has_its_name_does_not_take_it_away(tmp_path):
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    snakemake = Path(sys.executable).with_name("snakemake")
    command = [snakemake, "--workflow-profile", PROFILES / "default", "--cores", "1"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode
    assert (tmp_path / "adapter/weights").exists(), run.stderr
