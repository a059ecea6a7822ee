"""Nats per token of a study's texts, by model, method and arm, and how much of them training cost."""

import math
from collections.abc import Sequence

import pandas as pd

from pipeline.evaluate.texts.nats import (
    Likelihoods,
    NatsEstimate,
    estimate_forgetting,
    estimate_nats,
    read_likelihoods,
)
from pipeline.report.data import Cell, ReportData
from pipeline.report.tables import Table
from pipeline.study.description import TextDescription
from pipeline.study.run import BARE

# of a model whose training diverged
NOT_FINITE = "not finite"


def build_text_tables(data: ReportData) -> dict[str, Table]:
    """Build the table of likelihoods, by file name; empty for a study without texts."""
    if not data.study.texts:
        return {}
    rows, anchors = [], []
    for text in data.study.texts:
        for cell, title in list_cells(data):
            estimate = measure_likelihood(data, cell, text)
            row = {"Text": text.title, "Model": _model_title(data, cell), "Method": title}
            row |= {"Arm": "" if cell.method == BARE else cell.arm, "texts": str(estimate["n"])}
            row |= {"tokens": f"{estimate['tokens']:,}", "nats per token": _format(estimate)}
            row["perplexity"] = _format(estimate, exponential=True)
            if data.has_bare:
                forgetting = measure_forgetting(data, cell, text)
                row["more than the base"] = "" if forgetting is None else _format(forgetting, signed=True)
            rows.append(row)
            anchors.append(cell.anchor)
    return {"texts": Table(_write_caption(data), pd.DataFrame(rows), anchors)}


def list_cells(data: ReportData) -> list[tuple[Cell, str]]:
    """Return the cells of the table with the titles of their methods: a bare base once, each method in each arm."""
    cells = []
    for model in data.study.models:
        for method, title in data.method_titles(model.name).items():
            arms = data.study.arms[:1] if method == BARE else data.study.arms
            cells += [(Cell(model.name, method, arm.name), title) for arm in arms]
    return cells


def measure_likelihood(data: ReportData, cell: Cell, text: TextDescription) -> NatsEstimate:
    """Return the nats per token of a cell on a text."""
    return estimate_nats(_read_cell(data, cell, text))


def measure_forgetting(data: ReportData, cell: Cell, text: TextDescription) -> NatsEstimate | None:
    """Return how many nats per token more a method needs than its base; None for the base, and without it."""
    if cell.method == BARE or not data.has_bare:
        return None
    base = _read_cell(data, Cell(cell.model, BARE, cell.arm), text)
    return estimate_forgetting(_read_cell(data, cell, text), base)


def list_passages(data: ReportData) -> list[TextDescription]:
    """Return the texts that forgetting is about: passages, since references may be of the kind that was trained."""
    return [text for text in data.study.texts if text.answer_form == "passage"]


def average_forgetting(data: ReportData, cells: Sequence[Cell]) -> float | None:
    """Return the mean over cells and passages of the nats per token that were forgotten; None where not measured."""
    estimates = [measure_forgetting(data, cell, text) for cell in cells for text in list_passages(data)]
    values = [estimate["estimate"] for estimate in estimates if estimate]
    return sum(values) / len(values) if values else None


def collect_text_metrics(data: ReportData) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Return nats per token and forgetting for ``dvc metrics``, by model and method: "TEXT", or "TEXT after ARM"."""
    metrics: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for text in data.study.texts:
        for cell, _ in list_cells(data):
            name = text.name if cell.method == BARE else f"{text.name} after {cell.arm}"
            values = {"nats per token": measure_likelihood(data, cell, text)["estimate"]}
            if forgetting := measure_forgetting(data, cell, text):
                values["forgetting"] = forgetting["estimate"]
            for key, value in values.items():
                # JSON has no nan
                if not math.isnan(value):
                    models = metrics.setdefault(key, {})
                    models.setdefault(cell.model, {}).setdefault(cell.method, {})[name] = round(value, 6)
    return metrics


def _read_cell(data: ReportData, cell: Cell, text: TextDescription) -> Likelihoods:
    folders = [run.text_likelihoods for run in data.find_runs(*cell) if run.text_likelihoods]
    return read_likelihoods([folder / f"{text.name}.jsonl" for folder in folders])


def _model_title(data: ReportData, cell: Cell) -> str:
    return next(model.title for model in data.study.models if model.name == cell.model)


def _format(estimate: NatsEstimate, *, exponential: bool = False, signed: bool = False) -> str:
    values = [estimate["estimate"], estimate["low"], estimate["high"]]
    if any(map(math.isnan, values)):
        return NOT_FINITE
    if exponential:
        value, low, high = (f"{math.exp(value):.4g}" if value < 700 else "inf" for value in values)
    else:
        value, low, high = (format_nats(value, signed=signed) for value in values)
    return f"{value} [{low}, {high}]"


def format_nats(value: float, *, signed: bool = False) -> str:
    """Format nats per token; a model that diverged has none."""
    if math.isnan(value):
        return NOT_FINITE
    return f"{value:+.3f}" if signed else f"{value:.3f}"


def _write_caption(data: ReportData) -> str:
    interval = "over texts" if data.has_one_seed else "over texts and seeds"
    caption = (
        f"Negative log-likelihood of texts in nats per token, with 95 % intervals {interval}, and perplexity, its exponential. "
        "Only models with one tokenizer can be compared."
    )
    if data.has_bare:
        caption += (
            " More than the base: the difference from the bare base, paired on texts. Above 0, an adapter finds the text less "
            "likely than its bare base does. For passages, on which nothing was trained, this is forgetting; for references, a "
            "value below 0 is what was learned."
        )
    if data.has_one_seed:
        caption += " A number from one seed is about this run alone."
    return caption
