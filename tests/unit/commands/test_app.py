"""The command line as a whole: headings, cheap help, usage errors of one line, options that take several values."""

import re
import subprocess
import sys

import pytest
from typer.main import get_command

from pipeline.commands.app import COMMANDS, build_app, run_command
from pipeline.params.templates import TEMPLATE_NAMES
from pipeline.study.stages import STAGES
from tests.conftest import ROOT

HEAVY = {"torch", "transformers", "mlflow", "dvc", "pandas", "pyarrow", "scipy"}


def parse(name: str, *arguments: str) -> dict:
    return get_command(build_app()).commands[name].make_context(name, list(arguments)).params


def test_help_groups_the_commands_and_hides_the_server(capsys):
    assert run_command(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"─ {heading} ─" in text for heading in COMMANDS)
    assert "generate-group" in text
    assert "warm" not in text


@pytest.mark.parametrize("name", [name for commands in COMMANDS.values() for name in commands])
def test_the_help_of_a_command_writes_its_arguments_in_capitals(name, capsys):
    assert run_command([name, "--help"]) == 0
    usage = capsys.readouterr().out.partition("Usage: ")[2].splitlines()[0]
    arguments = usage.partition("[OPTIONS]")[2]
    assert arguments == arguments.upper()


def test_paths_and_show_list_all_stages_and_templates(monkeypatch, capsys):
    # a narrow terminal breaks names at their hyphens
    monkeypatch.setenv("COLUMNS", "120")
    assert run_command(["paths", "--help"]) == run_command(["show", "--help"]) == 0
    words = set(re.findall(r"[\w-]+", capsys.readouterr().out))
    assert {*STAGES, *TEMPLATE_NAMES} <= words


def test_without_a_command_the_commands_are_listed(capsys):
    assert run_command([]) == 0
    text = capsys.readouterr().out
    assert all(f"─ {heading} ─" in text for heading in COMMANDS)


def test_without_the_environment_one_line_names_it(tmp_path):
    # -S and -I: a Python without site-packages
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from pipeline.__main__ import main; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: this Python (")
    assert done.stderr.endswith("activate the environment: . .venv/bin/activate (make results creates it)\n")
    assert done.stderr.count("\n") == 1


def test_help_imports_nothing_heavy():
    code = "import sys; from pipeline.commands.app import run_command; run_command(['predict', '--help']); "
    code += f"sys.exit(' '.join({HEAVY} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["statu"], "'status'"),
        (["show"], "missing argument 'DATASET'"),
        (["methods", "--jsn"], "no such option: --jsn"),
        (["show", "world-svamp", "--cutoff-len", "0"], "'--cutoff-len'"),
        (["reproduce", "x", "--device", "tpu"], "'tpu' is not one of 'cpu', 'cuda', 'mps'"),
        (["regenerate", "--check", "--matrix"], "not allowed with --check"),
    ],
)
def test_a_usage_error_is_one_line_and_status_2(arguments, message, capsys):
    assert run_command(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert "--help" in error


def test_options_may_stand_before_and_after_positionals():
    assert parse("train", "--device", "cpu", "0123") == parse("train", "0123", "--device", "cpu")


def test_a_list_option_takes_all_values_that_follow():
    assert parse("stage-code", "--keep", "fetch", "audit", "--raise", "train")["keep"] == ["fetch", "audit"]
    lengths = parse("lengths", "a", "b", "--model", "x", "y", "--split", "train")
    assert (lengths["dataset"], lengths["model"], lengths["split"]) == (["a", "b"], ["x", "y"], "train")


@pytest.mark.parametrize("command", ["push", "pull"])
def test_the_help_of_a_transfer_names_our_options_and_what_goes_on_to_dvc(command, capsys):
    """It used to be that of DVC alone."""
    assert run_command([command, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert all(option in text for option in ("--study", "--model", "-r REMOTE", f"see dvc {command} --help"))


def test_push_passes_the_options_of_dvc_on():
    arguments = ["-r", "shared", "--jobs", "4", "--help", "data.dvc"]
    assert parse("push", *arguments)["arguments"] == arguments
