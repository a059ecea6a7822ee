"""Inputs of the prompts stage, from its artifact: raw files, rows that a cleaned set leaves out, worked examples."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.audit import find_leaks
from pipeline.audit.rows import RemovedRows
from pipeline.data.rows import RawFile, Record
from pipeline.prompts.shots import prepare_worked_examples
from pipeline.prompts.write import read_raw_records
from pipeline.study.artifacts import Artifact


def raw_sources(raws: Mapping[str, Artifact], params: Mapping[str, Any]) -> list[RawFile]:
    """Return the raw files that a prompts artifact's params name, as ``write_prompts`` takes them."""
    return [
        RawFile(
            dataset=name,
            split=raws[name].params["split"],
            path=raws[name].path,
            answer_form=answer_form,
            known_malformed=params.get("known_malformed", {}).get(name, []),
        )
        for name, answer_form in params["answer_forms"].items()
    ]


def removed_rows(artifact: Artifact, sources: Sequence[RawFile]) -> RemovedRows | None:
    """Return the rows that a cleaned training set leaves out; None if it is not cleaned."""
    if "without" not in artifact.params:
        return None
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
