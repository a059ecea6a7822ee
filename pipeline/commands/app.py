"""The command line as a whole: the table of commands, and how one of them runs."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

# Commands import torch, DVC and the like only when they run, so that --help and usage errors stay fast.
from pipeline.commands.compare.audit_protocol import audit_protocol_command
from pipeline.commands.compare.compare import compare_command
from pipeline.commands.compare.compare_data import compare_data_command
from pipeline.commands.compare.question import question_command
from pipeline.commands.compare.stability import stability_command
from pipeline.commands.look.datasets import datasets_command
from pipeline.commands.look.lengths import lengths_command
from pipeline.commands.look.methods import methods_command
from pipeline.commands.look.models import models_command
from pipeline.commands.look.plan_cost import plan_cost_command
from pipeline.commands.look.predict import predict_command
from pipeline.commands.look.show import show_command
from pipeline.commands.look.status import status_command
from pipeline.commands.look.ui import ui_command
from pipeline.commands.maintain.prune import prune_command
from pipeline.commands.maintain.regenerate import regenerate_command
from pipeline.commands.maintain.reproduce import reproduce_command
from pipeline.commands.maintain.stage_code import stage_code_command
from pipeline.commands.maintain.verify import verify_command
from pipeline.commands.options import ListOptionsCommand
from pipeline.commands.run.check import check_command
from pipeline.commands.run.generate_group import generate_group_command
from pipeline.commands.run.jobs import STAGE_FUNCTIONS, stage_command
from pipeline.commands.run.track import track_command
from pipeline.commands.share.check_remote import check_remote_command
from pipeline.commands.share.commit import commit_command
from pipeline.commands.share.export import export_command
from pipeline.commands.share.paths import paths_command
from pipeline.commands.share.publish import publish_command
from pipeline.commands.share.transfer import PASS_THROUGH, pull_command, push_command
from pipeline.core.errors import UserError, mask_secrets, one_line
from pipeline.study import project_root

PROGRAM = "python -m pipeline"
Command = Callable[..., None]


def warm_command(
    address: Annotated[str, typer.Argument(help="Path of the socket to serve.")],
    parent: Annotated[int, typer.Argument(help="Process id of Snakemake; the server ends with it.")],
) -> None:
    """Serve the jobs of a running Snakemake, which starts this itself."""
    from pipeline.core import warm

    warm.serve_jobs(address, parent, run_command)


# Heading of `--help` -> the commands below it.
COMMANDS: dict[str, dict[str, Command]] = {
    "Run": {
        **{stage: stage_command(stage) for stage in STAGE_FUNCTIONS},
        "generate-group": generate_group_command,
        "check": check_command,
        "track": track_command,
        "warm": warm_command,
    },
    "Look": {
        "status": status_command,
        "ui": ui_command,
        "methods": methods_command,
        "models": models_command,
        "datasets": datasets_command,
        "show": show_command,
        "lengths": lengths_command,
        "plan-cost": plan_cost_command,
        "predict": predict_command,
    },
    "Compare": {
        "compare": compare_command,
        "audit-protocol": audit_protocol_command,
        "stability": stability_command,
        "question": question_command,
        "compare-data": compare_data_command,
    },
    "Share": {
        "commit": commit_command,
        "push": push_command,
        "pull": pull_command,
        "paths": paths_command,
        "check-remote": check_remote_command,
        "export": export_command,
        "publish": publish_command,
    },
    "Maintain": {
        "prune": prune_command,
        "verify": verify_command,
        "reproduce": reproduce_command,
        "stage-code": stage_code_command,
        "regenerate": regenerate_command,
    },
}
# Commands that typer should treat in a special way.
SETTINGS: dict[str, dict[str, Any]] = {
    "warm": {"hidden": True},
    "push": {"context_settings": PASS_THROUGH},
    "pull": {"context_settings": PASS_THROUGH},
}


def build_app() -> typer.Typer:
    """Return the command line with all its commands."""
    app = typer.Typer(
        add_completion=False,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(enter_project_root)
    for heading, commands in COMMANDS.items():
        for name, command in commands.items():
            settings = SETTINGS.get(name, {})
            app.command(name, cls=ListOptionsCommand, rich_help_panel=heading, **settings)(command)
    return app


def enter_project_root(context: typer.Context) -> None:
    """Reproducible studies of adapter fine-tuning: run a study, look at its results, compare and share them."""
    # Commands see paths from the caller's folder, and run in the project's root, which artifact paths start from.
    context.obj = Path.cwd()
    os.chdir(project_root())


def run_command(arguments: Sequence[str]) -> int:
    """Run one command in this process and return its exit status; a user's mistake is one line on stderr."""
    try:
        _invoke(arguments)
        # Flushed here, so that a closed pipe is noticed inside this block and not at exit.
        sys.stdout.flush()
    except typer.Exit as stop:
        return stop.exit_code
    except KeyboardInterrupt:
        # What a shell reports after Ctrl-C: 128 + SIGINT.
        return 130
    except typer.TyperException as error:
        return _report_usage_error(error)
    except UserError as error:
        print(mask_secrets(f"error: {error}"), file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader, such as head, has enough. What is still buffered must not fail once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        # Raised by a library, not by the system: its traceback is needed.
        if error.errno is None:
            raise
        location = f"{error.filename}: " if error.filename else ""
        print(f"error: {location}{error.strerror}", file=sys.stderr)
        return 1
    except Exception as error:
        # Libraries written in Rust report a full disk and the like with these words.
        if "(os error " not in str(error):
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    return 0


def _invoke(arguments: Sequence[str]) -> None:
    command = typer.main.get_command(build_app())
    # without a command: the list of commands
    arguments = arguments or ["--help"]
    # Not `command()`: it would translate the exceptions of pipes and interrupts in its own way.
    with command.make_context(PROGRAM, list(arguments)) as context:
        command.invoke(context)


def _report_usage_error(error: typer.TyperException) -> int:
    context = getattr(error, "ctx", None)
    path = context.command_path if context else PROGRAM
    message = " ".join(error.format_message().split()).removesuffix(".").replace("Value error, ", "")
    print(f"error: {message[:1].lower()}{message[1:]}; see {path} --help", file=sys.stderr)
    return error.exit_code
