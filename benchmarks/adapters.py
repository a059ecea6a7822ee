"""The bottleneck tuner against peft's LoRA of the same trainable size: time, memory, injection and loading.

Both adapt up_proj and down_proj of the same LLaMA (random weights, shared by all variants). LoRA's r equals the bottleneck
size, so all variants have the same number of trainable weights. There is no dropout; the optimizer is AdamW. The variants
run in turn in a single process with a single thread, in a different order each round; ratios are computed within a round,
and the table has their median over all rounds. Memory is measured in a new process for each variant: the peak of the
resident size (VmHWM, reset before the first step) less the size before the model was created; on CUDA the peak of the
allocator.

    python -m benchmarks.adapters                  # minutes on a core
    python -m benchmarks.adapters --device cuda
"""

import argparse
import ctypes
import json
import os
import platform
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.measure import peak_mib, reset_peak_mib, reset_resident_peak, resident_mib
from pipeline.adapters import BottleneckConfig
from pipeline.adapters.precision import avoid_casts, compute_in

TARGETS = ["up_proj", "down_proj"]
VARIANTS = ("lora", "before", "after", "parallel")
LLAMA_7B = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 32000,
}
# inotify(7): a watched file was opened
IN_OPEN = 0x20


def main() -> None:
    """Run all parts and print their tables."""
    options = parse_options()
    torch.set_num_threads(options.threads)
    if options.memory_of:
        print(json.dumps(measure_memory(options.memory_of, options)))
        return
    print_machine(options)
    compare_times(options)
    compare_memory(options)
    compare_injection(options)
    measure_loading()


def parse_options() -> argparse.Namespace:
    """Return the command's options; with the default sizes a shared core needs a few minutes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument(
        "--dtype", default="float32", choices=["float32", "bfloat16"], help="of the base and of products"
    )
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--hidden-size", type=int, default=512)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=64, help="a row, in training")
    parser.add_argument("--new-tokens", type=int, default=24, help="a row, in generation")
    parser.add_argument("--bottleneck-size", type=int, default=32)
    # for compare_memory, which measures each variant in a new process
    parser.add_argument("--memory-of", choices=VARIANTS, help=argparse.SUPPRESS)
    return parser.parse_args()


def make_base(options: argparse.Namespace) -> Any:
    """Return a LLaMA with random weights."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama",
        hidden_size=options.hidden_size,
        intermediate_size=options.hidden_size * 8 // 3,
        num_hidden_layers=options.layers,
        num_attention_heads=8,
        vocab_size=2000,
    )
    return AutoModelForCausalLM.from_config(config).to(options.device, getattr(torch, options.dtype))


def make_config(variant: str, size: int) -> peft.PeftConfig:
    """Return the settings of a variant; ``size`` is the bottleneck size or LoRA's r."""
    if variant == "lora":
        return peft.LoraConfig(r=size, lora_alpha=size, target_modules=TARGETS, task_type="CAUSAL_LM")
    return BottleneckConfig(
        placement=variant, bottleneck_size=size, target_modules=TARGETS, task_type="CAUSAL_LM"
    )


def add_variant(variant: str, base: Any, options: argparse.Namespace) -> Any:
    """Add a variant to a copy of ``base`` that shares its weights."""
    with torch.device("meta"):
        model_copy = AutoModelForCausalLM.from_config(base.config)
    model_copy.load_state_dict(base.state_dict(), assign=True)
    # the buffers of the rotary embedding are in no state dict
    model_copy.model.rotary_emb = base.model.rotary_emb
    adapted = peft.get_peft_model(model_copy, make_config(variant, options.bottleneck_size))
    if options.dtype != "float32":
        avoid_casts(adapted)
    return adapted


