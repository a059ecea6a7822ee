"""A model card made from the records of a run: what a record does not say, the card says is missing."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from pipeline.core.io import read_json, sha256_file
from pipeline.params.reading import read_card
from pipeline.prompts.encode import CHAT_DATE
from pipeline.prompts.rows import question_row
from pipeline.study import Study
from pipeline.study.artifacts import Artifact
from pipeline.study.find import choose_decoding, make_command
from pipeline.study.run import Run

_HUB_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


def facts(study: Study, run: Run, adapter: Artifact) -> dict[str, Any]:
    """Return all that a card says of a trained run, from its study's params and the files that it left.

    A value whose record is not on disk is None.
    """
    method = read_card("methods", run.entry.method) if run.entry else None
    prompts = adapter.inputs["prompts"]
    return {
        "name": "-".join(run.label.strip("/").split("/")),
        "study": {"name": study.name, "title": study.card.title, "split": study.card.split},
        "run": {"path": str(adapter.path), "fingerprint": adapter.fingerprint, "seed": run.seed},
        "make": {
            what: make_command(study, path)
            for what, path in (("adapter", adapter.path), ("scores", study.scores(run).path))
        },
        "base": _base(study, run),
        "method": {
            "name": run.entry.method if run.entry else run.method,
            "title": method.name if method else run.method,
            "source": method.source if method else None,
            "settings": dict(adapter.params["method"]),
        },
        "training": dict(adapter.params["training"]),
        "other_seeds": [seed for seed in study.card.seeds if seed != run.seed],
        "counts": _record(adapter.path / "manifest.json"),
        "info": _record(adapter.path / "run.json"),
        "prompts": {**_file(prompts), **prompts.params, "name": run.arms[0].training_set},
        "data": [_data(prompts.inputs[name]) for name in prompts.params["answer_forms"]],
        "tasks": _scores(study, run),
        "audits": _audits(study, run),
        "decoding": choose_decoding(study, run, None),
    }


def _record(path: Path) -> Any:
    return read_json(path) if path.exists() else None


def _file(artifact: Artifact) -> dict[str, Any]:
    found = artifact.path
    sum_ = sha256_file(found) if found.is_file() else None
    return {"path": str(found), "fingerprint": artifact.fingerprint, "sha256": sum_}


def _base(study: Study, run: Run) -> dict[str, Any]:
    card, path = read_card("models", run.model), run.base.path
    stated = {key: getattr(card, key, None) for key in ("repo_id", "revision", "licence", "gated")}
    manifest = _record(path / "manifest.json") or {}
    if card.kind == "hub":
        known = {"revision": manifest.get("revision", card.revision), "files": manifest.get("files", {})}
    else:
        weights = sorted(path.glob("*.safetensors"))
        known = {"files": {file.name: sha256_file(file) for file in weights}}
    told = {"name": run.model, "title": card.name, "architecture": card.architecture, "source": card.source}
    where = {"path": str(path), "fingerprint": run.base.fingerprint, "make": make_command(study, path)}
    where["tokens"] = run.base.params.get("tokens", {})
    return {**stated, **known, **told, **where}


def _data(raw: Artifact) -> dict[str, Any]:
    card = read_card("datasets", raw.params["dataset"])
    described = card.splits[raw.params["split"]]
    told = {key: getattr(card, key) for key in ("title", "licence", "citation", "defects", "version")}
    file = _file(raw)
    file["sha256"] = file["sha256"] or described.sha256
    return {
        "name": raw.params["dataset"],
        "split": raw.params["split"],
        "rows": described.rows,
        **told,
        **file,
    }


def _scores(study: Study, run: Run) -> list[dict[str, Any]] | None:
    record = _record(study.scores(run).path)
    if record is None:
        return None
    names = {task.name: task.protocol.name for task in study.tasks(run)}
    rows = []
    for name, score in record["tasks"].items():
        kept = {key: value for key, value in score.items() if key != "items"}
        title = read_card("datasets", score["task"]).title
        rows.append({**kept, "protocol": names[name], "title": title})
    return rows


def _audits(study: Study, run: Run) -> list[dict[str, Any]]:
    path = study.audit(run.arms[0]).path
    found = _record(path)
    return [
        {
            "title": read_card("datasets", task).title,
            "task": task,
            "make": make_command(study, path),
            "found": found and found["tests"][task],
        }
        for task in run.arms[0].tasks
    ]


def render(told: Mapping[str, Any], *, form: str, dtype: str) -> str:
    """Return README.md: the hub's YAML header and the card.

    Args:
        told: what ``facts`` returned.
        form: "peft" (adapter files), "bottleneck" (the same, of this project's tuner), "merged" or "full" (a whole model).
        dtype: of the base's weights when it was evaluated.
    """
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["value"] = _value
    prompt = question_row("QUESTION", template=told["decoding"]["template"])["prompt"]
    body = environment.get_template("model_card.md.j2").render(
        **told, form=form, dtype=dtype, prompt=prompt, chat_date=CHAT_DATE
    )
    return f"---\n{header(told, form=form)}\n---\n\n{body}"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_value(part)}" for key, part in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)


def header(told: Mapping[str, Any], *, form: str) -> str:
    """Return the YAML that the hub reads; a base that is no hub repository is named in the text alone."""
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=task["task"],
            dataset_name=task["title"],
            dataset_split=told["study"]["split"],
            metric_type="accuracy",
            metric_name=f"accuracy ({task['protocol']} protocol, version {task['protocol_version']})",
            metric_value=task["accuracy"],
            metric_args={key: task[key] for key in ("n", "correct", "low", "high", "chance", "unparsable")},
        )
        for task in told["tasks"] or []
    ]
    kind = told["method"]["settings"].get("peft_type", told["method"]["settings"]["kind"]).lower()
    licence, licence_name = _licence(told["base"]["licence"])
    data = ModelCardData(
        base_model=told["base"]["repo_id"],
        library_name="peft" if form in ("peft", "bottleneck") else "transformers",
        pipeline_tag="text-generation",
        datasets=[raw["name"] for raw in told["data"]],
        tags=list(dict.fromkeys([kind, told["method"]["name"], told["base"]["architecture"]])),
        model_name=told["name"] if results else None,
        eval_results=results or None,
        license=licence,
        license_name=licence_name,
    )
    return str(data.to_yaml())


def _licence(licence: str | None) -> tuple[str | None, str | None]:
    """Return the header's licence: the hub's identifier where the model's card has one, else "other" and a name."""
    if not licence or _HUB_LICENCE.fullmatch(licence):
        return licence or None, None
    return "other", re.sub(r"[^a-z0-9.]+", "-", licence.lower()).strip("-")
