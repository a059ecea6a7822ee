"""The bottleneck tuner against peft's LoRA of the same trainable size: time, memory, injection and loading.

Both sit on up_proj and down_proj of the same LLaMA (random weights, shared by all variants), LoRA with r equal to the
bottleneck size: then all placements have LoRA's number of trainable weights. No dropout, AdamW, one thread, the variants
by turns in one process, each round in another order; a ratio is taken within its round, and the median of all rounds
is reported. Memory is that of a process of its own for each variant: the highest resident size (VmHWM, set back before
the first step) less the size before the model was made; on CUDA the allocator's highest use.

    python -m benchmarks.adapters                  # some minutes on one core
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

from pipeline.adapters import BottleneckConfig

TARGETS = ["up_proj", "down_proj"]
VARIANTS = ("lora", "before", "after", "parallel")
LLAMA_7B = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 32000,
}
IN_OPEN = 0x20  # inotify(7): a watched file was opened


def main() -> None:
    """Run all parts and print their tables."""
    given = arguments()
    torch.set_num_threads(given.threads)
    if given.memory_of:
        print(json.dumps(memory_here(given.memory_of, given)))
        return
    describe(given)
    compare(given)
    memory(given)
    injection(given)
    loading()


def arguments() -> argparse.Namespace:
    """Return the command's options; sizes default to what a shared core runs in a few minutes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="of the base")
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--hidden-size", type=int, default=512)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=64, help="a row, in training")
    parser.add_argument("--new-tokens", type=int, default=24, help="a row, in generation")
    parser.add_argument("--bottleneck-size", type=int, default=32)
    parser.add_argument("--memory-of", choices=VARIANTS, help=argparse.SUPPRESS)  # one variant, for memory()
    return parser.parse_args()


def base_of(given: argparse.Namespace) -> Any:
    """Return a LLaMA with random weights."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama",
        hidden_size=given.hidden_size,
        intermediate_size=given.hidden_size * 8 // 3,
        num_hidden_layers=given.layers,
        num_attention_heads=8,
        vocab_size=2000,
    )
    return AutoModelForCausalLM.from_config(config).to(given.device, getattr(torch, given.dtype))


def config_of(variant: str, size: int) -> peft.PeftConfig:
    """Return the settings of a variant, ``size`` the bottleneck size or LoRA's r."""
    if variant == "lora":
        return peft.LoraConfig(r=size, lora_alpha=size, target_modules=TARGETS, task_type="CAUSAL_LM")
    return BottleneckConfig(
        placement=variant, bottleneck_size=size, target_modules=TARGETS, task_type="CAUSAL_LM"
    )


def adapted(variant: str, base: Any, given: argparse.Namespace) -> Any:
    """Put a variant onto a copy of ``base`` that shares its weights."""
    with torch.device("meta"):
        copied = AutoModelForCausalLM.from_config(base.config)
    copied.load_state_dict(base.state_dict(), assign=True)
    copied.model.rotary_emb = base.model.rotary_emb  # its buffers are in no state dict
    return peft.get_peft_model(copied, config_of(variant, given.bottleneck_size))


def training_step(model: Any, given: argparse.Namespace) -> Callable[[], None]:
    """Return a function that does one step of AdamW on a fixed batch."""
    ids = torch.randint(3, 2000, (given.batch_size, given.tokens), device=given.device)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)

    def step() -> None:
        model.train()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def generation(model: Any, given: argparse.Namespace) -> Callable[[], None]:
    """Return a function that generates greedily, with a cache, from a fixed batch."""
    ids = torch.randint(3, 2000, (given.batch_size, 16), device=given.device)
    count = {"max_new_tokens": given.new_tokens, "min_new_tokens": given.new_tokens}

    def generate() -> None:
        model.eval()
        model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=0, **count
        )

    return generate


def timed(work: Callable[[], None], device: str) -> tuple[float, float]:
    """Return (wall, CPU) seconds of one call; on CUDA the wall time waits for the device."""
    synchronize: Callable[[], None] = torch.cuda.synchronize if device == "cuda" else lambda: None
    synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def compare(given: argparse.Namespace) -> None:
    """Time training steps and generation of all variants by turns."""
    base = base_of(given)
    models = {variant: adapted(variant, base, given) for variant in VARIANTS}
    counts = {variant: model.get_nb_trainable_parameters()[0] for variant, model in models.items()}
    if len(set(counts.values())) > 1:
        raise SystemExit(f"the variants have different numbers of trainable weights: {counts}")
    total = sum(p.numel() for p in base.parameters())
    print(f"Base of {total:,} parameters, {counts['lora']:,} trainable in each variant.\n")
    print(
        "| | variant | wall ms | wall, ratio to LoRA | CPU ms | CPU, ratio to LoRA |\n|---|---|---|---|---|---|"
    )
    for title, make in (("training step", training_step), ("generation", generation)):
        works = {variant: make(model, given) for variant, model in models.items()}
        seconds = rounds_of(works, given)
        for variant in VARIANTS:
            cells = [f"{title} | {variant}"]
            for kind in (0, 1):
                own = [pair[kind] for pair in seconds[variant]]
                ratios = [a / b[kind] for a, b in zip(own, seconds["lora"], strict=True)]
                cells += [f"{1000 * statistics.median(own):.1f}", f"{statistics.median(ratios):.3f}"]
            print(f"| {' | '.join(cells)} |")


