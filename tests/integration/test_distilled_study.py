"""A study whose training set a tiny model writes, through all stages: rows, contamination marks, records, report."""

import pytest

from pipeline.commands.run.jobs import run_job
from pipeline.commands.run.stages import JobOptions
from pipeline.core.errors import UserError
from pipeline.core.io import read_json, read_jsonl
from pipeline.params import reading
from pipeline.params.machine import MachineSettings
from pipeline.prompts.write import read_prompts
from pipeline.results.job_outcome import describe_outcome
from pipeline.results.verify import verify
from pipeline.study import find
from pipeline.study.artifacts import list_with_inputs
from pipeline.study.distillation.teacher import list_distilled_sets
from tests.e2e.conftest import MODEL
from tests.integration.conftest import enter, leave_out_mlflow, write_project

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]

STUDY = """
title: Taught
description: by a tiny model
models: [small-llama]
methods: [lora]
seeds: [0]
arms:
  - {name: taught, training_set: taught, tasks: [world-addsub]}
protocols: [strict]
limit: 4
max_new_tokens: 4
training: {max_steps: 2, batch_size: 2, warmup_steps: 1, logging_steps: 1, epochs: null}
"""
TAUGHT = """
name: taught
title: Taught
answer_form: number
distilled:
  teacher: small-llama
  sources: [{dataset: world-addsub, limit: 6}, {dataset: world-svamp, limit: 6}]
  prompt: strict
  temperature: 0.8
  samples: 3
  max_new_tokens: 12
  filter: all
without: [world-addsub]
method: exact
"""


def make(artifacts, **machine):
    """Make artifacts and what they are made from, as far as they are missing."""
    options = JobOptions(device="cpu", machine=MachineSettings(**machine))
    for artifact in reversed(list_with_inputs(artifacts)):
        for each in (*artifact.inputs.values(), artifact):
            if not each.path.exists():
                if any(not source.path.exists() for source in each.inputs.values()):
                    make([each])
                else:
                    run_job(each.stage, each.fingerprint, options=options)


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """The folder of the project, and the study with its report."""
    root = tmp_path_factory.mktemp("taught") / "a project"
    cards = {"models/small-llama": MODEL, "study/taught": STUDY, "params": "study: taught\n"}
    write_project(root, cards)
    (root / "params/datasets/taught.yaml").write_text(TAUGHT)
    with pytest.MonkeyPatch.context() as patch:
        enter(patch, root)
        leave_out_mlflow(patch)
        study = find.load_study()
        make([study.report])
        yield root, study
    reading.read_card.cache_clear()


def test_the_set_feeds_training_and_audit_like_any_other(taught):
    _, study = taught
    (distilled,) = list_distilled_sets(study).values()
    rows = read_jsonl(distilled.path / "train.jsonl")
    prompts = read_prompts(study.training_prompts(study.card.arms[0]).path)
    assert [row["response"] for row in prompts] == [row["output"] for row in rows]
    assert {row["source"].split("/")[0] for row in rows} <= {"world-addsub", "world-svamp"}
    audit = read_json(study.audit(study.card.arms[0]).path)
    assert (audit["train"], audit["n_train"]) == ("taught", len(rows))
    assert (audit["left_out"]["method"], audit["left_out"]["tests"]) == ("exact", ["world-addsub"])
    page = (study.report.path.parent / "index.html").read_text()
    assert "Training data from a teacher" in page
    assert f"{len(rows)} rows of 36 answers" in describe_outcome(study, distilled)
    outcome = verify()
    assert (outcome.faults, outcome.unrecorded) == ((), ())


def test_answers_depend_on_no_batch_and_on_no_other_question(taught):
    """Float32: each answer alone in its batch has the same tokens."""
    _, study = taught
    answers = next(each for each in study.artifacts["distill"] if "base" in each.inputs)
    file = answers.path / f"{answers.path.parent.name}.jsonl"
    before = file.read_bytes()
    first = read_jsonl(file)[0]
    assert len({first["text"], *(sample["text"] for sample in first["further_samples"])}) > 1
    for path in (file, *answers.path.iterdir()):
        path.unlink(missing_ok=True)
    answers.path.rmdir()
    make([answers], batch_tokens=1)
    assert file.read_bytes() == before


def test_a_teacher_without_a_tokenizer_is_one_line(taught):
    _, study = taught
    answers = next(each for each in study.artifacts["distill"] if "base" in each.inputs)
    base = answers.inputs["base"].path
    files = {path: path.read_bytes() for path in base.glob("tokenizer*")}
    for path in files:
        path.unlink()
    try:
        with pytest.raises(UserError) as error:
            run_job("distill", answers.fingerprint, options=JobOptions(device="cpu"))
    finally:
        for path, body in files.items():
            path.write_bytes(body)
    assert "tokenizer" in str(error.value)
    assert "\n" not in str(error.value)
