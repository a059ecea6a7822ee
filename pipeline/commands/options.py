"""Options that several commands share, and options that take several values."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperArgument, TyperCommand

RunOption = Annotated[
    str,
    typer.Option(
        "--run", help="MODEL/METHOD/TRAINSET/seedN, MODEL/bare, a fingerprint, or the path of a result."
    ),
]
StudyOption = Annotated[
    str | None,
    typer.Option("--study", help="Study in params/study/ (default: the one that params/params.yaml names)."),
]
SeedsOption = Annotated[
    int | None,
    typer.Option("--seeds", metavar="N", help="Only the first N of the study's seeds (default: all)."),
]
AnyStudyOption = Annotated[
    str | None,
    typer.Option(
        "--study", help="Study to search for the run (default: the default study, then all others)."
    ),
]
MachineOption = Annotated[
    list[str] | None,
    typer.Option(
        "--machine", metavar="KEY=VALUE", help="Machine setting, such as threads=4 (docs/machine.md)."
    ),
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DataRootOption = Annotated[
    str, typer.Option("--data-root", show_default=False, help="Folder of local dataset files.")
]
ModelsRootOption = Annotated[
    str,
    typer.Option(
        "--models-root",
        show_default=False,
        help="Root folder of local models (default: the variable PIPELINE_MODELS_ROOT of the environment).",
    ),
]
SplitOption = Annotated[
    str | None,
    typer.Option(
        "--split",
        help="Split (default: train for a mixture; otherwise test, or the first split if there is no test split).",
    ),
]


class ListOptionsCommand(TyperCommand):
    """A command whose list options take all values that follow: ``--keep a b`` is ``--keep a --keep b``.

    Its help writes the names of arguments in capitals, as it does where an argument has a metavar of its own.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for parameter in self.params:
            if isinstance(parameter, TyperArgument) and not parameter.metavar:
                parameter.metavar = str(parameter.name).upper()

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeat the name of a list option before each of its values, then parse."""
        names = {name for option in self.params if getattr(option, "multiple", False) for name in option.opts}
        return super().parse_args(ctx, list(_repeat_names(args, names)))


def _repeat_names(arguments: Sequence[str], names: Collection[str]) -> Iterator[str]:
    name, value_count = "", 0
    for argument in arguments:
        if argument.startswith("-"):
            name, value_count = argument if argument in names else "", 0
            yield argument
            continue
        if name and value_count:
            yield name
        value_count += 1
        yield argument


def data_root_folder(context: typer.Context, data_root: str) -> Path | None:
    """Return the folder of local dataset files, seen from the caller's folder; None if none is given."""
    return Path(context.obj, data_root).resolve() if data_root else None


def use_models_root(context: typer.Context, models_root: str) -> None:
    """Look for local models in a folder, seen from the caller's folder; if none is given, where the environment says."""
    from pipeline.models.bases.local import set_models_root

    set_models_root(str(Path(context.obj, models_root)) if models_root else None)
