"""Generation and likelihoods against a loop of ``model.generate`` and against lm-eval, and how they scale.

One tiny LLaMA with a LoRA adapter (benchmarks.evaluation_inputs), real SVAMP and BoolQ prompts, one thread, float32, all
by turns in one process. Ours is the ``generate`` stage with its loading of the model and writing of files; theirs are
calls with the model loaded. Where results differ in a single text or in 1e-4 of a log-likelihood, it says so and fails.

    python -m benchmarks.evaluation --data-root DIR              # DIR/SVAMP, DIR/boolq, DIR/raw/gsm8k; tens of minutes
    python -m benchmarks.evaluation --data-root DIR --part changes --device cuda --dtype bfloat16
"""

import argparse
import itertools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from benchmarks.adapters import resident
from benchmarks.evaluation_figure import draw
from benchmarks.evaluation_inputs import make_large, make_model, prompts_of_length, write_task
from pipeline.core.io import read_jsonl
from pipeline.evaluate.generation import decoding
from pipeline.evaluate.generation.generate import ask, encode_prompts, generate
from pipeline.evaluate.generation.loading import load_model
from pipeline.params.reading import read_card
from pipeline.params.resolve import answer_form_of
from pipeline.prompts.write import read_prompts

PARTS = ("loop", "until", "loglikelihood", "scaling", "loads", "changes")
TASKS = ("svamp", "boolq")
SIZES = (1, 4, 16, 64)  # rows of a batch, in scaling
LENGTHS = (64, 256, 512)  # tokens of a prompt, in scaling
NEW_TOKENS = 32  # in scaling
ADAPTERS = 4  # in loads
FIGURE = Path("docs/figures/evaluation-scaling.png")

Seconds = tuple[float, float]  # wall, CPU


def main() -> None:
    """Run the parts that are asked for and print their tables."""
    given = arguments()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(given, given.work or Path(temporary))
        if given.cells:
            print(json.dumps(bench.cells()))
            return
        bench.describe()
        for part in given.part or PARTS:
            getattr(bench, part)()


def arguments() -> argparse.Namespace:
    """Return the command's options."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--part", choices=PARTS, action="append", help="only this; may be repeated")
    parser.add_argument("--work", type=Path, help="folder that keeps the trained tiny model for a next call")
    parser.add_argument("--steps", type=int, default=100, help="of the tiny model's training")
    parser.add_argument("--examples", type=int, default=300, help="of a task")
    parser.add_argument("--loop-examples", type=int, default=10, help="that the slow loop is given")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--batch-sizes", type=int, nargs="+", default=[8, 16, 32, 64, 128], help="for lm-eval"
    )
    parser.add_argument(
        "--device", default="cpu", choices=["cpu", "cuda"], help="of the parts scaling and changes"
    )
    parser.add_argument(
        "--dtype", default="float32", choices=["float32", "bfloat16"], help="of the part changes"
    )
    parser.add_argument("--cells", action="store_true", help=argparse.SUPPRESS)  # for scaling()
    return parser.parse_args()


def timed(work: Callable[..., Any], *arguments: Any) -> tuple[Any, Seconds]:
    """Return what a call returned and its (wall, CPU) seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    made = work(*arguments)
    return made, (time.perf_counter() - wall, time.process_time() - cpu)


def medians(times: Sequence[Seconds]) -> Seconds:
    """Return the median wall and CPU seconds."""
    wall, cpu = (statistics.median(kind) for kind in zip(*times, strict=True))
    return wall, cpu


