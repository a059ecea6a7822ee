"""Explain why an artifact has another fingerprint than an earlier one: a params key, the code, or an input."""

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from pipeline.core.text import format_value
from pipeline.params.base import TrainingOverlay
from pipeline.params.reading import read_card
from pipeline.study import Study
from pipeline.study.artifacts import Artifact, ArtifactIdentity
from pipeline.study.distillation.teacher import list_distilled_sets
from pipeline.study.references import FOLDER as REFERENCES
from pipeline.study.tuning.choice import TUNED

# The identity of an earlier artifact by stage and fingerprint; None if it is not on disk.
FindIdentity = Callable[[str, str], ArtifactIdentity | None]
ParamKey = tuple[str, ...]

ABSENT = "(none)"
# `status` prints a cause as one cell of a table.
MAX_CAUSE_VALUE_CHARACTERS = 60
# The params of these stages are keyed by TASK-PROTOCOL.
TASK_STAGES = ("generate", "score")


def explain_changes(
    study: Study, artifact: Artifact, previous: ArtifactIdentity, find_identity: FindIdentity
) -> Iterator[str]:
    """Yield each cause, a line each, for which ``artifact`` has another fingerprint than ``previous``.

    For a changed input, the lines are the causes of the input's change.
    """
    version = artifact.identity["version"]
    if previous["version"] != version:
        yield f"code of {artifact.stage}: version {previous['version']} -> {version} (pipeline/study/stages.yaml)"
    current_params, previous_params = dict(artifact.params), previous["params"]
    if artifact.stage in TASK_STAGES:
        # an added or removed task is also an added or removed input, which is reported below
        common = current_params.keys() & previous_params.keys()
        current_params, previous_params = (
            {name: params[name] for name in params if name in common}
            for params in (current_params, previous_params)
        )
    before, after = _flatten_params(previous_params), _flatten_params(current_params)
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key, ABSENT), after.get(key, ABSENT)
        if old != new and not _is_result(artifact.stage, key):
            file = find_param_file(study, artifact, key)
            yield f"{_format_key(study, artifact, key)}: {_excerpt(old)} -> {_excerpt(new)} ({file})"
    yield from _explain_inputs(study, artifact, previous, find_identity)


def _is_result(stage: str, key: ParamKey) -> bool:
    """Whether a key of a report refers to its inputs, whose changes are explained by themselves."""
    return stage == "report" and (key[0] in ("runs", "audits") or "audit" in key or "prompts" in key)


def _explain_inputs(
    study: Study, artifact: Artifact, previous: ArtifactIdentity, find_identity: FindIdentity
) -> Iterator[str]:
    before = {_input_label(name): fingerprint for name, fingerprint in previous["inputs"].items()}
    after = {_input_label(name): source for name, source in artifact.inputs.items()}
    for name in sorted(before.keys() - after.keys()):
        yield f"{name}: no longer an input of {artifact.stage} ({study.where})"
    for name, source in after.items():
        if name not in before:
            yield f"{name}: a new input of {artifact.stage} ({study.where})"
        elif before[name] != source.fingerprint:
            identity = find_identity(source.stage, before[name])
            if identity is None:
                change = f"{source.stage} {before[name]} -> {source.fingerprint}"
                yield f"{name}: {change} (the previous {source.stage} is not on disk)"
            else:
                yield from explain_changes(study, source, identity, find_identity)


def _format_key(study: Study, artifact: Artifact, key: ParamKey) -> str:
    """Return a params key as text; of answers and scores without the task: a protocol's key is the same for all."""
    protocol = _protocol_of_key(study, key) if artifact.stage in TASK_STAGES else None
    return ".".join((protocol, *key[1:]) if protocol else key)


def _protocol_of_key(study: Study, key: ParamKey) -> str | None:
    protocols = [protocol for protocol in study.card.protocols if key[0].endswith(f"-{protocol}")]
    # a name such as "strict-shots" also ends with "-shots"
    return max(protocols, key=len, default=None)


def _input_label(name: str) -> str:
    """Return an input's name without its fingerprint: the inputs of a report are named by their paths."""
    path = Path(name)
    return name if "/" not in name else str(path.parent / path.stem[:-12]).rstrip("/")


