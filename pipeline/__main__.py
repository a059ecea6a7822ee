"""The command line: ``python -m pipeline STAGE FINGERPRINT``, one sub-command per rule, for Snakemake, DVC and people."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.study.stages import HEAVY, STAGES


def parser() -> argparse.ArgumentParser:
    """The one argument parser."""
    top = argparse.ArgumentParser(
        prog="python -m pipeline", description="One stage of a study, or a chore around it."
    )
    commands = top.add_subparsers(dest="command", required=True)
    for stage in STAGES:
        command = commands.add_parser(stage, help=f"make one artifact of the stage '{stage}'")
        command.add_argument("fingerprint", help="the artifact's name: the last part of its path")
        command.add_argument(
            "--study", help="a file of params/study/ (default: what params/params.yaml names)"
        )
        command.add_argument("--data-root", default="", help="folder of local dataset files")
        command.add_argument("--device", default="auto", help="auto, cpu or cuda")
        command.add_argument("--processes", type=int, default=1, help="processes (GPUs) of one training")
    several = commands.add_parser("ask", help="answer for several models at one load of their base")
    several.add_argument(
        "fingerprints", nargs="+", help="their answers' names; 'generate' of each then only names them"
    )
    several.add_argument("--study", help="a file of params/study/ (default: what params/params.yaml names)")
    several.add_argument("--device", default="auto", help="auto, cpu or cuda")
    for name, text in (
        ("check", "check a study's params and count its artifacts"),
        ("prune", "move results that the params no longer name into the store"),
        ("commit", "prune, then record the present results in dvc.lock"),
        ("track", "record every finished run of a study in MLflow"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("--study")
        if name == "prune":
            _add_prune(command)
    _add_catalog(commands)
    _add_predict(commands)
    _add_export(commands)
    _add_comparisons(commands)
    _add_datasets(commands)
    _add_evidence(commands)
    _add_sharing(commands)
    _add_upkeep(commands)
    warm = commands.add_parser("warm", help="serve the jobs of a running snakemake (it starts this itself)")
    warm.add_argument("address")
    warm.add_argument("parent", type=int)
    return top


def _add_catalog(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    for name in ("methods", "models"):
        command = commands.add_parser(name, help=f"list the {name} that params/{name}/ has cards of")
        command.add_argument("--json", action="store_true", help="as JSON")
        if name == "models":
            command.add_argument("name", nargs="?", help="only this one, with its methods' target modules")


def _add_predict(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("predict", help="ask a trained adapter, or a bare base, in the terminal")
    _add_run(command)
    command.add_argument(
        "question", nargs="*", help="one or several; - reads one a line; none: a conversation"
    )
    command.add_argument("--input", default="", help="the instruction's input, under '### Input:'")
    command.add_argument("--protocol", help="of the study (default: its first): template and decoding")
    command.add_argument("--max-new-tokens", type=int, help="default: the most that the study allows")
    command.add_argument("--num-beams", type=int, help="default: the protocol's")
    command.add_argument("--json", action="store_true", help="a line of JSON for each answer")
    command.add_argument("--device", default="auto", help="auto, cpu or cuda")


def _add_export(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser(
        "export", help="write an adapter and its model card as a folder for the hub"
    )
    _add_run(command)
    # absolute at once: commands run in the project's root
    command.add_argument("--output", required=True, type=os.path.abspath, help="folder to write")
    command.add_argument("--merge", action="store_true", help="the base with the adapter folded in")


def _add_comparisons(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    compare = commands.add_parser("compare", help="compare two runs on the same examples")
    named = "MODEL/METHOD/TRAINSET/seedN, MODEL/bare, a fingerprint or a path"
    compare.add_argument("first", metavar="RUN", help=named)
    compare.add_argument("second", metavar="RUN", help="the other")
    compare.add_argument(
        "--study", help="of params/study/ (default: the default study, else any that has them)"
    )
    compare.add_argument("--task", help="this one alone")
    compare.add_argument("--protocol", help="this one alone")
    audit = commands.add_parser(
        "audit-protocol", help="count the answers that change between a study's protocols, and say why"
    )
    audit.add_argument("study", metavar="STUDY", help="of params/study/")
    for command, shown, what in ((compare, 10, "in all"), (audit, 0, "of each task, pair and cause")):
        command.add_argument(
            "--limit", type=int, default=shown, help=f"examples to print, {what} (default: {shown})"
        )
        command.add_argument("--json", action="store_true", help="as JSON")


def _add_datasets(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    show = commands.add_parser("show", help="print an example of a dataset as a model sees it")
    show.add_argument("dataset", help="a card of params/datasets/")
    show.add_argument("--row", type=int, default=0, help="counted from 0")
    show.add_argument("--tokens", action="store_true", help="as tokens, with the loss mask coloured")
    show.add_argument("--model", default="tiny-llama", help="whose tokenizer: a card or a folder")
    show.add_argument("--train-on-inputs", action=argparse.BooleanOptionalAction, default=True)
    lengths = commands.add_parser("lengths", help="count what a cutoff takes from the examples of datasets")
    lengths.add_argument("dataset", nargs="+", help="cards of params/datasets/")
    lengths.add_argument(
        "--model", nargs="+", default=["tiny-llama"], help="whose tokenizers: cards or folders"
    )
    for command in (show, lengths):
        command.add_argument("--split", help="default: of a mixture train, else test, else the first")
        command.add_argument(
            "--template",
            default="strict",
            help="paper-train, paper-eval, strict, alpaca or chat (the model's own)",
        )
        command.add_argument(
            "--cutoff-len", type=_positive, default=256, help="tokens; the rest is cut on the right"
        )
        command.add_argument(
            "--data-root", type=lambda text: Path(text).resolve(), help="folder of local files"
        )
    compare = commands.add_parser(
        "compare-data", help="compare a rebuilt dataset with the published one, row by row"
    )
    named = "a card of params/datasets/, or a .json or .jsonl file (.gz too)"
    compare.add_argument("published", help=named)
    compare.add_argument("rebuilt", nargs="+", help=f"{named}; several: one after the other")
    compare.add_argument("--split", help="default: of a mixture train, else test, else the first")
    compare.add_argument("--data-root", type=lambda text: Path(text).resolve(), help="folder of local files")
    compare.add_argument("--json", action="store_true", help="as JSON, with every row's number")
    compare.set_defaults(folder=os.getcwd())  # commands run in the project's root
    table = commands.add_parser("datasets", help="describe every dataset, from its card, in Markdown")
    table.add_argument("--write", action="store_true", help="into data/README.md")


def _add_upkeep(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    code = commands.add_parser(
        "stage-code", help="decide what a change of a stage's code means for its results"
    )
    code.add_argument("--keep", nargs="+", default=[], metavar="STAGE", help="results stay the same; or: all")
    code.add_argument("--raise", nargs="+", default=[], metavar="STAGE", dest="raised", help="they change")
    write = commands.add_parser(
        "regenerate", help="write the pages and schemas that come from code and cards"
    )
    only = write.add_mutually_exclusive_group()
    only.add_argument("--matrix", action="store_true", help="the support matrix too, which takes minutes")
    only.add_argument("--check", action="store_true", help="write nothing; name what is stale, with status 1")


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more (got {text})")
    return int(text)


def _add_prune(command: argparse.ArgumentParser) -> None:
    command.add_argument("stages", nargs="*", help="only these stages")
    command.add_argument("--dry-run", action="store_true", help="only say what would be moved")
    command.add_argument(
        "--store", action="store_true", help="show what the store holds, and free it if told to"
    )
    command.add_argument("--yes", action="store_true", help="with --store: free without a question")
    command.add_argument(
        "--older-than",
        type=float,
        default=0.0,
        metavar="DAYS",
        help="with --store: only what was moved there before",
    )
    command.add_argument("--all", action="store_true", help="with --store: also what another study names")


def _add_evidence(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    status = commands.add_parser("status", help="what of a study is current, what is stale and why")
    status.add_argument("--study")
    status.add_argument("--json", action="store_true", help="as JSON")
    verify = commands.add_parser("verify", help="check every result against the record of its making")
    verify.add_argument(
        "path", nargs="*", type=os.path.abspath, help="files or folders of results (default: all)"
    )
    verify.add_argument("--study", help="only what this study names (default: all that is there)")
    again = commands.add_parser("reproduce", help="make a result again at its commit, and compare")
    again.add_argument("result", help="a run, a result's path, or a number: PROTOCOL/MODEL/METHOD/TASK")
    again.add_argument("--study", help="of params/study/ (default: the default study, else any that has it)")
    again.add_argument("--from-inputs", action="store_true", help="take data, prompts and bases over")
    again.add_argument("--data-root", default="", help="folder of local dataset files")
    again.add_argument("--tolerance", type=float, default=0.02, help="of accuracies made on a GPU")
    again.add_argument("--device", choices=("cpu", "cuda"), default="", help="default: as recorded")
    again.add_argument("--worktree", type=os.path.abspath, help="new folder to work in, which is then left")
    verify.add_argument("--adopt", action="store_true", help="record what has no record as it lies there now")


def _add_sharing(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    for name, what in (("push", "send results to"), ("pull", "get results from")):
        command = commands.add_parser(
            name,
            help=f"{what} a DVC remote, also after a dvc that was killed; takes the arguments of dvc {name}",
            prefix_chars="\0",  # options are DVC's
            add_help=False,
        )
        command.add_argument("arguments", nargs="*")
        command.set_defaults(folder=os.getcwd())  # commands run in the project's root
    places = commands.add_parser("paths", help="list a stage's results, or what its jobs read: for dvc pull")
    places.add_argument("stage", help="fetch, prompts, audit, base, train, generate, score or report")
    places.add_argument("--study")
    places.add_argument("--model", help="only results of this base")
    places.add_argument("--needed", action="store_true", help="what the jobs read, not what they write")
    remote = commands.add_parser("check-remote", help="find damaged objects in a DVC remote")
    remote.add_argument("remote", nargs="?", help="its name (default: the default remote)")
    remote.add_argument("--remove", action="store_true", help="delete them there; push sends them again")


def _add_run(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--run", required=True, help="MODEL/METHOD/TRAINSET/seedN, MODEL/bare, a fingerprint or a path"
    )
    command.add_argument(
        "--study", help="of params/study/ (default: the default study, else any that has it)"
    )


def run_stage(arguments: Sequence[str]) -> int:
    """Run one command in this process; a user's mistake is one line on stderr and status 1."""
    from pipeline.commands import stages
    from pipeline.core.errors import UserError, one_line

    given = parser().parse_args(arguments)
    try:
        stages.run(given)
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (
        BrokenPipeError
    ):  # who reads, such as head, has enough; what is left unwritten must not fail at the exit again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno is None:
            raise
        place = f"{error.filename}: " if error.filename else ""
        print(f"error: {place}{error.strerror}", file=sys.stderr)
        return 1
    except Exception as error:
        if "(os error " not in str(error):  # as libraries in Rust tell of a full disk and the like
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    return 0


def main() -> int:
    """Run a command, in a warm child where one is to be had."""
    from pipeline.core import processes, warm

    arguments = sys.argv[1:]
    processes.exit_with_caller()
    if arguments and arguments[0] in (*HEAVY, "ask"):
        status = warm.run_on_server(arguments)
        if status is not None:
            return status
    if arguments and arguments[0] == "warm":
        given = parser().parse_args(arguments)
        warm.serve_jobs(given.address, given.parent, run_stage)
        return 0
    return run_stage(arguments)


if __name__ == "__main__":
    sys.exit(main())
