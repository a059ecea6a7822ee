"""The files of answers beside the page: one for the questions of each task, one for the answers of each run.

They are scripts that hand over their content, because a browser reads no other files from disk. The page loads those of
the runs that a reader chooses, so it stays small however many answers a study has.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from pipeline.core.io import read_jsonl
from pipeline.evaluate.generation.rows import LikelihoodAnswer, TextAnswer, format_texts
from pipeline.evaluate.scoring.score import OUTCOMES
from pipeline.params.templates import extract_question
from pipeline.report.data import ReportData, keep_first_of_shared, list_sections
from pipeline.study.description import RunDescription
from pipeline.study.run import BARE

Answer = TextAnswer | LikelihoodAnswer


class AnswerFile(TypedDict):
    """A run as the page chooses it.

    Attributes:
        run: fingerprint, which the link of the run names.
        file: the name in answers/, without its suffix.
        tasks: the keys of its tasks (TASK-PROTOCOL).
    """

    run: str
    model: str
    method: str
    arm: str
    seed: int | None
    file: str
    tasks: Sequence[str]


def list_answer_files(data: ReportData) -> list[AnswerFile]:
    """Return for each run the file that has its answers; runs that share an adapter share the file."""
    files = {run.scores: run.fingerprint for run in reversed(data.study.runs)}
    titles = {model.name: model.title for model in data.study.models}
    return [
        AnswerFile(
            run=run.fingerprint,
            model=titles[run.model],
            method=data.method_titles(run.model)[run.method],
            arm=run.arm or "",
            seed=run.seed,
            file=f"run-{files[run.scores]}",
            tasks=_list_keys(data, run),
        )
        for run in data.study.runs
    ]


def write_answers(data: ReportData, folder: Path) -> None:
    """Write the questions of each task and the answers of each run to ``folder``."""
    folder.mkdir()
    written: set[str] = set()
    for run in keep_first_of_shared(data.study.runs):
        tasks = {}
        for key in data.scores[run.scores]["tasks"]:
            score, answers = data.get_task_score(run, key), read_jsonl(data.answers_file(run, key))
            rows = list(zip(score["items"], answers, strict=True))
            tasks[key] = [
                [
                    OUTCOMES.index(item["outcome"]),
                    "" if item["parsed"] is None else f"{item['parsed']}",
                    format_model_output(answer),
                ]
                for item, answer in rows
            ]
            if key not in written:
                written.add(key)
                questions = [
                    [item["id"], extract_question(answer["prompt"]), item["gold"]] for item, answer in rows
                ]
                _write_script(folder / f"questions-{key}.js", questions)
        _write_script(folder / f"run-{run.fingerprint}.js", tasks)


def _list_keys(data: ReportData, run: RunDescription) -> list[str]:
    """Return the tasks of a run's arm under each protocol; of a bare base, those of every arm, each once."""
    keys = [
        key
        for section in list_sections(data.study, data.study.protocols)
        for key in section.keys
        if run.method == BARE or run.arm == section.arm.name
    ]
    return list(dict.fromkeys(keys))


def _write_script(path: Path, content: object) -> None:
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    path.write_text(f"addAnswers({json.dumps(path.stem)},{text})\n", encoding="utf-8")


def format_model_output(answer: Answer) -> str:
    """Return a generated text, the texts of all samples, or under a likelihood protocol each choice with its log-likelihood."""
    if "text" in answer:
        return format_texts(answer)
    values = zip(answer["choices"], answer["loglikelihoods"], strict=True)
    return ", ".join(f"{choice} {'-' if value is None else f'{value:.2f}'}" for choice, value in values)
