"""The stage `distill`, from its artifacts: prompts for a teacher, and the training set that its answers become."""

from pipeline.commands.run.prompt_inputs import raw_sources
from pipeline.evaluate.generation.rows import GenerationRequest, GenerationTask
from pipeline.params.protocols import Decoding
from pipeline.prompts.write import read_raw_records
from pipeline.study.artifacts import Artifact
from pipeline.study.distillation.resolve import SETS


def is_set(artifact: Artifact) -> bool:
    """Return whether an artifact of the stage is a training set, and not a teacher's answers."""
    return artifact.label.startswith(f"{SETS}/")


def answer_request(artifact: Artifact) -> GenerationRequest:
    """Return the teacher and the questions of a source that it answers."""
    source = artifact.path.parent.name
    adapter = artifact.inputs.get("adapter")
    decoding: Decoding = artifact.params[source]
    questions = artifact.inputs["questions"].path
    return GenerationRequest(
        name=f"{artifact.label.rstrip('/')} as a teacher",
        adapter=adapter.path if adapter else None,
        tasks=(GenerationTask(source, questions, decoding, artifact.fingerprint),),
        output=artifact.path,
        siblings=artifact.path.parent,
    )


def write_set(artifact: Artifact) -> None:
    """Write a distilled training set."""
    from pipeline.evaluate.distillation.rows import AnsweredSource
    from pipeline.evaluate.distillation.select import Cleaning, write_distilled_set

    inputs, params = artifact.inputs, artifact.params
    sources = [
        AnsweredSource(
            name, inputs[f"questions of {name}"].path, inputs[f"answers to {name}"].path / f"{name}.jsonl"
        )
        for name in params["sources"]
    ]
    without = params["without"]
    raws = {test: inputs[f"without {test}"] for test in without["answer_forms"]}
    tests = read_raw_records(raw_sources(raws, without))
    write_distilled_set(
        sources,
        Cleaning(list(raws), tests, without["method"]),
        filter=params["filter"],
        parser=params["parser"],
        output=artifact.path,
        manifest=artifact.manifest,
    )
