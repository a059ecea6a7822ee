"""The report of a study: one self-contained page, and its tables as CSV, Markdown and LaTeX."""

from pathlib import Path

from pipeline.core.io import atomic_directory, write_json
from pipeline.report.accuracy import (
    build_accuracy_tables,
    build_metric_tables,
    collect_metrics,
    list_accuracies,
    list_settings,
)
from pipeline.report.comparisons import build_comparison_tables
from pipeline.report.contamination import build_contamination_tables
from pipeline.report.data import ReportData, read_report_data
from pipeline.report.distillation import build_distillation_tables, collect_yields
from pipeline.report.figures import Drawing, draw_figures
from pipeline.report.followups import build_followup_tables
from pipeline.report.outcomes import build_outcome_tables
from pipeline.report.page import render_page
from pipeline.report.page.answers import write_answers
from pipeline.report.published import build_published_tables
from pipeline.report.references import (
    build_reference_tables,
    collect_reference_metrics,
    list_reference_accuracies,
)
from pipeline.report.runs import build_cost_table, build_run_table, list_losses
from pipeline.report.stability.order import draw_orders
from pipeline.report.stability.tables import build_stability_tables
from pipeline.report.summary import summarize
from pipeline.report.summary.figure import draw_headline
from pipeline.report.summary.headline import write_headline
from pipeline.report.summary.provenance import build_source_tables
from pipeline.report.summary.results import tabulate_results
from pipeline.report.summary.settings import build_settings_tables
from pipeline.report.tables import Table, write_table
from pipeline.report.texts.figure import draw_forgetting
from pipeline.report.texts.tables import build_text_tables, collect_text_metrics
from pipeline.report.transfer.show import build_transfer_tables, draw_transfers
from pipeline.report.tuning.figure import draw_best_of
from pipeline.report.tuning.tables import build_tuning_tables, list_best_of
from pipeline.study.description import StudyDescription


def build(study: StudyDescription, *, output: Path, fingerprint: str) -> None:
    """Write a study's report to ``output`` and replace the report that is there.

    Equal inputs give equal bytes: no dates, a fixed order of rows, figures without random ids.

    Args:
        study: what the report reads of the study (``pipeline.study.description.describe.describe_study``).
        output: the folder reports/STUDY.
        fingerprint: of the report; ``manifest-FINGERPRINT.json`` is written last.
    """
    data = read_report_data(study)
    if not study.runs:
        _build_references_alone(data, output=output, fingerprint=fingerprint)
        return
    tables, drawings, summary = _build_tables(data), _draw_all(data), summarize(data)
    with atomic_directory(output) as folder:
        for name, table in tables.items():
            write_table(table, folder / "tables" / name)
        write_headline(summary.headline, folder / "tables", study=study.name)
        tabulate_results(data).to_csv(folder / "results.csv", index=False)
        (folder / "figures").mkdir()
        for name, drawing in drawings.items():
            (folder / "figures" / f"{name}.svg").write_text(drawing.svg, encoding="utf-8")
        (folder / "plots").mkdir()
        list_accuracies(data).to_csv(folder / "plots" / "accuracy.csv", index=False)
        list_losses(data).to_csv(folder / "plots" / "learning_curves.csv", index=False)
        if study.tuning:
            list_best_of(data).to_csv(folder / "plots" / "best_of.csv", index=False)
        if study.figure:
            list_settings(data, study.figure).to_csv(folder / "plots" / "settings.csv", index=False)
        metrics = collect_metrics(data) | collect_text_metrics(data) | collect_yields(data)
        write_json(folder / "metrics.json", metrics)
        write_answers(data, folder / "answers")
        (folder / "index.html").write_text(render_page(data, summary, tables, drawings), encoding="utf-8")
        runs = {str(run.scores): run.fingerprint for run in study.runs}
        write_json(folder / f"manifest-{fingerprint}.json", {"study": study.name, "runs": runs})


def _build_tables(data: ReportData) -> dict[str, Table]:
    """Return all tables by the names of their files, in the order of the page."""
    return {
        **build_accuracy_tables(data),
        **build_metric_tables(data),
        "cost": build_cost_table(data),
        **build_settings_tables(data),
        **build_tuning_tables(data),
        **build_source_tables(data),
        "runs": build_run_table(data),
        **build_comparison_tables(data),
        **build_stability_tables(data),
        **build_transfer_tables(data),
        **build_published_tables(data),
        **build_followup_tables(data),
        **build_reference_tables(data),
        **build_contamination_tables(data),
        **build_outcome_tables(data),
        **build_distillation_tables(data),
        **build_text_tables(data),
    }


def _draw_all(data: ReportData) -> dict[str, Drawing]:
    """Return all figures by the names of their files."""
    return (
        draw_headline(data)
        | draw_figures(data)
        | draw_orders(data)
        | draw_transfers(data)
        | draw_forgetting(data)
        | draw_best_of(data)
    )


def _build_references_alone(data: ReportData, *, output: Path, fingerprint: str) -> None:
    """Write the report of a study that evaluates no model."""
    tables = build_reference_tables(data)
    with atomic_directory(output) as folder:
        for name, table in tables.items():
            write_table(table, folder / "tables" / name)
        # figures and curves are of runs; DVC and MLflow look for their folders
        (folder / "figures").mkdir()
        (folder / "plots").mkdir()
        tabulate_results(data).to_csv(folder / "results.csv", index=False)
        list_reference_accuracies(data).to_csv(folder / "plots" / "accuracy.csv", index=False)
        list_losses(data).to_csv(folder / "plots" / "learning_curves.csv", index=False)
        write_json(folder / "metrics.json", collect_reference_metrics(data))
        (folder / "index.html").write_text(render_page(data, None, tables, {}), encoding="utf-8")
        write_json(folder / f"manifest-{fingerprint}.json", {"study": data.study.name, "runs": {}})
