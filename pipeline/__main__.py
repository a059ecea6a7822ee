"""The command line: ``python -m pipeline COMMAND``, for Snakemake, DVC and people (commands/app.py lists the commands)."""

import sys


def main() -> int:
    """Run a command, in a preloaded child process where a Snakemake run offers one."""
    try:
        from pipeline.core import processes, warm
        from pipeline.study.stages import HEAVY
    except ModuleNotFoundError as error:
        print(
            f"error: this Python ({sys.executable}) has no package '{error.name}'; activate the environment: "
            ". .venv/bin/activate (make results creates it)",
            file=sys.stderr,
        )
        return 1

    arguments = sys.argv[1:]
    processes.exit_with_caller()
    if arguments and arguments[0] in (*HEAVY, "generate-group"):
        status = warm.run_on_server(arguments)
        if status is not None:
            return status
    # Imported late: a job that a preloaded process runs needs none of the commands here.
    from pipeline.commands.app import run_command

    return run_command(arguments)


if __name__ == "__main__":
    sys.exit(main())
