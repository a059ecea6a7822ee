"""What a study is not: the limits that follow from where its models and data come from."""

from pipeline.core.io import read_json
from pipeline.report.data import ReportData

REPEATED_WORDING = (
    "The tasks and training sets come from a small synthetic world: each question is drawn from a few sentence patterns, names "
    "and objects. The same wording therefore recurs with other numbers, names or facts, and the audit finds it. Training and "
    "test rows share no story and no fact, so the marks show repeated wording, not leaked answers."
)


def describe_limits(data: ReportData) -> str:
    """Return what the study's numbers say nothing about, by the cards of its models and data; "" where nothing follows."""
    sources = data.study.sources
    has_made_models = _are_made_here(data, "base model")
    has_made_data = has_made_tasks(data)
    size = _describe_sizes(data)
    if has_made_models and has_made_data:
        return (
            f"This study tests the pipeline. It uses a small synthetic world instead of real data, and tiny models{size} that the "
            "pipeline pretrains itself. Its numbers say nothing about large language models."
        )
    if has_made_models:
        return f"The pipeline pretrains the tiny base models{size} itself, so the numbers say nothing about large language models."
    if has_made_data and sources:
        return "The tasks and training sets are a small synthetic world, so the numbers say nothing about real tasks."
    return ""


def describe_repetition(data: ReportData) -> str:
    """Return why a small world repeats itself, for above the contamination table; "" for a study of real data or no match."""
    tests = (test for audit in data.audits.values() for test in audit["tests"].values())
    has_matches = any(method["n"] for test in tests for method in test["methods"].values())
    return REPEATED_WORDING if has_matches and has_made_tasks(data) else ""


def has_made_tasks(data: ReportData) -> bool:
    """Whether the pipeline generates all training sets and tasks of the study itself."""
    return _are_made_here(data, "training set") and _are_made_here(data, "task")


def _are_made_here(data: ReportData, role: str) -> bool:
    made = [source.made_here for source in data.study.sources if source.role == role]
    return bool(made) and all(made)


def _describe_sizes(data: ReportData) -> str:
    """Return the number of parameters of the bases in brackets, as the manifests of their adapters record it."""
    sizes = set()
    for model in data.study.models:
        adapter = next(
            (run.adapter for run in data.study.runs if run.adapter and run.model == model.name), None
        )
        if adapter:
            manifest = read_json(adapter / "manifest.json")
            sizes.add(f"{(manifest['all_parameters'] - manifest['trainable_parameters']) / 1e6:.1f}")
    ordered = sorted(sizes, key=float)
    if not ordered:
        return ""
    # the ends of the range
    return f" ({' to '.join(dict.fromkeys((ordered[0], ordered[-1])))} million parameters)"