def rounds_of(
    works: dict[str, Callable[[], None]], given: argparse.Namespace
) -> dict[str, list[tuple[float, float]]]:
    """Return (wall, CPU) seconds of each variant in each round; two calls of each before are not counted."""
    seconds: dict[str, list[tuple[float, float]]] = {variant: [] for variant in works}
    for work in works.values():
        work(), work()
    for number in range(given.rounds):
        start = number % len(VARIANTS)
        for variant in VARIANTS[start:] + VARIANTS[:start]:
            seconds[variant].append(timed(works[variant], given.device))
    return seconds


def memory(given: argparse.Namespace) -> None:
    """Print the highest memory of three training steps, each variant in processes of its own."""
    print("\n| memory of training | MiB | ratio to LoRA |\n|---|---|---|")
    # freed blocks go back to the system at once, so that the resident size is what is in use
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    options = [
        f"--{name.replace('_', '-')}={value}" for name, value in vars(given).items() if name != "memory_of"
    ]
    mebibytes: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for _ in range(3):
        for variant in VARIANTS:
            command = [sys.executable, "-m", "benchmarks.adapters", *options, "--memory-of", variant]
            told = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
            mebibytes[variant].append(json.loads(told.stdout.splitlines()[-1]))
    for variant, values in mebibytes.items():
        ratio = statistics.median(values) / statistics.median(mebibytes["lora"])
        print(f"| {variant} | {statistics.median(values):.1f} | {ratio:.3f} |")


def memory_here(variant: str, given: argparse.Namespace) -> float:
    """Return the MiB that this process needs at most for three training steps of a variant, its model included."""
    if given.device == "cuda":
        step = training_step(adapted(variant, base_of(given), given), given)
        torch.cuda.reset_peak_memory_stats()
        for _ in range(3):
            step()
        return torch.cuda.max_memory_allocated() / 2**20
    before = resident("VmRSS")
    step = training_step(adapted(variant, base_of(given), given), given)
    Path("/proc/self/clear_refs").write_text("5")  # proc(5): sets VmHWM back to the present size
    for _ in range(3):
        step()
    return resident("VmHWM") - before


def resident(field: str) -> float:
    """Return a field of /proc/self/status in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{field}:")).split()[1]) / 1024


def injection(given: argparse.Namespace) -> None:
    """Print how long it takes to put each variant onto a LLaMA-7B without memory."""
    print("\n| injection into LLaMA-7B on the meta device | wall s | CPU s |\n|---|---|---|")
    for variant in VARIANTS:
        seconds = []
        for _ in range(5):
            base, config = empty_7b("meta"), config_of(variant, given.bottleneck_size)
            wall, cpu = time.perf_counter(), time.process_time()
            peft.get_peft_model(base, config)
            seconds.append((time.perf_counter() - wall, time.process_time() - cpu))
        medians = " | ".join(f"{statistics.median(kind):.2f}" for kind in zip(*seconds, strict=True))
        print(f"| {variant} | {medians} |")


def empty_7b(device: str) -> Any:
    """Return a bfloat16 LLaMA-7B whose weights are on meta, or on CPU pages that nobody has written to."""
    with torch.device("meta"):
        model: nn.Module = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **LLAMA_7B))
    model = model.to(torch.bfloat16)
    return model if device == "meta" else model.to_empty(device=device)


def loading() -> None:
    """Print which files are opened, and what memory is taken, when an adapter is loaded onto a base of 7B's shape."""
    with tempfile.TemporaryDirectory() as folder:
        base_folder, adapter_folder = Path(folder) / "base", Path(folder) / "adapter"
        model = empty_7b("cpu")
        model.config.save_pretrained(base_folder)
        with open(base_folder / "model.safetensors", "wb") as file:
            file.truncate(2 * sum(p.numel() for p in model.parameters()))  # a sparse file: no disk is used
        model.name_or_path = str(base_folder)
        peft.get_peft_model(model, config_of("parallel", 32)).save_pretrained(adapter_folder)
        base = empty_7b("cpu")
        base.name_or_path = str(base_folder)
        before, start, opened = resident("VmRSS"), time.perf_counter(), Opened(base_folder, adapter_folder)
        peft.PeftModel.from_pretrained(base, adapter_folder)
        seconds, taken, names = time.perf_counter() - start, resident("VmRSS") - before, opened.names()
        print(
            f"\nLoading onto a base of 7B's shape: {seconds:.2f} s, {taken:.0f} MiB of memory. Files opened:"
        )
        for path in sorted([*base_folder.iterdir(), *adapter_folder.iterdir()]):
            times = names.count(path.name)
            print(f"- {path.parent.name}/{path.name} ({path.stat().st_size / 2**20:.1f} MiB): {times} times")


class Opened:
    """Counts, through Linux' inotify, what is opened in folders, by whatever library."""

    def __init__(self, *folders: Path) -> None:
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor = self.libc.inotify_init1(os.O_NONBLOCK)
        for folder in folders:
            if self.libc.inotify_add_watch(self.descriptor, str(folder).encode(), IN_OPEN) < 0:
                raise OSError(ctypes.get_errno(), f"cannot watch {folder}")

    def names(self) -> list[str]:
        """Return the names of the files opened so far, one for each time."""
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


def describe(given: argparse.Namespace) -> None:
    """Print the machine and the versions."""
    device = torch.cuda.get_device_name() if given.device == "cuda" else platform.machine()
    load = os.getloadavg()[0]
    print(
        f"{device}, {given.threads} thread(s), load {load:.1f}, torch {torch.__version__}, peft {peft.__version__}"
    )
    print(f"{given.rounds} rounds, batch {given.batch_size} x {given.tokens}, base in {given.dtype}.\n")


if __name__ == "__main__":
    main()
