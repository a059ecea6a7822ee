"""One line on the terminal for each job of a Snakemake run, with what the job achieved, instead of Snakemake's five or more.

Only the handler that writes to the terminal changes: the log in .snakemake/log holds Snakemake's own lines. A logger plugin of
Snakemake would need an entry in the environment, which older environments lack; its handler is an ordinary one of
``logging``, so a filter and a formatter do.
"""

import logging
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snakemake.settings.enums import Quietness

from pipeline.results.job_outcome import describe_outcome, label_artifact
from pipeline.study import Study
from pipeline.study.stages import STAGES

# Snakemake's names for its logger, and for the handler of the terminal
LOGGER = "snakemake.logging"
TERMINAL = "DefaultStreamHandler"
# what Snakemake says of a failed shell command, ahead of the job's own error
SHELL_FAILURE = "CalledProcessError in file"
# the rules that do not have the name of their stage: of downloaded bases, of answers that were made elsewhere or come from an
# endpoint, and of what is left of a teacher's answers
STAGE_OF_RULE = {
    "fetch_base": "base",
    "tie": "generate",
    "query": "generate",
    "query_teacher": "distill",
    "distilled_set": "distill",
}
# seconds after which a line says that the job is still running and names its log
LONG = 60.0


@dataclass
class _Job:
    """A job that runs: its name, its artifact's stage and fingerprint, its log, and the timer of its line."""

    name: str
    stage: str
    fingerprint: str
    log: str
    timer: threading.Timer | None = None


