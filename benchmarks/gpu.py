"""Tokens per second and memory of a LLaMA-7B with random weights in bfloat16: training, greedy and beam evaluation.

The weights' values do not change the work, so none are downloaded; random weights hardly
ever end an answer, so answers have their full length. Training takes steps of ``rows`` examples of ``tokens`` tokens, all of which bear loss, with our loss and AdamW;
``--checkpointing`` computes activations again, ``--compile`` compiles the decoder layers for training. Each method gets a fresh copy of its adapter on the same base. Compare with
``python -m benchmarks.shapes``. The run takes minutes; ``--tiny`` checks this program on a CPU.

    python -m benchmarks.gpu                        # on a CUDA device
    python -m benchmarks.gpu --tiny --device cpu    # seconds; its numbers say nothing
"""

import argparse
import gc
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from benchmarks.measure import peak_mib, reset_peak_mib
from benchmarks.shapes.counts import method_fields
from benchmarks.shapes.models import SHAPES, Number, Shape
from pipeline.adapters import add_adapter, precision
from pipeline.adapters.compiling import compile_layers
from pipeline.evaluate.generation.decoding import decode
from pipeline.models.batches import Example
from pipeline.models.loss import summed_loss
from pipeline.models.optimizer import build_optimizer
from pipeline.params.base import Training

METHODS = ("lora", "series", "parallel", "prefix-tuning")
TINY: dict[str, Number] = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 128,
}
PAD, END = 0, 2


def main() -> None:
    """Measure all methods and print a table."""
    options = parse_options()
    warnings.filterwarnings("ignore")
    shape = Shape("llama", "llama", TINY, "") if options.tiny else SHAPES[options.model]
    if options.device == "cuda":
        print(f"{torch.cuda.get_device_name()}; torch {torch.__version__}, CUDA {torch.version.cuda}")
    print(
        f"{'tiny' if options.tiny else options.model}, bfloat16; training: {options.rows} x {options.tokens} tokens, "
        f"checkpointing {options.checkpointing}, compiled {options.compile}; evaluation: prompts of {options.tokens} tokens, "
        f"{options.new_tokens} new, greedy {options.greedy_rows} rows, 4 beams of {options.beam_rows} rows\n"
    )
    print(
        "| method | training: tokens/s | memory (GiB) | greedy: new tokens/s | memory (GiB) | 4 beams: new tokens/s | "
        "memory (GiB) |\n|---|---|---|---|---|---|---|"
    )
    for method in options.methods:
        print(f"| {method} | {' | '.join(measure_method(shape, method, options))} |", flush=True)


def parse_options() -> argparse.Namespace:
    """Return the command's options."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda", choices=["cpu", "cuda"])
    parser.add_argument("--model", default="LLaMA-7B", choices=list(SHAPES))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--tiny", action="store_true", help="a model of two narrow layers and few tokens")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--compile", action="store_true", help="compile the decoder layers for training")
    parser.add_argument("--rows", type=int, default=16, help="examples of a step")
    parser.add_argument("--tokens", type=int, default=256, help="tokens of an example and of a prompt")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--greedy-rows", type=int, default=64)
    parser.add_argument("--beam-rows", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    if options.tiny:
        options.rows, options.tokens, options.new_tokens = 2, 16, 4
        options.greedy_rows, options.beam_rows, options.repeats = 3, 2, 2
    return options


def measure_method(shape: Shape, method: str, options: argparse.Namespace) -> list[str]:
    """Return the cells of a method: tokens per second and peak memory of training, greedy decoding and beams."""
    model = build_model(shape, method, options)
    cells = []
    for make_work in (make_step, make_greedy, make_beams):
        reset_peak_mib(options.device)
        cells += [
            f"{measure_speed(make_work(model, options), options):,.0f}",
            f"{peak_mib(options.device) / 1024:.1f}",
        ]
    del model
    gc.collect()
    if options.device == "cuda":
        torch.cuda.empty_cache()
    return cells


def build_model(shape: Shape, method: str, options: argparse.Namespace) -> Any:
    """Return a base with random weights, drawn on its device, and the adapter of a method card."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(shape.model_type, **shape.config)
    with torch.device(options.device):
        base = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    if options.checkpointing:
        base.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    adapted = add_adapter(base, method_fields(method, shape.cards_as), architecture=shape.cards_as, seed=0)
    precision.avoid_casts(adapted)
    return adapted.to(options.device)


def make_step(model: Any, options: argparse.Namespace) -> Callable[[], int]:
    """Return a function that takes an optimizer step and returns its tokens."""
    model.train()
    device = torch.device(options.device)
    draw = np.random.default_rng(0)
    examples = []
    for _ in range(options.rows):
        ids = draw.integers(3, model.config.vocab_size, options.tokens, dtype=np.int32)
        examples.append(Example(ids, ids))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = build_optimizer(trained, Training())
    supervised = sum(example.supervised for example in examples)

    def loss_of(batch: list[Example]) -> Tensor:
        return summed_loss(model, batch, pad=PAD, device=device, dtype="bfloat16")

    if options.compile:
        refusal = compile_layers(model, lambda: loss_of(examples[:2]))
        if refusal:
            print(f"not compiled: {refusal}")

    def step() -> int:
        torch.autograd.backward(loss_of(examples) / supervised)
        optimizer.step()
        optimizer.zero_grad()
        return int(options.rows * options.tokens)

    return step


def make_greedy(model: Any, options: argparse.Namespace) -> Callable[[], int]:
    """Return a function that decodes greedily."""
    return make_decoding(model, options, rows=options.greedy_rows, beams=1)


def make_beams(model: Any, options: argparse.Namespace) -> Callable[[], int]:
    """Return a function that decodes with four beams."""
    return make_decoding(model, options, rows=options.beam_rows, beams=4)


def make_decoding(model: Any, options: argparse.Namespace, *, rows: int, beams: int) -> Callable[[], int]:
    """Return a function that decodes ``rows`` prompts and returns the number of new tokens."""
    model.eval()
    draw = np.random.default_rng(0)
    prompts = draw.integers(3, model.config.vocab_size, (rows, options.tokens)).tolist()
    special = {"pad_token_id": PAD, "eos_token_id": [END]}
    model.get_base_model().generation_config = model.generation_config = GenerationConfig(**special)
    config = GenerationConfig(
        do_sample=False,
        num_beams=beams,
        max_new_tokens=options.new_tokens,
        return_dict_in_generate=True,
        **special,
    )

    def work() -> int:
        with precision.compute_in("bfloat16", options.device):
            return sum(len(row) for row in decode(model, prompts, config))

    return work


def measure_speed(work: Callable[[], int], options: argparse.Namespace) -> float:
    """Return the median tokens per second of a call, after one that is not counted."""
    wait: Callable[[], None] = torch.cuda.synchronize if options.device == "cuda" else lambda: None
    work()
    speeds = []
    for _ in range(options.repeats):
        wait()
        start = time.perf_counter()
        tokens = work()
        wait()
        speeds.append(tokens / (time.perf_counter() - start))
    return statistics.median(speeds)


if __name__ == "__main__":
    main()
