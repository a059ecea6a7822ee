"""Answers that share a load of their base: the command of a group, and where the jobs run that only rename its answers."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.main import get_command

from pipeline.commands.app import build_app
from pipeline.commands.run.deployment.engine import Engine
from pipeline.commands.run.slurm.resources import Devices
from pipeline.commands.run.workflow import LOCAL_RULES, StudyRun
from pipeline.params.machine import MachineSettings
from pipeline.study import load_groups, load_study


def plan(name: str, size: int | str, *, root: Path) -> StudyRun:
    study = load_study(name, seeds=1)
    groups = load_groups.group_answers(study, size, root=root)
    return StudyRun(study, root, 0, MachineSettings(), groups, None, Devices(1, 1, 1), Engine(), "")


def test_the_command_of_a_group_takes_the_options_that_select_the_study_and_its_seeds(tmp_path):
    """Snakemake passes both on to each job."""
    options = plan("quickstart", "all", root=tmp_path).study_options.split()
    command = get_command(build_app()).commands["generate-group"]
    params = command.make_context("generate-group", ["0" * 12, *options]).params
    assert (params["study"], params["seeds"]) == ("quickstart", 1)


@pytest.mark.parametrize(("size", "is_local"), [(1, False), (8, True), ("all", True)])
def test_a_job_that_only_renames_the_answers_of_a_group_runs_beside_snakemake(tmp_path, size, is_local):
    run = plan("quickstart", size, root=tmp_path)
    assert ("generate" in run.local_rules) == is_local
    assert set(LOCAL_RULES) <= set(run.local_rules)


def test_answers_of_trials_are_in_no_group_and_need_a_gpu(tmp_path):
    run = plan("quickstart", "all", root=tmp_path)
    trials = [SimpleNamespace(results=None), SimpleNamespace(results=run.study.results(run.study.runs[0]))]
    assert "generate" in dataclasses.replace(run, study=SimpleNamespace(trials=trials[:1])).local_rules
    assert "generate" not in dataclasses.replace(run, study=SimpleNamespace(trials=trials)).local_rules
