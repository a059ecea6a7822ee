"""The figure of a study that varies a setting: where on its axes each of the study's methods is drawn."""

from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.core.errors import UserError
from pipeline.params.studies import Entry
from pipeline.study.artifacts import Artifact


@dataclass(frozen=True)
class FigurePoint:
    """Where the figure draws one method of a study.

    Attributes:
        method: its name in paths, unique in the study.
        card: its method card; the points of one card form a line.
        field: the setting that it varies, which chooses the axis.
        setting: the value of that setting, its position on the axis.
    """

    method: str
    card: str
    field: str
    setting: float | int | str


def figure_points(
    trained: Iterable[tuple[Entry, Artifact]], fields: list[str], *, where: str
) -> list[FigurePoint]:
    """Return the point of each method.

    Args:
        trained: the methods of a study, each with every of its adapters.
        fields: the settings that the figure has axes for.
        where: the key in the study's file, for messages.

    Raises:
        UserError: a method sets none of the fields, or several, or has the position of another, or has several positions.
    """
    points = list(
        dict.fromkeys(_figure_point(entry, adapter, fields, where=where) for entry, adapter in trained)
    )
    # an arm may set the field too, and a point stands for the method in every arm
    point_of: dict[str, FigurePoint] = {}
    for point in points:
        first = point_of.setdefault(point.method, point)
        if first != point:
            raise UserError(
                f"{where}: {point.field} of '{point.method}' is {first.setting} for one arm or model and {point.setting} "
                "for another; set it in the method's entry"
            )
    method_at: dict[tuple[str, str, float | int | str], str] = {}
    for point in points:
        previous = method_at.setdefault((point.card, point.field, point.setting), point.method)
        if previous != point.method:
            raise UserError(
                f"{where}: '{point.method}' has the same position as '{previous}': {point.field} {point.setting}"
            )
    return points


def _figure_point(entry: Entry, adapter: Artifact, fields: list[str], *, where: str) -> FigurePoint:
    name = entry.name
    # from the adapter's resolved settings, so that no number is typed twice
    settings = {"setting": entry.setting, **adapter.params["training"], **adapter.params["method"]}
    values = {field: settings[field] for field in fields if settings.get(field) is not None}
    if len(values) != 1:
        present = ", ".join(values) or "none"
        raise UserError(f"{where}: '{name}' must set exactly one of {', '.join(fields)} (it sets: {present})")
    ((field, value),) = values.items()
    if not isinstance(value, int | float | str):
        raise UserError(
            f"{where}: {field} of '{name}' is neither a number nor a word; give each of the methods a 'setting'"
        )
    return FigurePoint(name, entry.method, field, value)
