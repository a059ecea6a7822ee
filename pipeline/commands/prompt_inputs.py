"""Inputs of the prompts stage, from its artifact: raw files, rows that a cleaned set leaves out, worked examples."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.audit import leaks
from pipeline.audit.rows import RemovedRows
from pipeline.data.rows import RawFile, Record
from pipeline.prompts.shots import prepare_worked_examples
from pipeline.prompts.write import read_raw_records
from pipeline.study.artifacts import Artifact


def sources(raws: Mapping[str, Artifact], params: Mapping[str, Any]) -> list[RawFile]:
    """Return the raw files of a prompts artifact's params, as ``write_prompts`` takes them."""
    return [
        RawFile(
            dataset=name,
            split=raws[name].params["split"],
            path=raws[name].path,
            answer_form=form,
            known_malformed=params.get("known_malformed", {}).get(name, []),
        )
        for name, form in params["answer_forms"].items()
    ]


def removed_rows(made: Artifact, files: Sequence[RawFile]) -> RemovedRows | None:
    """Return the rows that a cleaned training set leaves out; None if it is not cleaned."""
    if "without" not in made.params:
        return None
    given = made.params["without"]
    raws = {test: made.inputs[f"without {test}"] for test in given["answer_forms"]}
    tests = read_raw_records(sources(raws, given))
    rows = leaks(lambda: read_raw_records(files), tests, method=given["method"])
    return {"method": given["method"], "tests": list(raws), "rows": [list(pair) for pair in rows.items()]}


def worked_examples(made: Artifact) -> Callable[[Record], str] | None:
    """Return the function that writes the worked examples before a question; None for zero-shot prompts."""
    if "shots" not in made.params:
        return None
    given, raw = made.params["shots"], made.inputs["shots"]
    form = {raw.params["dataset"]: next(iter(made.params["answer_forms"].values()))}
    files = sources({raw.params["dataset"]: raw}, {**given, "answer_forms": form})
    return prepare_worked_examples(
        read_raw_records(files),
        count=given["count"],
        seed=given["seed"],
        template=made.params["template"],
        where=str(raw.path),
    )