def make_training_step(model: Any, options: argparse.Namespace) -> Callable[[], None]:
    """Return a function that does one step of AdamW on a fixed batch."""
    ids = torch.randint(3, 2000, (options.batch_size, options.tokens), device=options.device)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)

    def step() -> None:
        model.train()
        with compute_in(options.dtype, options.device):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def make_generation(model: Any, options: argparse.Namespace) -> Callable[[], None]:
    """Return a function that generates greedily, with a cache, from a fixed batch."""
    ids = torch.randint(3, 2000, (options.batch_size, 16), device=options.device)
    count = {"max_new_tokens": options.new_tokens, "min_new_tokens": options.new_tokens}

    def generate() -> None:
        model.eval()
        with compute_in(options.dtype, options.device):
            model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=0, **count
            )

    return generate


def time_work(work: Callable[[], None], device: str) -> tuple[float, float]:
    """Return the (wall, CPU) seconds of a call; on CUDA the wall time includes waiting for the device."""
    synchronize: Callable[[], None] = torch.cuda.synchronize if device == "cuda" else lambda: None
    synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def compare_times(options: argparse.Namespace) -> None:
    """Time training steps and generation of all variants in turn."""
    base = make_base(options)
    models = {variant: add_variant(variant, base, options) for variant in VARIANTS}
    counts = {variant: model.get_nb_trainable_parameters()[0] for variant, model in models.items()}
    if len(set(counts.values())) > 1:
        raise SystemExit(f"the variants have different numbers of trainable weights: {counts}")
    total = sum(p.numel() for p in base.parameters())
    print(f"Base of {total:,} parameters, {counts['lora']:,} trainable in each variant.\n")
    print(
        "| | variant | wall ms | wall, ratio to LoRA | CPU ms | CPU, ratio to LoRA |\n|---|---|---|---|---|---|"
    )
    for title, make in (("training step", make_training_step), ("generation", make_generation)):
        works = {variant: make(model, options) for variant, model in models.items()}
        seconds = time_rounds(works, options)
        for variant in VARIANTS:
            cells = [f"{title} | {variant}"]
            for kind in (0, 1):
                own = [pair[kind] for pair in seconds[variant]]
                ratios = [a / b[kind] for a, b in zip(own, seconds["lora"], strict=True)]
                cells += [f"{1000 * statistics.median(own):.1f}", f"{statistics.median(ratios):.3f}"]
            print(f"| {' | '.join(cells)} |")


def time_rounds(
    works: dict[str, Callable[[], None]], options: argparse.Namespace
) -> dict[str, list[tuple[float, float]]]:
    """Return the (wall, CPU) seconds of each variant in each round, after two calls of each that are not counted."""
    seconds: dict[str, list[tuple[float, float]]] = {variant: [] for variant in works}
    for work in works.values():
        work(), work()
    for number in range(options.rounds):
        start = number % len(VARIANTS)
        for variant in VARIANTS[start:] + VARIANTS[:start]:
            seconds[variant].append(time_work(works[variant], options.device))
    return seconds


def compare_memory(options: argparse.Namespace) -> None:
    """Print the peak memory of three training steps of each variant, each measured in new processes."""
    print("\n| memory of training | MiB | ratio to LoRA |\n|---|---|---|")
    # freed blocks return to the system at once, so that the resident size is the memory in use
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    flags = [
        f"--{name.replace('_', '-')}={value}" for name, value in vars(options).items() if name != "memory_of"
    ]
    mebibytes: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for _ in range(3):
        for variant in VARIANTS:
            command = [sys.executable, "-m", "benchmarks.adapters", *flags, "--memory-of", variant]
            process = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
            mebibytes[variant].append(json.loads(process.stdout.splitlines()[-1]))
    for variant, values in mebibytes.items():
        ratio = statistics.median(values) / statistics.median(mebibytes["lora"])
        print(f"| {variant} | {statistics.median(values):.1f} | {ratio:.3f} |")


def measure_memory(variant: str, options: argparse.Namespace) -> float:
    """Return the peak memory in MiB of this process for three training steps of a variant, including its model."""
    if options.device == "cuda":
        step = make_training_step(add_variant(variant, make_base(options), options), options)
        reset_peak_mib(options.device)
        for _ in range(3):
            step()
        return peak_mib(options.device)
    before = resident_mib("VmRSS")
    step = make_training_step(add_variant(variant, make_base(options), options), options)
    reset_resident_peak()
    for _ in range(3):
        step()
    return resident_mib("VmHWM") - before


