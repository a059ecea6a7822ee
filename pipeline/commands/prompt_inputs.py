"""What the prompts stage is given, from its artifact: raw files, rows that a cleaned set leaves out, worked examples."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.audit import leaks
from pipeline.prompts.shots import worked_examples
from pipeline.prompts.write import raw_records
from pipeline.study.artifacts import Artifact


def sources(raws: Mapping[str, Artifact], params: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the raw files of a prompts artifact's params, as ``write_prompts`` takes them."""
    return [
        {
            "dataset": name,
            "split": raws[name].params["split"],
            "path": raws[name].path,
            "answer_form": form,
            "known_malformed": params.get("known_malformed", {}).get(name, []),
        }
        for name, form in params["answer_forms"].items()
    ]


def without(made: Artifact, files: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return what a cleaned training set leaves out: method, tests and rows, each (its id, id of a test row that it gives away)."""
    if "without" not in made.params:
        return None
    given = made.params["without"]
    raws = {test: made.inputs[f"without {test}"] for test in given["answer_forms"]}
    tests = raw_records(sources(raws, given))
    rows = leaks(lambda: raw_records(files), tests, method=given["method"])
    return {"method": given["method"], "tests": list(raws), "rows": [list(pair) for pair in rows.items()]}


def shots(made: Artifact) -> Callable[[Mapping[str, Any]], str] | None:
    """Return what writes the worked examples ahead of a question; None where there are none."""
    if "shots" not in made.params:
        return None
    given, raw = made.params["shots"], made.inputs["shots"]
    form = {raw.params["dataset"]: next(iter(made.params["answer_forms"].values()))}
    files = sources({raw.params["dataset"]: raw}, {**given, "answer_forms": form})
    drawn = {key: given[key] for key in ("count", "seed")}
    return worked_examples(raw_records(files), template=made.params["template"], where=str(raw.path), **drawn)
