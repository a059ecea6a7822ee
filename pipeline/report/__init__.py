"""The report: one self-contained page, and the same tables as CSV, Markdown and LaTeX."""

from pathlib import Path

from pipeline.core.io import atomic_directory, write_json
from pipeline.report import figures, page, tables
from pipeline.report.comparisons import comparison_tables
from pipeline.report.contamination import contamination_tables
from pipeline.report.outcomes import outcome_tables
from pipeline.report.published import published_tables
from pipeline.study.description import StudyDescription


def build(study: StudyDescription, *, output: Path, fingerprint: str) -> None:
    """Write a study's report into ``output``, in place of the one that stands there.

    Equal inputs give equal bytes: no dates, sorted rows, figures without random names.

    Args:
        study: what the report reads of it (pipeline.study.description.describe_study).
        output: the folder reports/STUDY.
        fingerprint: of the report; ``manifest-FINGERPRINT.json`` is written last.
    """
    data = tables.Data.of(study)
    made = tables.all_tables(data) | comparison_tables(data) | published_tables(data)
    made |= contamination_tables(data) | outcome_tables(data)
    drawn = figures.all_figures(data)
    with atomic_directory(output) as folder:
        for name, table in made.items():
            tables.write(table, folder / "tables" / name)
        (folder / "figures").mkdir()
        for name, (_, svg) in drawn.items():
            (folder / "figures" / f"{name}.svg").write_text(svg, encoding="utf-8")
        (folder / "plots").mkdir()
        tables.accuracy_rows(data).to_csv(folder / "plots" / "accuracy.csv", index=False)
        tables.curve_rows(data).to_csv(folder / "plots" / "learning_curves.csv", index=False)
        if study.figure:
            tables.setting_rows(data).to_csv(folder / "plots" / "settings.csv", index=False)
        write_json(folder / "metrics.json", tables.metrics(data))
        (folder / "index.html").write_text(page.render(data, made, drawn), encoding="utf-8")
        inputs = {str(run.scores): run.fingerprint for run in study.runs}
        write_json(folder / f"manifest-{fingerprint}.json", {"study": study.name, "runs": inputs})