class JobLines(logging.Formatter):
    """The filter and the formatter of the terminal; ``failures`` has a line for each job that failed."""

    def __init__(self, study: Study, handler: logging.Handler, previous: logging.Formatter) -> None:
        super().__init__()
        self.failures: list[str] = []
        self._study = study
        self._handler = handler
        self._previous = previous
        self._running: dict[int, _Job] = {}
        self._finished: list[_Job] = []

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a message of Snakemake is for the terminal, and note which job starts or ends."""
        try:
            return self._choose(record)
        # an exception here would end Snakemake
        except Exception:
            return True

    def _choose(self, record: logging.LogRecord) -> bool:
        event = _event(record)
        if event == "job_info":
            self._start(record)
        elif event == "job_finished":
            if job := self._end(getattr(record, "job_id", None)):
                self._finished.append(job)
        elif event == "error":
            return SHELL_FAILURE not in record.getMessage()
        elif event == "progress":
            return bool(self._finished)
        return event not in ("job_info", "job_started", "job_finished", "shellcmd") and (
            record.msg != "Select jobs to execute..."
        )

    def format(self, record: logging.LogRecord) -> str:
        """Return a message's text: the lines of finished jobs, the error of a failed one, or Snakemake's own."""
        event = _event(record)
        try:
            if event == "progress":
                return self._finished_lines(record)
            if event == "job_error":
                return self._describe_failure(record)
        # a file that is being written, or a message of another form: the terminal must not lose it
        except Exception as error:
            return f"{self._previous.format(record)} ({type(error).__name__}: {error})"
        return self._previous.format(record)

    def _start(self, record: logging.LogRecord) -> None:
        details: Mapping[str, Any] = vars(record)
        rule = str(details["rule_name"])
        stage = STAGE_OF_RULE.get(rule, rule)
        fingerprint = dict(details["wildcards"]).get("fingerprint", "")
        log = next(iter(details["log"]), "")
        name = rule
        if stage in STAGES and fingerprint:
            name = f"{stage} {label_artifact(self._study.find_artifact(stage, fingerprint))}"
        job = _Job(name, stage, fingerprint, log)
        if log:
            job.timer = threading.Timer(LONG, self._say_running, (job,))
            job.timer.daemon = True
            job.timer.start()
        self._running[details["jobid"]] = job

    def _end(self, job_id: int | None) -> _Job | None:
        job = self._running.pop(job_id, None) if job_id is not None else None
        if job and job.timer:
            job.timer.cancel()
        return job

    def _say_running(self, job: _Job) -> None:
        text = f"{job.name}: still running after {LONG:.0f} s; its progress: tail -f {job.log}"
        record = logging.LogRecord("snakemake", logging.INFO, __file__, 0, text, (), None)
        self._handler.handle(record)

    def _finished_lines(self, record: logging.LogRecord) -> str:
        done, total = (int(vars(record)[key]) for key in ("done", "total"))
        jobs, self._finished = self._finished, []
        # the targets that only collect results have no log
        return "\n".join(
            f"[{done:{len(str(total))}} of {total}] {job.name}{self._outcome(job)}" for job in jobs if job.log
        )

    def _outcome(self, job: _Job) -> str:
        if job.stage not in STAGES:
            return ""
        outcome = describe_outcome(self._study, self._study.find_artifact(job.stage, job.fingerprint))
        return f": {outcome}" if outcome else ""

    def _describe_failure(self, record: logging.LogRecord) -> str:
        details: Mapping[str, Any] = vars(record)
        job = self._end(details["jobid"])
        name = job.name if job else details["rule_name"]
        logs = {log: _read_lines(Path(log)) for log in details["log"]}
        reason = _find_reason([line for lines in logs.values() for line in lines])
        self.failures.append(f"failed: {name}: {reason}")
        parts = [self.failures[-1]]
        for log, lines in logs.items():
            parts.append(f"its log: {log}")
            parts += [f"  {line}" for line in lines if lines != [reason]]
        if details["shellcmd"]:
            parts.append(f"its command: {str(details['shellcmd']).strip()}")
        parts += [f"{key}: {value}" for key, value in details["aux"].items()]
        return "\n".join(parts)


def _event(record: logging.LogRecord) -> str:
    """Return the kind of a message of Snakemake, "" for plain text."""
    return str(getattr(getattr(record, "event", None), "value", ""))


def _read_lines(log: Path) -> list[str]:
    try:
        return log.read_text(encoding="utf-8", errors="replace").splitlines() or ["(empty)"]
    except OSError as error:
        return [f"({error.strerror})"]


def _find_reason(lines: Sequence[str]) -> str:
    """Return the line of a log that says why a job failed: its error, or else the last line that says anything."""
    errors = [line for line in lines if line.startswith("error: ")]
    return errors[-1] if errors else next((line for line in reversed(lines) if line.strip()), "no log")


def show_job_lines(study: Study, output: Any) -> None:
    """Let the terminal show a line for each job of a run.

    Snakemake's own lines stay with ``--verbose`` and ``--printshellcmds``, and with a logger plugin that writes to the terminal.

    Args:
        study: the study that runs.
        output: Snakemake's settings of its output.
    """
    handler = _find_terminal()
    if output.verbose or output.printshellcmds or handler is None or handler.formatter is None:
        return
    lines = JobLines(study, handler, handler.formatter)
    # first, so that it sees the messages that --quiet drops
    handler.filters.insert(0, lines.filter)
    handler.setFormatter(lines)


def summarize_plan(output: Any) -> None:
    """Let a dry run print the number of jobs of each rule, and no line for each job, unless the user wants them.

    Snakemake then ends before it schedules the jobs, which takes a fifth of the time of a large plan.

    Args:
        output: Snakemake's settings of its output; ``quiet`` is changed.
    """
    is_chosen = output.verbose or output.printshellcmds or set(output.quiet or ()) - {Quietness.HOST}
    if not output.dryrun or is_chosen:
        return
    # the choice at which snakemake.workflow.Workflow.execute returns after the numbers
    output.quiet = {Quietness.RULES, Quietness.PROGRESS}
    if handler := _find_terminal():
        handler.filters.append(_announce_numbers)


def _announce_numbers(record: logging.LogRecord) -> bool:
    if _event(record) == "run_info":
        print("what would run, by rule; each job with its reason: snakemake -n -p", file=sys.stderr)
    return True


def print_failures() -> None:
    """Print on stderr, at the end of a run, a line for each job that failed."""
    handler = _find_terminal()
    if handler is None or not isinstance(handler.formatter, JobLines):
        return
    for line in handler.formatter.failures:
        print(line, file=sys.stderr)
    if handler.formatter.failures:
        print(
            "after fixing the cause, run the same command again: finished results are kept",
            file=sys.stderr,
        )


def _find_terminal() -> logging.Handler | None:
    """Return Snakemake's handler for the terminal, if it has one."""
    handlers = logging.getLogger(LOGGER).handlers
    return next((handler for handler in handlers if handler.name == TERMINAL), None)
