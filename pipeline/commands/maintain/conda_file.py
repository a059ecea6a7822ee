"""The packages of `snakemake --sdm conda`: workflow/envs/pipeline.yaml, written from pyproject.toml and constraints.txt."""

import importlib.metadata
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

PATH = "workflow/envs/pipeline.yaml"
PYTHON = "3.11"
PIP = "25.3"
# of pyproject.toml: what a job may import beside the dependencies
EXTRAS = ("quantization", "smollm2")
# The machine that conda installs on, whatever machine writes the file.
TARGET = {
    "python_version": PYTHON,
    "python_full_version": f"{PYTHON}.0",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "os_name": "posix",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
}
HEAD = f"""# For `snakemake --sdm conda`: the packages that the jobs import, with the versions of constraints.txt.
# `python -m pipeline regenerate` writes this file.
channels: [conda-forge, nodefaults]
dependencies:
  - python={PYTHON}
  - pip={PIP}
  - pip:
"""


def conda_file(root: Path) -> str:
    """Return the text of the file: the dependencies of the project and theirs, each pinned.

    Args:
        root: of the checkout, with pyproject.toml and constraints.txt.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {_normalize(line.partition("==")[0]): line for line in lines}
    requirements = [
        *project["dependencies"],
        *(requirement for extra in EXTRAS for requirement in project["optional-dependencies"][extra]),
    ]
    names = _follow_requirements(requirements, pins)
    return HEAD + "".join(f"      - {pins[name]}\n" for name in sorted(names))


def _follow_requirements(requirements: Iterable[str], pins: Iterable[str]) -> set[str]:
    """Return the normalized names of the pinned packages that requirements name, and of those that these require in turn."""
    from packaging.requirements import Requirement

    pinned = set(pins)
    names: set[str] = set()
    # requirement, extra of the package that states it
    waiting = [(Requirement(text), "") for text in requirements]
    seen: set[tuple[str, str]] = set()
    while waiting:
        requirement, extra = waiting.pop()
        name = _normalize(requirement.name)
        # The CUDA libraries of torch have no pin here: torch's own requirements pin them.
        if name not in pinned or (
            requirement.marker and not requirement.marker.evaluate({**TARGET, "extra": extra})
        ):
            continue
        names.add(name)
        for own_extra in ("", *requirement.extras):
            if (name, own_extra) in seen:
                continue
            seen.add((name, own_extra))
            waiting += [(Requirement(text), own_extra) for text in _requirements_of(name)]
    return names


def _requirements_of(name: str) -> list[str]:
    try:
        return importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        # for another platform, or of an extra that is not installed
        return []


def _normalize(name: str) -> str:
    """Return a package's name as PEP 503 spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()
