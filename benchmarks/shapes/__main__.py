"""Estimate memory and speed of training, and of greedy evaluation, for the paper's and today's models.

Nothing is measured: shapes come from published configs, peaks from the vendors' data sheets, and counts of FLOP, bytes and
kept activations from our own code on tensors without data (``benchmarks.shapes.counts``). An operator takes the longer of
its computing and its memory traffic; kernels are those of eager torch, one after the other, with no time between them.

    python -m benchmarks.shapes                                       # minutes on a core
    python -m benchmarks.shapes --models "LLaMA-7B" --methods lora
    python -m benchmarks.shapes --models "LLaMA-7B" --methods adapter-p --write    # for check, status and docs/gpu.md
"""

import argparse
import logging
import warnings

from benchmarks.shapes.counts import count_model
from benchmarks.shapes.memory import Footprint, cache_bytes, count_weights, measure_footprint
from benchmarks.shapes.models import DEVICES, SHAPES, build_on_meta
from benchmarks.shapes.record import write_footprints
from benchmarks.shapes.speed import assume_shares, training_seconds
from pipeline.study.costs.footprints import RESERVED
from pipeline.study.costs.generation import CONTEXT, ROWS, generation_speed, rows_that_fit

METHODS = {
    "lora": "LoRA",
    "series": "Series",
    "parallel": "Parallel",
    "prefix-tuning": "Prefix",
    "full": "full",
}
GIB = 2**30


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help="method cards, or full")
    parser.add_argument("--rows", type=int, default=16, help="examples of a micro-batch")
    parser.add_argument("--tokens", type=int, default=256, help="tokens of each")
    parser.add_argument(
        "--write", action="store_true", help="write what check and status print; no tables are printed"
    )
    options = parser.parse_args()
    # of transformers' and peft's own code, about models without data
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    footprints = measure(options)
    if options.write:
        write_footprints(footprints, DEVICES)
        return
    for name, table in (
        ("Devices", device_table()),
        ("Bases", base_table(options.models)),
        ("Memory of training by part", parts_table(footprints)),
        ("Memory of training, before and after", total_table(footprints)),
        ("Speed of training, tokens/s (share of the peak)", speed_table(footprints)),
        ("Speed of training on nf4 with checkpointing, tokens/s", small_card_table(footprints)),
        (
            f"Greedy evaluation: rows of {CONTEXT} tokens that fit; tokens/s of {ROWS} rows; of all",
            evaluation_table(options.models),
        ),
    ):
        print(f"### {name}: estimated (python -m benchmarks.shapes)\n\n{table}\n")


def measure(options: argparse.Namespace) -> dict[tuple[str, str], Footprint]:
    """Count all pairs of a model and a method."""
    footprints = {}
    for model in options.models:
        for method in options.methods:
            counts = count_model(SHAPES[model], method, rows=options.rows, tokens=options.tokens)
            tokens = options.rows * options.tokens
            footprints[model, method] = measure_footprint(SHAPES[model], method, counts, tokens=tokens)
    return footprints


