"""Why a result has another name than an earlier one: which key of which file, which code, or which input."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.params.reading import read_card
from pipeline.study import Study
from pipeline.study.artifacts import Artifact

Identity = Mapping[str, Any]  # version, params and inputs (name -> fingerprint) of an artifact, as recorded
Known = Callable[[str, str], Identity | None]  # stage, fingerprint -> identity

ABSENT = "(none)"
LONG = 60  # characters of a value that is shown


def causes(study: Study, artifact: Artifact, old: Identity, known: Known) -> Iterator[str]:
    """Yield each difference that gave ``artifact`` another fingerprint than ``old``, a line each.

    What came through an input is told as the difference within that input.
    """
    version = artifact.identity["version"]
    if old["version"] != version:
        yield f"code of {artifact.stage}: version {old['version']} -> {version} (pipeline/study/stages.yaml)"
    given, had = artifact.params, old["params"]
    if artifact.stage in ("generate", "score"):  # by task; one that came or went is told as an input
        given, had = ({name: one[name] for name in given if name in had} for one in (given, had))
    before, now = _flat(had), _flat(given)
    for key in sorted(before.keys() | now.keys()):
        one, other = before.get(key, ABSENT), now.get(key, ABSENT)
        if one != other:
            name = _without_task(study, artifact, key)
            yield f"{name}: {_brief(one)} -> {_brief(other)} ({place_of(study, artifact, key)})"
    yield from _inputs(study, artifact, old, known)


def _inputs(study: Study, artifact: Artifact, old: Identity, known: Known) -> Iterator[str]:
    before = {_plain(name): one for name, one in old["inputs"].items()}
    now = {_plain(name): one for name, one in artifact.inputs.items()}
    for name in sorted(before.keys() - now.keys()):
        yield f"{name}: no longer an input of {artifact.stage} ({study.where})"
    for name, one in now.items():
        if name not in before:
            yield f"{name}: a new input of {artifact.stage} ({study.where})"
        elif before[name] != one.fingerprint:
            earlier = known(one.stage, before[name])
            if earlier is None:
                yield f"{name}: {one.stage} {before[name]} -> {one.fingerprint} (the earlier one is not here)"
            else:
                yield from causes(study, one, earlier, known)


def _without_task(study: Study, artifact: Artifact, key: tuple[str, ...]) -> str:
    """Return a parameter's name for people; what answers and scores have by task and protocol, by protocol."""
    protocol = _protocol(study, key) if artifact.stage in ("generate", "score") else None
    return ".".join((protocol, *key[1:]) if protocol else key)


def _protocol(study: Study, key: tuple[str, ...]) -> str | None:
    found = [one for one in study.card.protocols if key[0].endswith(f"-{one}")]
    return max(found, key=len, default=None)


def _plain(name: str) -> str:
    """Return an input's name without fingerprint: a report's inputs are named by their paths."""
    path = Path(name)
    return name if "/" not in name else str(path.parent / path.stem[:-12]).rstrip("/")


def place_of(study: Study, artifact: Artifact, key: tuple[str, ...]) -> str:
    """Return the file that a resolved parameter of an artifact comes from."""
    name = artifact.path.parent.name
    if artifact.stage in ("fetch", "base"):
        return f"params/{'datasets' if artifact.stage == 'fetch' else 'models'}/{name}.yaml"
    if artifact.stage == "prompts":
        of_study = key[0] in ("limit", "sample_seed", "template", "shots")
        return study.where if of_study else f"params/datasets/{name}.yaml"
    if artifact.stage == "train":
        return _place_of_training(study, artifact, key)
    if artifact.stage in ("generate", "score"):
        protocol = _protocol(study, key)
        own = {"dtype", "merge_adapter"} | ({"max_new_tokens"} if study.card.max_new_tokens else set())
        return study.where if key[-1] in own or protocol is None else f"params/protocols/{protocol}.yaml"
    return study.where


def _place_of_training(study: Study, artifact: Artifact, key: tuple[str, ...]) -> str:
    run = next((run for run in study.runs if run.adapter and run.adapter.path == artifact.path), None)
    if run is None or run.entry is None or key == ("seed",):
        return study.where
    card = f"params/methods/{run.entry.method}.yaml"
    if key[0] == "method":
        return study.where if key[1] in (run.entry.model_extra or {}) else card
    # the layers of study.Study._trained, the last that says something first
    arm = run.arms[0]
    of_study = (
        run.entry.training,
        arm.training_by_model.get(run.model, {}),
        arm.training,
        study.card.training,
    )
    if any(key[1] in layer for layer in of_study):
        return study.where
    return card if key[1] in read_card("methods", run.entry.method).training else "pipeline/params/studies.py"


def _flat(params: Any, above: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    if not isinstance(params, Mapping):
        return {above: params}
    found: dict[tuple[str, ...], Any] = {}
    for key, value in params.items():
        found |= _flat(value, (*above, str(key)))
    return found


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= LONG else f"{text[: LONG - 3]}..."
