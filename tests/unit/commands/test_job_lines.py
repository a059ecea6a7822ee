"""During a run the terminal shows a line for each job, with what it achieved; a failed job's log is shown whole."""

import io
import json
import logging
import time
from pathlib import Path

import pytest
from snakemake.logging import ColorizingTextHandler, DefaultFormatter
from snakemake.settings.enums import Quietness
from snakemake.settings.types import OutputSettings
from snakemake_interface_logger_plugins.common import LogEvent

from pipeline.commands.run import job_lines
from pipeline.core.io import write_json
from pipeline.results.job_outcome import describe_outcome
from pipeline.study import Artifact, Study, load_study


@pytest.fixture
def study(tmp_path, monkeypatch) -> Study:
    study = load_study("quickstart")
    monkeypatch.chdir(tmp_path)
    return study


@pytest.fixture
def terminal(monkeypatch) -> io.StringIO:
    """What Snakemake's own handler writes; its logger is as it was after the test."""
    logger = logging.getLogger("snakemake.logging")
    stream = io.StringIO()
    handler = ColorizingTextHandler(stream=stream, formatter=DefaultFormatter())
    handler.name = "DefaultStreamHandler"
    monkeypatch.setattr(logger, "handlers", [handler])
    monkeypatch.setattr(logger, "propagate", False)
    monkeypatch.setattr(logger, "level", logging.INFO)
    return stream


def send(event: LogEvent, message: str | None = "", level: int = logging.INFO, **details) -> None:
    logging.getLogger("snakemake.logging").log(level, message, extra={"event": event, **details})


def start(artifact: Artifact, job: int, log: str = "logs/a.log") -> None:
    send(LogEvent.JOB_STARTED, "Execute 1 jobs...")
    wildcards = {"fingerprint": artifact.fingerprint}
    details = {"rule_msg": "A message", "reason": "Missing output files", "log": [log]}
    send(LogEvent.JOB_INFO, rule_name=artifact.stage, jobid=job, wildcards=wildcards, **details)


def finish(job: int, done: int) -> None:
    send(LogEvent.JOB_FINISHED, f"Finished jobid: {job}", job_id=job)
    send(LogEvent.PROGRESS, None, done=done, total=54)


def write_record(artifact: Artifact, seconds: float) -> None:
    artifact.record.parent.mkdir(parents=True, exist_ok=True)
    write_json(artifact.record, {"run": {"seconds": seconds}})


