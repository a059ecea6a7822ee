"""What the adapters were trained with, as their manifests record it: a row for each model, method and setting."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipeline.core.io import read_json
from pipeline.report.data import Cell, ReportData
from pipeline.report.tables import Table

# fields of a method that other columns or the title say
_OMITTED = ("kind",)


@dataclass(frozen=True)
class TrainingSettings:
    """The settings of a model's method; None or empty: not recorded, or does not apply.

    Attributes:
        model: title.
        method: title.
        arms: the arms that share the settings.
        anchor: the id on the page of the first run.
        learning_rate: peak.
        batch_size: examples a step.
        steps: steps of the optimizer.
        epochs: passes over the training set, where the study sets them instead of steps.
        warmup_steps: steps up to the peak learning rate.
        lr_scheduler: how the learning rate falls.
        cutoff_len: limit of an example in tokens.
        dtype: of the computation.
        own: settings of the method alone, by key; as JSON.
        tuned: settings that trials chose, by key.
        trainable_parameters: of the adapter.
        share: of all parameters, in [0, 1].
    """

    model: str
    method: str
    arms: tuple[str, ...]
    anchor: str
    learning_rate: float | None
    batch_size: int | None
    steps: int | None
    epochs: int | None
    warmup_steps: int | None
    lr_scheduler: str
    cutoff_len: int | None
    dtype: str
    own: tuple[tuple[str, str], ...]
    tuned: tuple[str, ...]
    trainable_parameters: int
    share: float


def list_training_settings(data: ReportData) -> list[TrainingSettings]:
    """Return the settings of each model and method; arms with equal settings share a row."""
    rows: list[TrainingSettings] = []
    for model in data.study.models:
        for method in data.methods_of(model.name):
            by_manifest: dict[str, list[str]] = {}
            for arm in data.study.arms:
                runs = data.find_runs(model.name, method.name, arm.name)
                if runs and runs[0].adapter:
                    manifest = _select_settings(read_json(runs[0].adapter / "manifest.json"))
                    if runs[0].combined_sets:
                        manifest["method"] |= {"members trained on": list(runs[0].combined_sets)}
                    by_manifest.setdefault(json.dumps(manifest, sort_keys=True), []).append(arm.name)
            for text, arms in by_manifest.items():
                anchor = Cell(model.name, method.name, arms[0]).anchor
                rows.append(_read_settings(json.loads(text), model.title, method.title, arms, anchor))
    return rows


def _select_settings(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of a manifest that do not differ between seeds and between training sets by themselves."""
    params, chosen = manifest.get("params", {}), manifest.get("chosen", {})
    return {
        "tuned": sorted(chosen),
        "method": params.get("method", {}),
        "training": params.get("training", {}) | chosen,
        "steps": manifest.get("steps"),
        "trainable_parameters": manifest["trainable_parameters"],
        "all_parameters": manifest["all_parameters"],
    }


def _read_settings(
    manifest: Mapping[str, Any], model: str, method: str, arms: Sequence[str], anchor: str
) -> TrainingSettings:
    training = manifest["training"]
    own = {key: value for key, value in manifest["method"].items() if key not in _OMITTED}
    return TrainingSettings(
        model=model,
        method=method,
        arms=tuple(arms),
        anchor=anchor,
        learning_rate=training.get("learning_rate"),
        batch_size=training.get("batch_size"),
        steps=manifest["steps"],
        epochs=training.get("epochs"),
        warmup_steps=training.get("warmup_steps"),
        lr_scheduler=training.get("lr_scheduler", ""),
        cutoff_len=training.get("cutoff_len"),
        dtype=training.get("dtype", ""),
        own=tuple((key, _format_value(value)) for key, value in own.items() if value is not None),
        tuned=tuple(manifest["tuned"]),
        trainable_parameters=manifest["trainable_parameters"],
        share=manifest["trainable_parameters"] / manifest["all_parameters"],
    )


def _format_value(value: object) -> str:
    """Format a setting as YAML's flow style would, which cards are written in."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_format_value(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_format_value, value)) + "]"
    return value if isinstance(value, str) else json.dumps(value)


def build_settings_tables(data: ReportData) -> dict[str, Table]:
    """Build the table of settings, by file name; empty for bare bases alone. A column without any value is left out."""
    settings = list_training_settings(data)
    if not settings:
        return {}
    rows = [
        {
            "Model": row.model,
            "Method": row.method,
            "Arm": ", ".join(row.arms),
            "Learning rate": "" if row.learning_rate is None else f"{row.learning_rate:g}",
            "Batch (examples)": _format_count(row.batch_size),
            "Steps": _format_count(row.steps),
            "Epochs": _format_count(row.epochs),
            "Warm-up (steps)": _format_count(row.warmup_steps),
            "Scheduler": row.lr_scheduler,
            "Cutoff (tokens)": _format_count(row.cutoff_len),
            "Type": row.dtype,
            "Chosen by trials": ", ".join(row.tuned),
            "The method's own": ", ".join(f"{key}: {value}" for key, value in row.own),
            "Trainable parameters": f"{row.trainable_parameters:,}",
            "of all (%)": f"{100 * row.share:.3f}",
        }
        for row in settings
    ]
    frame = pd.DataFrame(rows)
    frame = frame[[column for column in frame.columns if frame[column].any()]]
    caption = (
        "Settings of the trainings, as each adapter's manifest.json records them. The method's own settings have the names of "
        "its card. Arms with equal settings share a row."
    )
    return {"settings": Table(caption, frame, [row.anchor for row in settings])}


def _format_count(value: int | None) -> str:
    return "" if value is None else str(value)