def compare_injection(options: argparse.Namespace) -> None:
    """Print how long adding each variant to a LLaMA-7B on the meta device takes."""
    print("\n| injection into LLaMA-7B on the meta device | wall s | CPU s |\n|---|---|---|")
    for variant in VARIANTS:
        seconds = []
        for _ in range(5):
            base, config = make_empty_7b("meta"), make_config(variant, options.bottleneck_size)
            wall, cpu = time.perf_counter(), time.process_time()
            peft.get_peft_model(base, config)
            seconds.append((time.perf_counter() - wall, time.process_time() - cpu))
        medians = " | ".join(f"{statistics.median(kind):.2f}" for kind in zip(*seconds, strict=True))
        print(f"| {variant} | {medians} |")


def make_empty_7b(device: str) -> Any:
    """Return a bfloat16 LLaMA-7B whose weights are on the meta device, or uninitialized on the CPU."""
    with torch.device("meta"):
        model: nn.Module = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **LLAMA_7B))
    model = model.to(torch.bfloat16)
    return model if device == "meta" else model.to_empty(device=device)


def measure_loading() -> None:
    """Print which files are opened and how much memory is used when an adapter is loaded onto a base of 7B's shape."""
    with tempfile.TemporaryDirectory() as folder:
        base_folder, adapter_folder = Path(folder) / "base", Path(folder) / "adapter"
        model = make_empty_7b("cpu")
        model.config.save_pretrained(base_folder)
        with open(base_folder / "model.safetensors", "wb") as file:
            # a sparse file uses no disk space
            file.truncate(2 * sum(p.numel() for p in model.parameters()))
        model.name_or_path = str(base_folder)
        peft.get_peft_model(model, make_config("parallel", 32)).save_pretrained(adapter_folder)
        base = make_empty_7b("cpu")
        base.name_or_path = str(base_folder)
        before, start = resident_mib("VmRSS"), time.perf_counter()
        opened = OpenedFiles(base_folder, adapter_folder)
        peft.PeftModel.from_pretrained(base, adapter_folder)
        seconds, memory_mib = time.perf_counter() - start, resident_mib("VmRSS") - before
        names = opened.names()
        print(
            f"\nLoading onto a base of 7B's shape: {seconds:.2f} s, {memory_mib:.0f} MiB of memory. Files opened:"
        )
        for path in sorted([*base_folder.iterdir(), *adapter_folder.iterdir()]):
            times = names.count(path.name)
            print(f"- {path.parent.name}/{path.name} ({path.stat().st_size / 2**20:.1f} MiB): {times} times")


class OpenedFiles:
    """Records, through Linux' inotify, the files that are opened in folders, by any library."""

    def __init__(self, *folders: Path) -> None:
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor = self.libc.inotify_init1(os.O_NONBLOCK)
        for folder in folders:
            if self.libc.inotify_add_watch(self.descriptor, str(folder).encode(), IN_OPEN) < 0:
                raise OSError(ctypes.get_errno(), f"cannot watch {folder}")

    def names(self) -> list[str]:
        """Return the names of the files opened so far; a file opened twice is listed twice."""
        try:
            data = os.read(self.descriptor, 2**20)
        except BlockingIOError:
            return []
        names, position = [], 0
        while position < len(data):
            _, _, _, length = struct.unpack_from("iIII", data, position)
            names.append(data[position + 16 : position + 16 + length].rstrip(b"\0").decode())
            position += 16 + length
        return names


def print_machine(options: argparse.Namespace) -> None:
    """Print the machine and the versions."""
    device = torch.cuda.get_device_name() if options.device == "cuda" else platform.machine()
    load = os.getloadavg()[0]
    print(
        f"{device}, {options.threads} thread(s), load {load:.1f}, torch {torch.__version__}, peft {peft.__version__}"
    )
    print(
        f"{options.rounds} rounds, batch {options.batch_size} x {options.tokens}, base in {options.dtype}.\n"
    )


if __name__ == "__main__":
    main()
