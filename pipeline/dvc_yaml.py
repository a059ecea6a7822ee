"""The files of params/ in dvc.yaml: every stage lists those that can enter its artifacts, and no other.

DVC compares the values, so a comment in a card, or its layout, runs nothing; and it tells which key has changed.
"""

import re
from pathlib import Path

from pipeline.errors import UserError
from pipeline.io import atomic_file

# What each stage reads of params/ itself. What enters through the results that it is made from need not be named again:
# their names hold their fingerprints, so DVC sees their folder change. tests/unit/test_dvc_yaml.py tries every key.
FOLDERS: dict[str, tuple[str, ...]] = {
    "fetch": ("datasets", "models", "protocols", "study"),
    "prompts": ("datasets", "models", "protocols", "study"),
    "audit": ("study",),
    "base": ("models", "study"),
    "train": ("methods", "models", "study"),
    "generate": ("protocols", "study"),
    "score": ("protocols",),
    "report": ("published", "study"),
}
_LISTED = r"(^  {stage}:\n(?:(?!  \w).*\n)*?    params:\n)(?:      .*\n)*"


def params_of(stage: str, root: Path) -> list[str]:
    """Return the files of params/ that a stage lists: the choice of the study, then the cards, by name."""
    cards = [path for name in FOLDERS[stage] for path in sorted((root / "params" / name).glob("*.yaml"))]
    return ["params/params.yaml", *(str(path.relative_to(root)) for path in cards)]


def listed(root: Path) -> str:
    """Return the text of dvc.yaml with each stage's list of params as it must be; all else stays."""
    text = (root / "dvc.yaml").read_text(encoding="utf-8")
    for stage in FOLDERS:
        lines = "".join(f"      - {name}:\n" for name in params_of(stage, root))
        text = re.sub(_LISTED.format(stage=stage), rf"\g<1>{lines}", text, count=1, flags=re.M)
    return text


def check(root: Path) -> None:
    """Refuse a dvc.yaml that does not list every card: DVC would call its results up to date whatever it says.

    Raises:
        UserError: names the command that lists them. Where there is no dvc.yaml, nothing is refused.
    """
    if (root / "dvc.yaml").is_file() and listed(root) != (root / "dvc.yaml").read_text(encoding="utf-8"):
        raise UserError(
            "dvc.yaml: does not list the files of params/ as they are, so DVC would not see all changes; "
            "run: python -m pipeline dvc-yaml"
        )


def write(root: Path) -> bool:
    """Bring the lists in ``root``/dvc.yaml up to date; return whether anything was missing or too much."""
    text = listed(root)
    path = root / "dvc.yaml"
    if text == path.read_text(encoding="utf-8"):
        return False
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return True
