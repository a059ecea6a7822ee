"""A choice between trials as its file has it, and the settings of a tuned training once they are known."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from pipeline.core.io import read_json
from pipeline.params.base import Training
from pipeline.params.tuning.cards import Setting
from pipeline.study.artifacts import STORE, Artifact

# the value of a setting that a choice makes, in the params of the trainings that depend on it
TUNED = "tuned"
# the name of the choice among the inputs of a training
CHOICE = "choice"


class TrialRow(TypedDict):
    """A trial: its settings, its adapter's fingerprint, and its score; None: it diverged."""

    values: dict[str, Setting]
    adapter: str
    score: float | None


class ChoiceFile(TypedDict):
    """What a choice says besides its manifest.

    ``score`` is the loss or the accuracy of the chosen trial. ``best_of`` has, for 1 to all trials, the expected best score
    of so many trials drawn at random; None: a draw may consist of trials that diverged alone.
    """

    rule: str
    trials: list[TrialRow]
    values: dict[str, Setting]
    score: float
    best_of: list[float | None]


def read_choice(path: Path, *, root: Path = Path()) -> ChoiceFile | None:
    """Return a choice, from the project or else from the store; None if it was not made yet."""
    found = next((folder / path for folder in (root, root / STORE) if (folder / path).is_file()), None)
    content: ChoiceFile | None = read_json(found) if found else None
    return content


def find_chosen(adapter: Artifact, *, root: Path = Path()) -> dict[str, Setting]:
    """Return the settings of a training that a choice makes; empty if there is none, or it was not made yet."""
    choice = adapter.inputs.get(CHOICE)
    if choice is None:
        return {}
    if content := read_choice(choice.path, root=root):
        return content["values"]
    # a clone may have the adapter alone
    manifest = root / adapter.path / "manifest.json"
    chosen: dict[str, Setting] = read_json(manifest).get("chosen", {}) if manifest.is_file() else {}
    return chosen


def require_chosen(adapter: Artifact) -> dict[str, Setting]:
    """Return the settings of a training that a choice makes; empty if there is none.

    Raises:
        UserError: the choice was not made yet.
    """
    choice = adapter.inputs.get(CHOICE)
    content: ChoiceFile | None = read_json(choice.path) if choice else None
    return content["values"] if content else {}


def resolve_params(adapter: Artifact, *, root: Path = Path()) -> dict[str, Any]:
    """Return the params of an adapter with its chosen settings; "tuned" stands for one that is not known yet."""
    params = dict(adapter.params)
    if chosen := find_chosen(adapter, root=root):
        params["training"] = params["training"] | chosen
    return params


def plan_training(params: Mapping[str, Any]) -> Training:
    """Return the settings of a training as far as no choice makes them, with defaults for the others.

    For what follows from the number of steps and the sizes alone, which no choice makes.
    """
    return Training(**{key: value for key, value in params["training"].items() if value != TUNED})
