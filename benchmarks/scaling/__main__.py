"""Measure what docs/scaling.md states.

    python -m benchmarks.scaling plan [--seeds 1 5 25]
    python -m benchmarks.scaling submissions [--seeds 5]
    python -m benchmarks.scaling dvc --folder FOLDER [--results 500] [--megabytes 500]
    python -m benchmarks.scaling counts --finished CHECKOUT [--figure FILE.png --plan-seconds 1.1 0.005]

``plan`` and ``dvc`` measure; ``submissions`` counts the jobs of Slurm; ``counts`` multiplies the counts of a finished default study.
"""

import argparse
from pathlib import Path

from benchmarks.scaling import counts, plan, submissions, tree


def main() -> None:
    """Run one of the four parts and print its table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(required=True)
    part = parts.add_parser("plan", help="time of snakemake -n")
    part.add_argument("--seeds", type=int, nargs="+", default=[1, 5, 25])
    part.set_defaults(call=lambda options: plan.measure_plans(options.seeds))
    part = parts.add_parser("submissions", help="jobs submitted to Slurm, by setting")
    part.add_argument("--seeds", type=int, default=5)
    part.set_defaults(call=lambda options: submissions.count_submissions(options.seeds))
    part = parts.add_parser("dvc", help="time of DVC's commands on a synthetic tree")
    part.add_argument("--folder", type=Path, required=True, help="new; tree, cache and remote lie in it")
    part.add_argument("--results", type=int, default=500)
    part.add_argument("--megabytes", type=int, default=500, help="of all weights together")
    part.set_defaults(
        call=lambda options: tree.measure_commands(options.folder, options.results, options.megabytes)
    )
    part = parts.add_parser("counts", help="files and rows at 10, 1,000 and 100,000 training jobs")
    part.add_argument("--finished", type=Path, required=True, help="a finished default study")
    part.add_argument("--figure", type=Path)
    part.add_argument(
        "--plan-seconds",
        type=float,
        nargs=2,
        default=(0.0, 0.0),
        help="CPU-seconds of a plan: constant, and per job; the fit that `plan` prints",
    )
    part.set_defaults(
        call=lambda options: counts.print_counts(
            options.finished, figure=options.figure, plan_seconds=tuple(options.plan_seconds)
        )
    )
    options = parser.parse_args()
    options.call(options)


if __name__ == "__main__":
    main()