def table_of(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def device_table() -> str:
    """Return the devices with their vendors' numbers."""
    rows = [
        [
            name,
            f"{device.memory / 1e9:.0f}",
            f"{device.flops / 1e12:g}",
            f"{device.bandwidth / 1e12:g}",
            device.source,
        ]
        for name, device in DEVICES.items()
    ]
    return table_of(["device", "memory (GB)", "bfloat16 TFLOP/s, dense", "TB/s", "source"], rows)


def base_table(models: list[str]) -> str:
    """Return the bases with the memory of their weights and of a token in the cache of keys and values."""
    rows = []
    for name in models:
        base = build_on_meta(SHAPES[name])
        weights = count_weights(base)
        sizes = [f"{weights.size(form) / GIB:.1f}" for form in ("bf16", "int8", "nf4")]
        rows.append(
            [
                name,
                f"{weights.linear + weights.rest:,}",
                *sizes,
                f"{cache_bytes(base.config) / 1024:.0f}",
                SHAPES[name].source,
            ]
        )
    head = ["base", "parameters", "bf16 (GiB)", "int8 (GiB)", "nf4 (GiB)", "cache (KiB a token)", "config"]
    return table_of(head, rows)


def parts_table(footprints: dict[tuple[str, str], Footprint]) -> str:
    """Return the memory by part, of both forms that a part can have."""
    rows = []
    for (model, method), footprint in footprints.items():
        whole = footprint.parts("bf16", pieces=False, checkpointing=False)
        least = footprint.parts("nf4", pieces=True, checkpointing=True)
        numbers = [
            *(whole.weights, least.weights, whole.trained),
            *(whole.kept, least.kept, whole.logits, least.logits),
        ]
        rows.append(
            [
                model,
                METHODS.get(method, method),
                f"{footprint.trainable:,}",
                *(f"{part / GIB:.1f}" for part in numbers),
            ]
        )
    head = [
        *("base", "method", "trainable", "weights, bf16", "nf4", "trained, gradient, AdamW"),
        *("activations", "with checkpointing", "logits, whole", "in pieces"),
    ]
    return table_of(head, rows)


def total_table(footprints: dict[tuple[str, str], Footprint]) -> str:
    """Return the total memory of the ways to train, and the smallest device that each fits."""
    rows = []
    for (model, method), footprint in footprints.items():
        totals = [
            footprint.parts(form, pieces=pieces, checkpointing=checkpointing).total
            for form, pieces, checkpointing in (
                ("bf16", False, False),
                ("bf16", True, False),
                ("bf16", True, True),
                ("nf4", True, False),
                ("nf4", True, True),
            )
        ]
        # full fine-tuning has no frozen base to quantize
        cells = [
            "-" if footprint.full and number > 2 else f"{total / GIB:.1f} ({smallest_memory(total)})"
            for number, total in enumerate(totals)
        ]
        fitting = (
            ["-"]
            if footprint.full
            else [
                " / ".join(
                    f"{tokens_that_fit(footprint, 24e9, checkpointing=checkpointing):,}"
                    for checkpointing in (False, True)
                )
            ]
        )
        rows.append([model, METHODS.get(method, method), *cells, *fitting])
    head = [
        *("base", "method", "before: bf16, logits whole", "bf16, pieces", "bf16, pieces, checkpointing"),
        *(
            "nf4, pieces",
            "nf4, pieces, checkpointing",
            "tokens in 24 GB (nf4, pieces): plain / checkpointing",
        ),
    ]
    return table_of(head, rows)


def tokens_that_fit(footprint: Footprint, memory: float, *, checkpointing: bool) -> int:
    """Return the most tokens of a micro-batch on a card, on an nf4 base and with the loss in pieces, in steps of 64."""
    parts = footprint.parts("nf4", pieces=True, checkpointing=checkpointing)
    free = memory - RESERVED - parts.weights - parts.trained - parts.logits
    return max(0, int(free / (parts.kept / footprint.tokens)) // 64 * 64)


def smallest_memory(total: float) -> str:
    """Return the memory in GB of the smallest card that holds ``total`` bytes and what a process reserves."""
    fitting = sorted({device.memory for device in DEVICES.values() if total + RESERVED <= device.memory})
    return f"{fitting[0] / 1e9:.0f}" if fitting else "none"


def speed_table(footprints: dict[tuple[str, str], Footprint]) -> str:
    """Return FLOP and bytes of a token, and the tokens per second of each device with their share of its peak."""
    rows = []
    for (model, method), footprint in footprints.items():
        counts, tokens = footprint.counts, footprint.tokens
        forward, backward = counts.flop()
        parameters = footprint.weights.linear + footprint.weights.rest
        cells = [
            model,
            METHODS.get(method, method),
            f"{forward / tokens / 1e9:.1f}",
            f"{backward / tokens / 1e9:.1f}",
            f"{(forward + backward) / tokens / parameters:.1f}",
            f"{counts.moved() / tokens / 1e6:.0f}",
        ]
        for device in DEVICES.values():
            seconds = training_seconds(footprint, device, nf4=False, checkpointing=False)
            cells.append(f"{tokens / seconds:,.0f} ({(forward + backward) / seconds / device.flops:.0%})")
        rows.append(cells)
    head = [
        *("base", "method", "forward (GFLOP a token)", "backward", "FLOP / parameter", "MB moved a token"),
        *DEVICES,
    ]
    return table_of(head, rows)


def small_card_table(footprints: dict[tuple[str, str], Footprint]) -> str:
    """Return the tokens per second of training on an nf4 base with checkpointing."""
    rows = [
        [
            model,
            METHODS.get(method, method),
            *(
                f"{footprint.tokens / training_seconds(footprint, device, nf4=True, checkpointing=True):,.0f}"
                for device in DEVICES.values()
            ),
        ]
        for (model, method), footprint in footprints.items()
        if not footprint.full
    ]
    return table_of(["base", "method", *DEVICES], rows)


def evaluation_table(models: list[str]) -> str:
    """Return the rows that fit each device beside bfloat16 weights, and the tokens per second that they can have."""
    rows = []
    for name in models:
        base = build_on_meta(SHAPES[name])
        weights, cache = count_weights(base).size("bf16"), cache_bytes(base.config)
        cells = [name]
        for device in map(assume_shares, DEVICES.values()):
            fitting = rows_that_fit(device, weights, cache)
            speeds = [generation_speed(device, weights, cache, rows=count) for count in (ROWS, fitting)]
            cells.append(f"{fitting:,}; {speeds[0]:,.0f}; {speeds[1]:,.0f}" if fitting else "-")
        rows.append(cells)
    return table_of(["base", *DEVICES], rows)


if __name__ == "__main__":
    main()
