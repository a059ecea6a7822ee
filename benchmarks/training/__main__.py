"""Tokens per second of our training compared with transformers' Trainer and trl's SFTTrainer, on a real pretrained model.

All train LoRA (r 32 on q, k, v, up, down) on the same base, SmolLM2-135M-Instruct, and on the same rows, one half of GSM8K
and one of BoolQ, each row once, in turn, in a single process with a single thread. The clock runs from the first pass to the
last optimizer step; padding counts as no tokens. Ours pads in one run and packs in another. The others have their best
settings on a CPU: examples grouped by length, in micro-batches; trl packs, too. trl is no dependency of this project:
without it, its rows are left out. The limit is the time of our own matrix products alone, without attention, norms,
activations and the optimizer.

    pip install --no-deps trl
    python -m benchmarks.training --data-root DIRECTORY --base FOLDER       # FOLDER gets the base if it is empty
"""

import argparse
import importlib.util
import logging
import os
import platform
import statistics
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.training.inputs import Encoded, encode_rows, make_base, write_rows
from benchmarks.training.limit import count_products, time_products
from benchmarks.training.runs import LORA, Meter, Run, our_order, run_ours, run_sft, run_trainer
from pipeline.params.base import Training

OURS, PACKED, SAME_ORDER = "pipeline.models.train", "pipeline.models.train, packing", "Trainer, our order"


def main() -> None:
    """Run the comparison and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--base", type=Path, required=True, help="folder of the base; it is made if missing")
    parser.add_argument("--steps", type=int, default=4, help="optimizer steps of a run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--micro", type=int, default=4, help="examples of the others' micro-batches")
    parser.add_argument("--cutoff-len", type=int, default=512)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--loss", nargs="+", default=["all", "responses"], choices=["all", "responses"])
    parser.add_argument(
        "--trainers", nargs="+", help="those to compare ours with, by their names; default: all"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    make_base(options.base)
    load = os.getloadavg()[0]
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, load {load:.1f}, one thread; torch {torch.__version__}; "
        f"{options.dtype}; {options.rounds} rounds of {options.steps} steps of {options.batch_size}"
    )
    for loss in options.loss:
        with tempfile.TemporaryDirectory() as folder:
            compare(options, Path(folder) / "prompts.parquet", train_on_inputs=loss == "all")


def compare(options: argparse.Namespace, prompts: Path, *, train_on_inputs: bool) -> None:
    """Compare the trainers with the loss on all tokens, or on the responses alone."""
    write_rows(options.data_root, prompts, count=options.steps * options.batch_size)
    training = Training(
        batch_size=options.batch_size,
        epochs=None,
        max_steps=options.steps,
        warmup_steps=0,
        cutoff_len=options.cutoff_len,
        logging_steps=1,
        dtype=options.dtype,
        train_on_inputs=train_on_inputs,
    )
    rows = encode_rows(options.base, prompts, cutoff_len=options.cutoff_len, train_on_inputs=train_on_inputs)
    runs = list_runs(options, prompts, rows, training)
    chosen = {OURS, *(options.trainers or runs)}
    if unknown := chosen - runs.keys():
        raise SystemExit(f"--trainers: unknown {', '.join(sorted(unknown))} (choices: {', '.join(runs)})")
    runs = {name: run for name, run in runs.items() if name in chosen}
    meters: dict[str, list[Meter]] = {name: [] for name in runs}
    limits: list[float] = []
    counts = count_products(runs[OURS])
    flop = 0.0
    for number in range(options.rounds):
        names = list(runs)
        # each goes first in turn
        for name in names[number % len(names) :] + names[: number % len(names)]:
            meters[name].append(runs[name]())
        seconds, flop = time_products(counts)
        limits.append(seconds)
    tokens = sum(len(row.ids) for row in rows)
    supervised = sum(label >= 0 for row in rows for label in row.labels)
    print(
        f"\nloss on {'all tokens' if train_on_inputs else 'responses alone'}: {len(rows)} rows, {tokens:,} tokens, "
        f"{supervised:,} with loss\n"
    )
    print(format_table(meters, tokens=tokens))
    print(f"\n{format_limit(meters[OURS], limits, flop)}\n\n{format_losses(meters)}", flush=True)


def list_runs(
    options: argparse.Namespace, prompts: Path, rows: Sequence[Encoded], training: Training
) -> dict[str, Run]:
    """Return the trainers to compare."""
    base, micro = options.base, min(options.micro, options.batch_size)
    ordered = [rows[index] for index in our_order(len(rows), training)]
    runs: dict[str, Run] = {
        OURS: lambda: run_ours(base, prompts, training),
        PACKED: lambda: run_ours(base, prompts, training, packing=True),
        "Trainer, group by length": lambda: run_trainer(
            base, rows, training, micro=micro, sampling="group_by_length"
        ),
        SAME_ORDER: lambda: run_trainer(base, ordered, training, micro=micro, sampling="sequential"),
    }
    if importlib.util.find_spec("trl"):
        runs["SFTTrainer, group by length"] = lambda: run_sft(
            base, rows, training, micro=micro, packing=False
        )
        runs["SFTTrainer, packing"] = lambda: run_sft(base, rows, training, micro=micro, packing=True)
    return runs


def format_table(meters: dict[str, list[Meter]], *, tokens: int) -> str:
    """Return tokens per second, padding and memory as medians, and the ratios to ours as medians over the rounds."""
    lines = [
        "| | tokens/s | tokens/CPU-s | padding | peak memory (MiB) | ours is faster by, wall | CPU |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, measured in meters.items():
        ratios = [
            statistics.median(
                getattr(other, kind) / getattr(own, kind)
                for own, other in zip(meters[OURS], measured, strict=True)
            )
            for kind in ("wall", "cpu")
        ]
        numbers = [
            f"{tokens / statistics.median(meter.wall for meter in measured):.0f}",
            f"{tokens / statistics.median(meter.cpu for meter in measured):.0f}",
            f"{1 - tokens / measured[0].computed:.1%}",
            f"{statistics.median(meter.memory for meter in measured):.0f}",
            *(f"{ratio:.2f}" for ratio in ratios),
        ]
        lines.append(f"| {name} | {' | '.join(numbers)} |")
    return "\n".join(lines)


def format_limit(ours: list[Meter], limits: list[float], flop: float) -> str:
    """Return the share of our CPU time that the matrix products take alone."""
    seconds = statistics.median(limits)
    share = statistics.median(limit / meter.cpu for limit, meter in zip(limits, ours, strict=True))
    return (
        f"limit: the same matrix products alone take {seconds:.1f} CPU-s ({flop / seconds / 1e9:.0f} GFLOP/s); "
        f"our training reaches {share:.0%} of it"
    )


def format_losses(meters: dict[str, list[Meter]]) -> str:
    """Return the losses of the steps, of ours and of the trainer that takes the examples in the same order."""
    curves = [
        f"{name}: {', '.join(f'{loss:.4f}' for loss in meters[name][0].losses)}"
        for name in (OURS, PACKED, SAME_ORDER)
        if name in meters
    ]
    return f"losses with r {LORA['r']} in the same order; dropout is drawn differently\n" + "\n".join(curves)


if __name__ == "__main__":
    main()
