"""Inputs of the prompts stage, from its artifact: raw files, rows that a cleaned set leaves out, worked examples."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.audit import find_leaks
from pipeline.audit.rows import RemovedRows
from pipeline.core.io import read_json
from pipeline.data.rows import RawFile, Record, RowPart
from pipeline.prompts.shots import prepare_worked_examples
from pipeline.prompts.write import count_responses, read_raw_records, refuse_empty_responses
from pipeline.study import Study
from pipeline.study.artifacts import Artifact
from pipeline.study.distillation.resolve import LEFT_OUT, ROWS
from pipeline.study.distillation.teacher import list_base_models


def raw_sources(raws: Mapping[str, Artifact], params: Mapping[str, Any]) -> list[RawFile]:
    """Return the raw files that a prompts artifact's params name, as ``write_prompts`` takes them."""
    return [
        RawFile(
            dataset=name,
            split=raws[name].params["split"],
            path=rows_file(raws[name]),
            answer_form=answer_form,
            known_malformed=params.get("known_malformed", {}).get(name, []),
            passage_characters=params.get("passage_characters", {}).get(name),
            part=RowPart(**params["part"][name]) if name in params.get("part", {}) else None,
        )
        for name, answer_form in params["answer_forms"].items()
    ]


def rows_file(raw: Artifact) -> Path:
    """Return the file of raw rows: of a distilled set, a file in its folder."""
    return raw.path / ROWS if raw.stage == "distill" else raw.path


def training_paths(study: Study) -> set[Path]:
    """Return the paths of the prompts that a study trains on, those of the bases that it pretrains included."""
    corpora = [prompts for model in list_base_models(study) for prompts in study.base(model).inputs.values()]
    return {prompts.path for prompts in (*map(study.training_prompts, study.audited_arms), *corpora)}


def check_fetched_rows(study: Study) -> list[str]:
    """Check the rows of a study's datasets as far as they are fetched; return a line for each set with empty responses.

    Raises:
        UserError: malformed rows, an absent column, or a training set without responses.
    """
    lines: list[str] = []
    checked: set[tuple[bool, tuple[Path, ...]]] = set()
    training = training_paths(study)
    for artifact in study.artifacts["prompts"]:
        sources = raw_sources(artifact.inputs, artifact.params)
        fetched = [source for source in sources if source.path.is_file()]
        key = (artifact.path in training, tuple(source.path for source in fetched))
        if fetched and key not in checked:
            checked.add(key)
            total, empty = count_responses(read_raw_records(fetched, for_training=artifact.path in training))
            # test rows need no responses
            if artifact.path in training and empty and len(fetched) == len(sources):
                where = artifact.path.parent.name
                refuse_empty_responses(empty, total, where=where)
                lines.append(f"{where}: {empty} of {total} responses are empty")
    return lines


def removed_rows(artifact: Artifact, sources: Sequence[RawFile]) -> RemovedRows | None:
    """Return the rows that a cleaned training set leaves out; None if it is not cleaned."""
    if "without" not in artifact.params:
        distilled = [raw.path for raw in artifact.inputs.values() if raw.stage == "distill"]
        # the test questions of a distilled set were left out when it was written
        return read_json(distilled[0] / LEFT_OUT) if len(artifact.inputs) == len(distilled) == 1 else None
    cleaning = artifact.params["without"]
    raws = {test: artifact.inputs[f"without {test}"] for test in cleaning["answer_forms"]}
    tests = read_raw_records(raw_sources(raws, cleaning))
    # A function, since each method of the audit passes over the training rows once more.
    leaks = find_leaks(lambda: read_raw_records(sources), tests, method=cleaning["method"])
    return {"method": cleaning["method"], "tests": list(raws), "rows": [list(pair) for pair in leaks.items()]}


def worked_examples(artifact: Artifact) -> Callable[[Record], str] | None:
    """Return the function that writes the worked examples before a question; None for zero-shot prompts."""
    if "shots" not in artifact.params:
        return None
    shots, raw = artifact.params["shots"], artifact.inputs["shots"]
    dataset = raw.params["dataset"]
    answer_form = next(iter(artifact.params["answer_forms"].values()))
    sources = raw_sources({dataset: raw}, {**shots, "answer_forms": {dataset: answer_form}})
    return prepare_worked_examples(
        read_raw_records(sources),
        count=shots["count"],
        seed=shots["seed"],
        template=artifact.params["template"],
        where=str(raw.path),
    )
