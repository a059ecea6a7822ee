"""The table of stages, read from stages.yaml beside this file: it alone has their versions and folders."""

from dataclasses import dataclass
from pathlib import Path

import yaml

PATH = Path(__file__).with_name("stages.yaml")


@dataclass(frozen=True)
class Stage:
    """A step of a study.

    Attributes:
        name: of its command and its rule.
        version: part of every fingerprint; raised when the stage's code changes results.
        folder: of its artifacts, relative to the project's root.
        ending: the suffix of its artifacts' file names; empty if they are folders.
        reads: the folders of params/ that enter its fingerprints directly.
        heavy: whether its jobs import torch.
    """

    name: str
    version: int
    folder: str
    ending: str
    reads: tuple[str, ...]
    heavy: bool


def read_stages(path: Path = PATH) -> dict[str, Stage]:
    """Return the stages of a table by name, in the order in which data flows through them."""
    rows = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {name: Stage(**{**row, "name": name, "reads": tuple(row["reads"])}) for name, row in rows.items()}


STAGES = read_stages()
HEAVY = tuple(name for name, stage in STAGES.items() if stage.heavy)
# stages whose artifacts are single files with the keys of a manifest in them
FILE_MANIFESTS = ("choose", "score")
