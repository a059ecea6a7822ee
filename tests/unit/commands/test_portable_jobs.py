"""Only a process that computes needs the processor that `portable=true` is for, and it limits its kernels before torch chooses them."""

import re
import subprocess
import sys
from contextlib import nullcontext

import pytest

from pipeline.commands.run import generate_group, jobs, stages, workflow
from pipeline.commands.run.deployment.engine import Engine
from pipeline.commands.run.stages import JobOptions
from pipeline.commands.run.workflow import StudyRun, plan_run
from pipeline.core.errors import UserError
from pipeline.core.hardware import processor
from pipeline.core.work_folder import work_folder
from pipeline.params.machine import MachineSettings
from pipeline.study import load_study
from pipeline.study.artifacts import Artifact
from tests.conftest import ROOT
from tests.e2e.conftest import copy_project

PORTABLE = MachineSettings(portable=True)


@pytest.fixture(autouse=True)
def other_processor(tmp_path, monkeypatch):
    """A machine without the kernels: not Linux, or a processor of another maker."""
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "missing")
    # its cache would keep this description for later tests
    monkeypatch.setattr(processor, "describe_processor", processor.describe_processor.__wrapped__)


@pytest.fixture
def run(tmp_path, monkeypatch) -> StudyRun:
    """A run that is planned on this machine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(workflow, "check_site", lambda *_, **__: None)
    monkeypatch.setattr(workflow.queue, "cancel_orphans", lambda _: None)
    config = {"study": "quickstart", "portable": "true", "device": "cpu", "slurm_minutes": 60}
    return plan_run(config, root=tmp_path, engine=Engine())


def test_a_machine_that_submits_jobs_needs_no_portable_kernels(run):
    assert run.machine.portable
    run.start(["base", "train", "combine", "generate"], device="cpu", runs_here=False)


@pytest.mark.parametrize("rule", ["base", "train", "combine", "distill", "generate", "generate_group"])
def test_a_machine_that_computes_needs_portable_kernels_before_its_first_job(run, rule):
    with pytest.raises(SystemExit, match="error: --config portable=true: needs Linux on an Intel"):
        run.start(["fetch", rule], device="cpu", runs_here=True)


def test_a_run_that_computes_nothing_needs_no_portable_kernels(run, capsys):
    run.start(["fetch", "fetch_base", "query", "tie", "score"], device="cpu", runs_here=True)
    assert "portable" not in capsys.readouterr().err


def run_stage(monkeypatch, study: str, artifact: Artifact) -> list[Artifact]:
    """Run the job of an artifact, with the stage's function replaced; return what the function was called for."""
    calls: list[Artifact] = []
    monkeypatch.setitem(jobs.STAGE_FUNCTIONS, artifact.stage, lambda _, made, __: calls.append(made))
    # as a process of a training, which writes no record
    monkeypatch.setenv("LOCAL_RANK", "0")
    jobs.run_job(artifact.stage, artifact.fingerprint, study_name=study, options=JobOptions(machine=PORTABLE))
    return calls


@pytest.mark.parametrize(
    ("study", "stage", "label"),
    [
        ("smollm2", "base", "smollm2-135m-instruct/"),
        ("endpoint-math", "base", "gpt-4o-mini/"),
        ("endpoint-math", "generate", "gpt-4o-mini/bare/"),
        ("references-math", "generate", "references/"),
        ("tiny-distill", "distill", "sets/"),
        ("quickstart", "prompts", ""),
    ],
)
def test_a_job_that_computes_nothing_needs_no_portable_kernels(monkeypatch, study, stage, label):
    artifact = next(each for each in load_study(study).artifacts[stage] if each.label.startswith(label))
    assert [call.path for call in run_stage(monkeypatch, study, artifact)] == [artifact.path]


@pytest.mark.parametrize(
    ("study", "stage", "label"),
    [
        ("quickstart", "base", ""),
        ("quickstart", "train", ""),
        ("quickstart", "generate", ""),
        ("tiny-combined", "combine", ""),
        ("tiny-distill", "distill", "answers/"),
    ],
)
def test_a_job_that_computes_names_the_option_of_its_command(monkeypatch, study, stage, label):
    artifact = next(each for each in load_study(study).artifacts[stage] if each.label.startswith(label))
    with pytest.raises(UserError, match=r"^--machine portable=true: needs Linux on an Intel"):
        run_stage(monkeypatch, study, artifact)


def test_a_job_that_only_renames_the_answers_of_a_group_needs_no_portable_kernels(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answers = load_study("quickstart").artifacts["generate"][0]
    work = work_folder(answers.path)
    work.mkdir(parents=True)
    for name in ("run.json", *(f"{task}.jsonl" for task in answers.params)):
        (work / name).touch()
    assert run_stage(monkeypatch, "quickstart", answers)


def test_the_command_of_a_group_names_its_own_option():
    with pytest.raises(UserError, match=r"^--machine portable=true: needs Linux on an Intel"):
        generate_group.generate_group_command(["0" * 12], machine=["portable=true"])


@pytest.mark.parametrize("command", ["generate-group", "generate", "combine"])
def test_a_job_limits_its_kernels_before_torch_is_loaded(command):
    fingerprint = (
        load_study("tiny-combined")
        .artifacts["combine" if command == "combine" else "generate"][0]
        .fingerprint
    )
    code = f"""
import sys
from pipeline.commands.app import run_command
from pipeline.commands.run import generate_group, jobs

def stop(*arguments):
    sys.exit(f"torch is loaded: {{'torch' in sys.modules}}")

jobs.limit_kernels = generate_group.limit_kernels = stop
run_command([{command!r}, {fingerprint!r}, "--study", "tiny-combined", "--machine", "portable=true"])
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert process.stderr.strip() == "torch is loaded: False"


def test_every_rule_that_computes_passes_the_setting_on(tmp_path):
    checkout = copy_project(tmp_path / "project")
    options = ("--dry-run", "--printshellcmds", "--cores", "1")
    output = checkout.run("snakemake", *options, "--config", "study=tiny-combined", "portable=true")
    commands = re.findall(r"-m pipeline (\w+) .*", output)
    assert {"base", "train", "combine", "generate"} <= set(commands)
    for line in re.findall(r"-m pipeline (?:base|train|combine|generate) .*", output):
        assert "--machine portable=true" in line


@pytest.mark.parametrize(
    ("study", "stage", "function"),
    [
        ("quickstart", "base", "pipeline.models.bases.pretrain.pretrain"),
        ("tiny-combined", "combine", "pipeline.models.combination.combine.combine"),
    ],
)
def test_bases_and_combinations_are_told_the_setting_for_their_run_json(monkeypatch, study, stage, function):
    loaded = load_study(study)
    calls = []
    monkeypatch.setattr(function, lambda *_, **options: calls.append(options["portable"]))
    monkeypatch.setattr(stages.runs, "track_base", lambda *_: None)
    monkeypatch.setattr(stages, "atomic_directory", nullcontext)
    jobs.STAGE_FUNCTIONS[stage](loaded, loaded.artifacts[stage][0], JobOptions(machine=PORTABLE))
    assert calls == [True]