class Bench:
    """The tiny model, its prompts and the parts of the benchmark."""

    def __init__(self, given: argparse.Namespace, folder: Path) -> None:
        self.given, self.folder = given, folder
        self.base, self.adapter = make_model(given.data_root, folder, steps=given.steps)
        self.model, self.tokenizer = load_model(self.base, self.adapter, "float32", "cpu")

    def describe(self) -> None:
        """Print what runs where."""
        count = sum(parameter.numel() for parameter in self.model.parameters())
        load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
        print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load average {load}")
        print(f"torch {torch.__version__}; LLaMA with LoRA, {count:,} parameters")

    def asked(self, task: str, protocol: str) -> dict[str, Any]:
        """Return a task under a protocol as the stage takes it."""
        card = read_card("protocols", protocol)
        prompts = write_task(
            task, card.template, self.given.data_root, self.folder, limit=self.given.examples
        )
        chosen = card.decoding(answer_form_of(task), max_new_tokens=None)
        name = f"{task}-{protocol}"
        return {"name": name, "prompts": prompts, "fingerprint": name, "decoding": chosen}

    def ours(self, asked: dict[str, Any], *, bare: Path | None = None) -> list[dict[str, Any]]:
        """Run the stage on one task, of the model or of a bare base; return its rows."""
        output = self.folder / "answers" / "ours"
        shutil.rmtree(output.parent, ignore_errors=True)
        generate(
            bare or self.base,
            None if bare else self.adapter,
            tasks=[asked],
            output=output,
            siblings=output.parent,
            device="cpu",
            manifest={},
        )
        return read_jsonl(output / f"{asked['name']}.jsonl")

    # -- against a loop ------------------------------------------------------------------------------------------------

    def loop(self) -> None:
        """Compare ``paper`` with model.generate for one example after the other, without a cache."""
        print(
            "\n| paper | n (loop) | CPU s an example, ours | loop | ratio, CPU | wall | same texts | new tokens |"
        )
        print("|---|---|---|---|---|---|---|---|", flush=True)
        untrained, _ = load_model(self.folder / "start", None, "float32", "cpu")
        for task in TASKS:
            asked = self.asked(task, "paper")
            self.against_loop(task, self.model, asked)
            merged = {**asked, "decoding": {**asked["decoding"], "merge_adapter": True}}
            self.against_loop(f"{task}, merge_adapter", self.model, merged)
            self.against_loop(f"{task}, an untrained base", untrained, asked, bare=self.folder / "start")

    def against_loop(self, what: str, model: Any, asked: dict[str, Any], *, bare: Path | None = None) -> None:
        """Print one row; the loop has a sample of every prompt length."""
        rows, mine = timed(partial(self.ours, bare=bare), asked)
        ids, config = self.encoded(model, asked)
        by_length = sorted(range(len(ids)), key=[len(one) for one in ids].__getitem__)
        sample = by_length[:: max(1, len(ids) // self.given.loop_examples)][: self.given.loop_examples]
        texts, theirs = timed(self.one_by_one, model, [ids[index] for index in sample], config)
        same = sum(rows[index]["text"] == text for index, text in zip(sample, texts, strict=True))
        each, loop = [t / len(rows) for t in mine], [t / len(sample) for t in theirs]
        lengths = statistics.quantiles([row["tokens"] for row in rows], n=4)
        print(
            f"| {what} | {len(rows)} ({len(sample)}) | {each[1]:.3f} | {loop[1]:.2f} | {loop[1] / each[1]:.1f} "
            f"| {loop[0] / each[0]:.1f} | {same} of {len(sample)} | {lengths} |",
            flush=True,
        )
        if same < len(sample):
            raise SystemExit("the texts differ")

    def encoded(self, model: Any, asked: dict[str, Any]) -> tuple[list[list[int]], Any]:
        """Return a task's prompts as tokens, and the decoding that both sides have."""
        lengths = {name: asked["decoding"][name] for name in ("max_new_tokens", "num_beams")}
        config = decoding.settings(model, self.tokenizer, **lengths)
        examples = read_prompts(asked["prompts"])
        return encode_prompts(model, self.tokenizer, examples, lengths["max_new_tokens"])[0], config

    def one_by_one(self, model: Any, prompts: list[list[int]], config: Any) -> list[str]:
        """Return the texts of the published procedure, its padding apart."""
        texts = []
        for ids in prompts:
            given = {
                "input_ids": torch.tensor([ids]),
                "attention_mask": torch.ones(1, len(ids), dtype=torch.long),
            }
            with torch.inference_mode():
                out = model.generate(**given, generation_config=config, use_cache=False)
            texts.append(self.tokenizer.decode(out.sequences[0, len(ids) :], skip_special_tokens=True))
        return texts

    # -- against lm-eval -----------------------------------------------------------------------------------------------

    def until(self) -> None:
        """Compare ``strict`` with lm-eval's generate_until."""
        for task in TASKS:
            asked = self.asked(task, "strict")
            limits = {
                "until": [self.tokenizer.eos_token],
                "max_gen_toks": asked["decoding"]["max_new_tokens"],
            }
            requests = [(row["prompt"], limits) for row in read_prompts(asked["prompts"])]
            same = self.against(
                f"generate_until, {task}", asked, requests, lambda rows: [row["text"] for row in rows]
            )
            if not same:
                raise SystemExit("the texts differ")

    def loglikelihood(self) -> None:
        """Compare ``likelihood`` with lm-eval's loglikelihood."""
        asked = self.asked("boolq", "likelihood")
        rows = self.ours(asked)
        requests = [(row["prompt"], text) for row in rows for text in row["continuations"]]

        def values(rows: list[dict[str, Any]]) -> list[float]:
            return [value for row in rows for value in row["loglikelihoods"]]

        if not self.against("loglikelihood, boolq", asked, requests, values):
            raise SystemExit("the log-likelihoods differ")

    def against(
        self,
        what: str,
        asked: dict[str, Any],
        requests: Sequence[tuple[Any, ...]],
        read: Callable[..., list[Any]],
    ) -> bool:
        """Print our time and lm-eval's at each batch size, the best by turns with ours; tell whether results are equal."""
        kind = what.partition(",")[0]
        once = {size: timed(self.harness, kind, requests, size)[1] for size in self.given.batch_sizes}
        best = min(once, key=lambda size: once[size][1])
        print(
            f"\n{what}: lm-eval's CPU seconds by batch size, once:",
            {k: round(v[1], 2) for k, v in once.items()},
        )
        mine, theirs = [], []
        for _ in range(self.given.rounds):
            rows, seconds = timed(self.ours, asked)
            mine.append(seconds)
            found, seconds = timed(self.harness, kind, requests, best)
            theirs.append(seconds)
        same = equal(read(rows), found)
        wall, cpu = ([b[i] / a[i] for a, b in zip(mine, theirs, strict=True)] for i in (0, 1))
        print(
            "| | n | CPU s, ours | lm-eval | ratio, CPU | ratio, wall | identical |\n|---|---|---|---|---|---|---|"
        )
        print(
            f"| {what}, batch size {best} | {len(rows)} | {medians(mine)[1]:.2f} | {medians(theirs)[1]:.2f} "
            f"| {statistics.median(cpu):.2f} | {statistics.median(wall):.2f} | {same} |",
            flush=True,
        )
        return same

    def harness(self, kind: str, requests: Sequence[tuple[Any, ...]], batch_size: int) -> list[Any]:
        """Return lm-eval's texts, or its log-likelihoods, on the loaded model."""
        instance = import_module("lm_eval.api.instance").Instance
        lm = import_module("lm_eval.models.huggingface").HFLM(
            pretrained=self.model, tokenizer=self.tokenizer, batch_size=batch_size
        )
        instances = [instance(kind, {}, arguments, number) for number, arguments in enumerate(requests)]
        found: list[Any] = getattr(lm, kind)(instances, disable_tqdm=True)
        return [one[0] for one in found] if kind == "loglikelihood" else found

    # -- scaling -------------------------------------------------------------------------------------------------------

    def scaling(self) -> None:
        """Print and draw examples a second and memory by batch size and prompt length; a process of its own measures."""
        # freed blocks go back to the system at once, so that the resident size is what is in use
        environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
        command = [sys.executable, "-m", "benchmarks.evaluation", "--cells", f"--device={self.given.device}"]
        command += [f"--data-root={self.given.data_root}", f"--work={self.folder}"]
        told = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        cells = json.loads(told.stdout.splitlines()[-1])
        print("\n| prompt tokens | rows | examples/s | peak MiB above the model |\n|---|---|---|---|")
        for length, size, rate, peak in cells:
            print(f"| {length} | {size} | {rate:.2f} | {peak:.0f} |")
        draw(cells, FIGURE)

    def cells(self) -> list[tuple[int, int, float, float]]:
        """Return (prompt tokens, rows, examples a CPU second (on CUDA: a second), peak MiB) of each cell."""
        device = self.given.device
        model = self.model.to(device)
        texts = [row["prompt"] or "" for row in read_prompts(self.asked("svamp", "strict")["prompts"])]
        config = decoding.settings(model, self.tokenizer, max_new_tokens=NEW_TOKENS, num_beams=1)
        config.eos_token_id = [model.config.vocab_size]  # no token, so that every row has as many
        found = []
        for length, size in itertools.product(LENGTHS, SIZES):
            prompts = prompts_of_length(self.tokenizer, texts, length, size)
            decoding.decode(model, prompts, config)
            before = start_peak(device)
            seconds = [timed(decoding.decode, model, prompts, config)[1] for _ in range(self.given.rounds)]
            rate = size / medians(seconds)[device == "cpu"]
            found.append((length, size, rate, end_peak(device) - before))
        return found

    # -- one load of a base --------------------------------------------------------------------------------------------

    def loads(self) -> None:
        """Print what four adapters of a larger base take with a load each, and with one for all."""
        folder = self.folder / "large"
        base, adapters = make_large(self.tokenizer, folder, count=ADAPTERS)
        task = self.asked("svamp", "strict")
        tasks = [{**task, "decoding": {**task["decoding"], "max_new_tokens": 1, "batch_tokens": 2048}}]

        def models(name: str) -> list[dict[str, Any]]:
            shutil.rmtree(folder / name, ignore_errors=True)
            outputs = [folder / name / str(number) / "answers" for number in range(ADAPTERS)]
            pairs = zip(adapters, outputs, strict=True)
            return [
                {"adapter": one, "tasks": tasks, "output": output, "siblings": output.parent}
                for one, output in pairs
            ]

        def named(some: list[dict[str, Any]]) -> list[Any]:
            for model in some:
                generate(base, **model, device="cpu", manifest={})
            return [read_jsonl(model["output"] / f"{task['name']}.jsonl") for model in some]

        def alone() -> list[Any]:
            return named(models("alone"))

        def together() -> list[Any]:
            some = models("together")
            ask(base, [{"name": model["output"].parent.name, **model} for model in some], device="cpu")
            return named(some)

        gib = sum(file.stat().st_size for file in base.glob("*.safetensors")) / 2**30
        print(
            f"\n{ADAPTERS} adapters of a base of {gib:.1f} GiB, {self.given.examples} questions, a token each"
        )
        print("| | wall s | CPU s |\n|---|---|---|")
        took: dict[str, list[Seconds]] = {"a load each": [], "one load": []}
        for _ in range(self.given.rounds):
            results = []
            for what, work in zip(took, (alone, together), strict=True):
                rows, seconds = timed(work)
                took[what].append(seconds)
                results.append(rows)
            assert results[0] == results[1], "answers differ"
        for what, times in took.items():
            print(f"| {what} | {medians(times)[0]:.1f} | {medians(times)[1]:.1f} |", flush=True)

    # -- what changes --------------------------------------------------------------------------------------------------

    def changes(self) -> None:
        """Print how many greedy answers differ from those of batch size 1, on a device in a dtype."""
        model, _ = load_model(self.base, self.adapter, self.given.dtype, self.given.device)
        print(f"\n| {self.given.device}, {self.given.dtype} | batch size | changed answers |\n|---|---|---|")
        for task in TASKS:
            asked = self.asked(task, "strict")
            examples, limit = read_prompts(asked["prompts"]), asked["decoding"]["max_new_tokens"]
            ids, _ = encode_prompts(model, self.tokenizer, examples, limit)
            config = decoding.settings(model, self.tokenizer, max_new_tokens=limit, num_beams=1)
            ids.sort(key=len, reverse=True)
            alone = [decoding.decode(model, [row], config)[0] for row in ids]
            for size in (8, 64):
                parts = [ids[start : start + size] for start in range(0, len(ids), size)]
                together = [new for part in parts for new in decoding.decode(model, part, config)]
                changed = sum(one != other for one, other in zip(alone, together, strict=True))
                print(f"| {task} | {size} | {changed} of {len(ids)} |", flush=True)


def equal(ours: list[Any], theirs: list[Any]) -> bool:
    """Tell whether texts are the same and log-likelihoods within 1e-4."""
    if len(ours) != len(theirs):
        return False
    pairs = zip(ours, theirs, strict=True)
    return all(abs(a - b) <= 1e-4 if isinstance(a, float) else a == b for a, b in pairs)


def start_peak(device: str) -> float:
    """Set the highest use of memory back; return the present one, in MiB."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # proc(5): sets VmHWM back to the present size
    return resident("VmRSS")


def end_peak(device: str) -> float:
    """Return the highest use of memory since ``start_peak``, in MiB."""
    return torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else resident("VmHWM")


if __name__ == "__main__":
    main()