def find_param_file(study: Study, artifact: Artifact, key: ParamKey) -> str:
    """Return the file that sets a resolved parameter of an artifact."""
    name = artifact.path.parent.name
    folder, _, reference = artifact.label.rstrip("/").partition("/")
    if folder == REFERENCES:
        return f"params/references/{reference.partition('/')[0]}.yaml"
    if artifact.stage in ("fetch", "base"):
        return f"params/{'datasets' if artifact.stage == 'fetch' else 'models'}/{name}.yaml"
    if artifact.stage == "distill":
        adapter = artifact.inputs.get("adapter")
        if key[-1] == "quantization" and adapter:
            return _find_training_param_file(study, adapter, ("training", "quantization"))
        return _find_distilled_card(study, artifact)
    if artifact.stage == "prompts":
        in_study = key[0] in ("limit", "sample_seed", "template", "shots")
        return study.where if in_study else f"params/datasets/{name}.yaml"
    if artifact.stage == "choose":
        return study.where
    if artifact.stage in ("train", "combine"):
        return _find_training_param_file(study, artifact, key)
    if artifact.stage in TASK_STAGES:
        return _find_task_param_file(study, artifact, key)
    return _find_report_param_file(study, key)


def _find_distilled_card(study: Study, artifact: Artifact) -> str:
    """Return the card of a distilled set, or that of the first set that a teacher's answers are for."""
    for name, distilled in list_distilled_sets(study).items():
        if artifact in (distilled, *distilled.inputs.values()):
            return f"params/datasets/{name}.yaml"
    return study.where


def _find_report_param_file(study: Study, key: ParamKey) -> str:
    folders = {
        **{"models": "models", "tasks": "datasets", "protocol_cards": "protocols"},
        **{"sources": "datasets", "references": "references"},
    }
    for section, name in pairwise(key):
        if section == "sources" and name in study.card.models:
            return f"params/models/{name}.yaml"
        if section in folders:
            return f"params/{folders[section]}/{name}.yaml"
    # the title of a method without a label is its card's
    unlabelled = [entry.method for entry in study.card.methods if entry.label is None]
    if key[0] == "methods" and key[-1] == "title" and key[1] in unlabelled:
        return f"params/methods/{key[1]}.yaml"
    return f"params/published/{study.card.published}.yaml" if key[0] == "published" else study.where


def _find_task_param_file(study: Study, artifact: Artifact, key: ParamKey) -> str:
    adapter = artifact.inputs.get("adapter")
    # the precision of a combination is that of its members
    adapter = adapter.inputs.get("member 1", adapter) if adapter else None
    if key[-1] == "quantization" and adapter:
        return _find_training_param_file(study, adapter, ("training", "quantization"))
    if key[-1] in ("dtype", "weights") and adapter and study.card.evaluation.dtype is None:
        # as the adapter was trained
        return _find_training_param_file(study, adapter, ("training", "dtype"))
    protocol = _protocol_of_key(study, key)
    if protocol and key[-1] in ("first_parser", "first_version"):
        return f"params/protocols/{read_card('protocols', protocol).first_stage}.yaml"
    # these keys come from the study, all others from the card of the protocol
    study_keys = {"dtype", "weights", "quantization", "merge_adapter"}
    study_keys |= {"max_new_tokens"} if study.card.max_new_tokens else set()
    return study.where if key[-1] in study_keys or protocol is None else f"params/protocols/{protocol}.yaml"


def _find_training_param_file(study: Study, artifact: Artifact, key: ParamKey) -> str:
    run = next((run for run in study.runs if run.adapter and run.adapter.path == artifact.path), None)
    # trials have the settings that the study's tuning says
    if run is None or run.entry is None or key == ("seed",) or artifact.params.get(key[0]) is None:
        return study.where
    if key[0] == "training" and artifact.params["training"].get(key[1]) == TUNED:
        return study.where
    method_card = f"params/methods/{run.entry.method}.yaml"
    if key[0] == "method":
        return study.where if key[1] in (run.entry.model_extra or {}) else method_card
    # follows from the dtype
    key = ("training", "dtype") if key == ("precision",) else key
    # the layers that Study merges into training params
    arm = run.arms[0]
    study_layers = (
        run.entry.training,
        arm.training_by_model.get(run.model, TrainingOverlay()),
        arm.training,
        study.card.training,
    )
    if any(key[1] in layer.model_fields_set for layer in study_layers):
        return study.where
    # what neither the study nor the card sets has the published default, which is code
    in_method = key[1] in read_card("methods", run.entry.method).training.model_fields_set
    return method_card if in_method else "pipeline/params/base.py"


def _flatten_params(params: Any, parent: ParamKey = ()) -> dict[ParamKey, Any]:
    if (
        params
        and isinstance(params, list)
        and all(isinstance(item, Mapping) and "name" in item for item in params)
    ):
        params = {item["name"]: item for item in params}
    if not isinstance(params, Mapping):
        return {parent: params}
    return {
        key: leaf
        for name, value in params.items()
        for key, leaf in _flatten_params(value, (*parent, str(name))).items()
    }


def _excerpt(value: Any) -> str:
    text = format_value(value)
    return text if len(text) <= MAX_CAUSE_VALUE_CHARACTERS else f"{text[: MAX_CAUSE_VALUE_CHARACTERS - 3]}..."
