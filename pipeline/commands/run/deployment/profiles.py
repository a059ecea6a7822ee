"""The keys of the profiles that a run uses: Snakemake takes a misspelt one in silence."""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import yaml

from pipeline.core.errors import UserError, list_choices

PROFILE_VARIABLE = "SNAKEMAKE_PROFILE"
# Keys that need no look at Snakemake's options, which takes 0.4 s: those of the default profile.
COMMON = {
    *(
        "cores",
        "rerun-triggers",
        "nolock",
        "ignore-incomplete",
        "keep-incomplete",
        "show-failed-logs",
        "quiet",
    ),
    *("keep-going", "config", "configfile", "resources", "executor", "jobs", "retries", "latency-wait"),
}


def list_profiles(arguments: Sequence[str], environment: Mapping[str, str], root: Path) -> list[Path]:
    """Return the files of the profiles that a command line of snakemake uses.

    Args:
        arguments: of snakemake.
        environment: variables, of which one can name profiles too.
        root: of the checkout, with the default profile.
    """
    from snakemake.cli import get_profile_dir

    # Options that begin alike must not match, and argparse reads a word that begins with a dash as an option.
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--profile", action="extend", nargs="+")
    parser.add_argument("--workflow-profile", default="default")
    options, _ = parser.parse_known_args(list(arguments))
    names: list[str] = options.profile or environment.get(PROFILE_VARIABLE, "").split(",")
    own = options.workflow_profile
    candidates = [str(root / "profiles" / own), own] if own != "none" else []
    found = [get_profile_dir(name) for name in names if name not in ("", "none")]
    workflow_profile = next((entry for name in candidates if (entry := get_profile_dir(name))), None)
    return list(dict.fromkeys(entry[1] for entry in [*found, workflow_profile] if entry))


def check_profiles(paths: Iterable[Path]) -> None:
    """Refuse a profile with a key that is no option of Snakemake or of an installed plugin.

    Raises:
        UserError: naming the file, the key and the option that it resembles.
    """
    for path in paths:
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError):
            # Snakemake has read it, so it uses more than plain YAML
            continue
        unknown = [key for key in content or {} if key not in COMMON]
        if not unknown:
            continue
        options = _snakemake_options()
        for key in unknown:
            # Snakemake accepts an underscore too
            if str(key).replace("_", "-") not in options:
                raise UserError(f"{path}: {_describe_unknown(str(key), options)}")


def _describe_unknown(key: str, options: Sequence[str]) -> str:
    """Return the end of a message about an unknown key, with the options of its plugin as choices."""
    # of some 250 options, those that begin alike
    alike = [option for option in options if option.split("-")[0] == key.split("-")[0]]
    if not alike and key.split("-")[0] in ("kubernetes", "slurm", "storage"):
        return f"unknown key '{key}': its plugin is not installed; pip install -c constraints.txt -e '.[{key.split('-')[0]}]'"
    described = list_choices(key, alike or options)
    if not alike:
        described = described.rpartition(")")[2].removeprefix("; ")
    return f"unknown key '{key}' {described}".rstrip()


def _snakemake_options() -> list[str]:
    from snakemake.cli import get_argument_parser

    actions = get_argument_parser()._actions
    return sorted({option.lstrip("-") for action in actions for option in action.option_strings})
