"""The command `publish`: write the tables, figures and checksums of a finished study for git, without texts of datasets."""

import csv
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from pipeline.commands.share.templates import make_environment
from pipeline.core.errors import UserError
from pipeline.core.io import atomic_directory, read_json
from pipeline.results.dvc.summary import describe_differences, name_accuracies
from pipeline.results.provenance import RUN_FILES, read_record
from pipeline.study import Study, load_study
from pipeline.study.artifacts import record_path
from pipeline.study.description.describe import describe_study
from pipeline.study.find import make_command

if TYPE_CHECKING:
    # loads pandas and matplotlib, which a command loads only when it runs
    from pipeline.report.summary import Summary

FOLDER = Path("docs/results")
METRICS = "metrics.json"
# parts of a report that contain no answers, each table in one format only
COPIED = (METRICS, "results.csv", "figures/*.svg", "tables/*.csv")
# This table quotes questions, which the licences of their datasets cover.
WITH_TEXTS = ("contamination-examples.csv",)
ARTIFACTS = "artifacts.csv"
STAGES = ("choose", "train", "combine", "generate", "score")


class PublishedFile(NamedTuple):
    """A file of an artifact: a row of artifacts.csv."""

    stage: str
    artifact: str
    file: str
    sha256: str


def publish_command(
    study: Annotated[str, typer.Argument(help="Study in params/study/ whose report is finished.")],
    output: Annotated[
        Path | None, typer.Option("--output", show_default=False, help=f"Folder (default: {FOLDER}/STUDY).")
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Write nothing; compare the current report with the folder; exit with status 1 if an accuracy differs.",
        ),
    ] = False,
) -> None:
    """Write a study's tables, figures and checksums into a folder for git, without the texts of datasets.

    With --check: compare the study's current accuracies with those in the folder.
    """
    loaded = load_study(study)
    folder = output or FOLDER / study
    if check:
        line, is_equal = compare_with_published(loaded, folder)
        print(line)
        if not is_equal:
            raise typer.Exit(1)
    else:
        publish_study(loaded, folder)
        print(f"written: {folder}")


def publish_study(study: Study, output: Path) -> None:
    """Write README.md, tables, figures, metrics and artifacts.csv of a finished study; an earlier folder is replaced.

    Raises:
        UserError: the study has no report for its current settings, an artifact has no record, or the folder exists and
            is no published study.
    """
    from pipeline.report.data import read_report_data
    from pipeline.report.summary import summarize

    if not study.runs:
        raise UserError(
            f"publish: '{study.name}' evaluates no model of its own, so it has nothing to publish; choose another study"
        )
    report = _find_report(study)
    # Metrics alone prove nothing: every report has them, and must not be replaced.
    if output.exists() and not (output / ARTIFACTS).is_file():
        raise UserError(
            f"publish: {output} exists and has no {ARTIFACTS}, so it is not a published study; choose another --output"
        )
    files = list(_list_files(study))
    summary = summarize(read_report_data(describe_study(study)))
    with atomic_directory(output) as folder:
        for pattern in COPIED:
            for path in sorted(report.glob(pattern)):
                if path.name in WITH_TEXTS:
                    continue
                copy = folder / path.relative_to(report)
                copy.parent.mkdir(exist_ok=True)
                shutil.copyfile(path, copy)
        with (folder / ARTIFACTS).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(PublishedFile._fields)
            writer.writerows(files)
        headline = (report / "tables/headline.md").read_text(encoding="utf-8")
        (folder / "README.md").write_text(_render(study, summary, headline), encoding="utf-8")


def compare_with_published(study: Study, folder: Path) -> tuple[str, bool]:
    """Return how many accuracies of the current report are as published, in one line, and whether all are.

    Raises:
        UserError: the study has no report for its current settings, or nothing is published in the folder.
    """
    if not (folder / METRICS).is_file():
        raise UserError(
            f"publish: no {METRICS} in {folder}; choose the folder of a published study with --output"
        )
    before, now = (
        name_accuracies(study.card.protocols, read_json(path / METRICS))
        for path in (folder, _find_report(study))
    )
    return describe_differences(before, now, origin=f"in {folder}"), before == now


def _find_report(study: Study) -> Path:
    manifest = study.report.path
    if not manifest.is_file():
        raise UserError(
            f"publish: '{study.name}' has no report for its current settings; run: {make_command(study, manifest)}"
        )
    return manifest.parent


def _list_files(study: Study) -> Iterator[PublishedFile]:
    """Yield the files of the study's choices, adapters, answers and scores, except those that differ between equal runs."""
    for stage in STAGES:
        for artifact in study.artifacts[stage]:
            record = read_record(record_path(stage, artifact.path))
            if record is None:
                raise UserError(
                    f"publish: {artifact.path} has no record; run: python -m pipeline verify --adopt {artifact.path}"
                )
            for name, checksum in sorted(record["files"].items()):
                if os.path.basename(name) not in RUN_FILES:
                    yield PublishedFile(stage, str(artifact.path), name, checksum)


def _render(study: Study, summary: "Summary", headline: str) -> str:
    environment = make_environment()
    return environment.get_template("published_study.md.j2").render(
        study=study.name,
        title=study.card.title,
        description=study.card.description.strip(),
        headline=headline.strip(),
        summary=summary,
    )