def write_results(adapter: Artifact, scores: Artifact, accuracies: list[dict]) -> None:
    adapter.path.mkdir(parents=True)
    rows = [{"step": 1, "loss": 5.1}, {"step": 2, "loss": 0.12834}, {"step": 2, "val_loss": 1.0}]
    (adapter.path / "history.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    scores.path.parent.mkdir(parents=True)
    write_json(scores.path, {"tasks": {f"{row['task']}-{row['protocol']}": row for row in accuracies}})


def test_each_job_is_one_line_with_what_it_achieved(study, terminal):
    run = next(run for run in study.runs if run.entry and len(run.arms[0].tasks) > 1)
    adapter, scores = run.adapter, study.scores(run)
    (protocol, *_), (first, second, *_) = study.headline, run.arms[0].tasks
    rows = [(first, protocol, 0.5), (second, protocol, 0.25), (first, "another", 1.0)]
    keys = ("task", "protocol", "accuracy")
    write_results(adapter, scores, [dict(zip(keys, row, strict=True)) for row in rows])
    write_record(adapter, 32.4)
    write_record(scores, 0.6)
    job_lines.show_job_lines(study, OutputSettings())
    logging.getLogger("snakemake.logging").info("Select jobs to execute...")
    for number, artifact in enumerate((adapter, scores), start=1):
        start(artifact, number)
        finish(number, number)
    assert terminal.getvalue().splitlines() == [
        f"[ 1 of 54] train {run.name}: loss 0.128, 32 s",
        f"[ 2 of 54] score {run.name}: accuracy in percent: {run.arms[0].name} 37.5, 1 s",
    ]


def test_a_study_of_comparison_protocols_alone_has_an_accuracy_too(study):
    card = study.card.model_copy(update={"protocols": ["paper-unmasked"], "headline": []})
    study = Study("compared", card)
    run = study.runs[0]
    score = {"task": run.arms[0].tasks[0], "protocol": "paper-unmasked", "accuracy": 0.5}
    scores = study.scores(run)
    scores.path.parent.mkdir(parents=True)
    write_json(scores.path, {"tasks": {"only": score}})
    assert describe_outcome(study, scores) == f"accuracy in percent: {run.arms[0].name} 50.0"


def test_a_failed_job_shows_its_reason_its_whole_log_and_the_reason_again_at_the_end(study, terminal, capsys):
    adapter = study.artifacts["train"][0]
    log = ["training:   0%|   | 0/300", "error: results/bases/x: damaged; delete it and rerun", "done"]
    Path("a.log").write_text("\n".join(log))
    job_lines.show_job_lines(study, OutputSettings())
    start(adapter, 7, "a.log")
    send(LogEvent.ERROR, "RuleException:\nCalledProcessError in file x, line 3", logging.ERROR)
    failure = {"rule_name": "train", "jobid": 7, "log": ["a.log"], "shellcmd": " python x ", "aux": {}}
    send(LogEvent.JOB_ERROR, "Error in rule train", logging.ERROR, **failure)
    logging.getLogger("snakemake.logging").error("WorkflowError: something else")
    label = next(run.name for run in study.runs if run.adapter == adapter)
    reason = f"failed: train {label}: {log[1]}"
    expected = [reason, "its log: a.log", *(f"  {line}" for line in log), "its command: python x"]
    assert terminal.getvalue().splitlines() == [*expected, "WorkflowError: something else"]
    job_lines.print_failures()
    assert capsys.readouterr().err.splitlines()[0] == reason


def test_a_result_that_cannot_be_read_hides_nothing(study, terminal):
    job_lines.show_job_lines(study, OutputSettings())
    start(study.artifacts["fetch"][0], 3)
    finish(3, 3)
    assert "3 of 54 steps" in terminal.getvalue()


def test_a_long_job_says_where_its_progress_stands(study, terminal, monkeypatch):
    monkeypatch.setattr(job_lines, "LONG", 0.01)
    job_lines.show_job_lines(study, OutputSettings())
    adapter = study.artifacts["train"][0]
    start(adapter, 1, "logs/train/a.log")
    deadline = time.monotonic() + 60
    while "still running" not in terminal.getvalue():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert "tail -f logs/train/a.log" in terminal.getvalue()


@pytest.mark.parametrize("option", ["verbose", "printshellcmds"])
def test_snakemakes_own_lines_stay_where_they_are_wanted(study, terminal, option):
    job_lines.show_job_lines(study, OutputSettings(**{option: True}))
    start(study.artifacts["train"][0], 1)
    assert "A message" in terminal.getvalue()


def test_a_message_of_another_form_is_shown_and_does_not_end_the_run(study, terminal):
    job_lines.show_job_lines(study, OutputSettings())
    send(LogEvent.JOB_INFO, rule_name="train", jobid=1, rule_msg="A message", reason="a reason", indent=False)
    assert "A message" in terminal.getvalue()


@pytest.mark.parametrize(
    ("settings", "is_listed"),
    [
        ({"quiet": {Quietness.HOST}}, False),
        ({"quiet": None}, False),
        ({"quiet": {Quietness.HOST}, "printshellcmds": True}, True),
        ({"quiet": {Quietness.HOST}, "verbose": True}, True),
        ({"quiet": {Quietness.REASON}}, True),
    ],
)
def test_a_dry_run_lists_its_jobs_on_demand(terminal, settings, is_listed):
    output = OutputSettings(dryrun=True, **settings)
    job_lines.summarize_plan(output)
    # with these two alone, Snakemake ends after the numbers
    assert (output.quiet != {Quietness.RULES, Quietness.PROGRESS}) == is_listed
    send(LogEvent.RUN_INFO, "train 2", stats={"train": 2})
    assert "train 2" in terminal.getvalue()


def test_a_run_prints_what_its_user_chose(terminal):
    output = OutputSettings(quiet={Quietness.HOST})
    job_lines.summarize_plan(output)
    assert output.quiet == {Quietness.HOST}
