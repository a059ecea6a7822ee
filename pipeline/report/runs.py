"""The runs of a study: what they cost, how their loss fell, and where their files are."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.core.io import read_json, read_jsonl
from pipeline.report.data import Cell, ReportData, keep_first_of_shared
from pipeline.report.tables import Table
from pipeline.report.texts.tables import average_forgetting, format_nats, list_passages

_GENERATION = "Generation (s)"


def build_cost_table(data: ReportData) -> Table:
    """Build the cost of each method: parameters, training, memory and generation; means over seeds and arms."""
    rows, anchors = [], []
    for model in data.study.models:
        for method, title in data.method_titles(model.name).items():
            runs = keep_first_of_shared(data.find_runs(model.name, method))
            anchors.append(Cell(model.name, method, data.study.arms[0].name).anchor)
            row = {"Model": model.title, "Method": title}
            # a bare base has none, so its row has no cost of training
            adapters = [run.adapter for run in runs if run.adapter]
            if adapters:
                row |= _format_training_cost(data, adapters)
                cells = [Cell(model.name, method, arm.name) for arm in data.study.arms]
                forgotten = average_forgetting(data, cells)
                if forgotten is not None:
                    row["Forgetting (nats/token)"] = format_nats(forgotten, signed=True)
            folders = [
                path
                for run in runs
                for path in (run.answers, run.second_answers, run.text_likelihoods)
                if path
            ]
            # one run has up to three folders
            generation = sum(data.costs[folder]["seconds"] for folder in folders) / len(runs)
            rows.append({**row, _GENERATION: f"{generation:.1f}"})
    mean = "training sets" if data.has_one_seed else "seeds and training sets"
    caption = (
        f"Cost of one run, mean over {mean}, as measured on the machine that ran it. Generation: of all "
        "tasks that a run is evaluated on; for a bare base, the tasks of every arm."
    )
    if list_passages(data):
        caption += " Forgetting: how many more nats per token than the bare base, mean over passages (table of texts)."
    if any(run.combined_sets for run in data.study.runs):
        caption += " A combination trains nothing: its members have their own rows."
    # the first row may be a bare base, which has no columns of training
    columns = dict.fromkeys(column for row in rows for column in row if column != _GENERATION)
    frame = pd.DataFrame(rows, columns=[*columns, _GENERATION])
    return Table(caption, frame.fillna(""), anchors)


def _format_training_cost(data: ReportData, adapters: Sequence[Path]) -> dict[str, str]:
    # the number of parameters depends on model and method only
    manifest = read_json(adapters[0] / "manifest.json")
    trainable, total = manifest["trainable_parameters"], manifest["all_parameters"]
    size = {"Trainable parameters": f"{trainable:,}", "of all (%)": f"{100 * trainable / total:.3f}"}
    if data.is_combined(adapters[0]):
        return size
    costs = [data.costs[adapter] for adapter in adapters]
    return size | {
        "Training (s)": f"{np.mean([cost['seconds'] for cost in costs]):.1f}",
        "Peak memory (GiB)": f"{np.mean([cost['peak_memory_gib'] for cost in costs]):.2f}",
    }


def build_run_table(data: ReportData) -> Table:
    """Build the list of runs with their files and the filters that find them in MLflow."""
    rows = [
        {
            "Model": run.model,
            "Method": run.method,
            "Arm": run.arm or "",
            "Training set": run.training_set or "",
            "Seed": "" if run.seed is None else str(run.seed),
            "Run": str(run.adapter or run.answers),
            "Answers": str(run.answers),
            "MLflow filter": f"tags.fingerprint = '{run.fingerprint}'",
        }
        for run in data.study.runs
    ]
    caption = "Every run: its files, relative to the project, and the filter that finds it in MLflow."
    anchors = [Cell(run.model, run.method, run.arm or "").anchor for run in data.study.runs]
    return Table(caption, pd.DataFrame(rows), anchors)


def list_losses(data: ReportData) -> pd.DataFrame:
    """Return a row for each logged step of each training: model, method, arm, training_set, seed, step, loss."""
    rows = [
        {
            "model": run.model,
            "method": run.method,
            "arm": run.arm,
            "training_set": run.training_set,
            "seed": run.seed,
            "step": entry["step"],
            "loss": entry["loss"],
        }
        for run in data.study.runs
        if run.adapter and not run.combined_sets
        for entry in read_jsonl(run.adapter / "history.jsonl")
        # the other entries are validation losses
        if "loss" in entry
    ]
    return pd.DataFrame(rows, columns=["model", "method", "arm", "training_set", "seed", "step", "loss"])
