"""Speed of generation and likelihoods compared with a loop of ``model.generate`` and with lm-eval, and how it scales.

The model is a tiny LLaMA with a LoRA adapter (benchmarks.evaluation_inputs), in float32; prompts are from SVAMP and BoolQ.
All run in turn in a single process with a single thread. Our time is that of the ``generate`` stage, which loads the model
and writes files; the time of the alternatives is that of calls with the model loaded. The benchmark fails if a text
differs, or a log-likelihood by more than 1e-4.

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
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from benchmarks.evaluation_figure import Cell, draw_scaling
from benchmarks.evaluation_inputs import make_large_base, make_model, prompts_of_length, write_task
from benchmarks.measure import Seconds, median_time, peak_mib, reset_peak_mib, time_call
from pipeline.adapters.precision import compute_in
from pipeline.core.io import read_jsonl
from pipeline.evaluate.generation import decoding
from pipeline.evaluate.generation.generate import generate, generate_group
from pipeline.evaluate.generation.loading import load_model
from pipeline.evaluate.generation.rows import GenerationRequest, GenerationTask, LikelihoodAnswer, TextAnswer
from pipeline.evaluate.generation.text_answers import encode_prompts
from pipeline.params.reading import read_card
from pipeline.params.resolve import answer_form_of
from pipeline.prompts.write import read_prompts

PARTS = ("loop", "until", "loglikelihood", "scaling", "loads", "changes")
TASKS = ("svamp", "boolq")
# the part scaling: rows of a batch, tokens of a prompt, new tokens
SIZES = (1, 4, 16, 64)
LENGTHS = (64, 256, 512)
NEW_TOKENS = 32
# adapters of the part loads
ADAPTERS = 4
FIGURE = Path("docs/figures/evaluation-scaling.png")


def main() -> None:
    """Run the chosen parts and print their tables."""
    options = parse_options()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(options, options.work or Path(temporary))
        if options.cells:
            print(json.dumps(bench.measure_cells()))
            return
        bench.describe()
        for part in options.part or PARTS:
            getattr(bench, part)()


def parse_options() -> argparse.Namespace:
    """Return the command's options."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--part", choices=PARTS, action="append", help="run this part only; may be repeated")
    parser.add_argument("--work", type=Path, help="folder that keeps the trained tiny model for later runs")
    parser.add_argument("--steps", type=int, default=100, help="training steps of the tiny model")
    parser.add_argument("--examples", type=int, default=300, help="examples of each task")
    parser.add_argument("--loop-examples", type=int, default=10, help="examples for the slow loop")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--batch-sizes", type=int, nargs="+", default=[8, 16, 32, 64, 128], help="batch sizes of lm-eval"
    )
    parser.add_argument(
        "--device", default="cpu", choices=["cpu", "cuda"], help="device of the parts scaling and changes"
    )
    parser.add_argument(
        "--dtype", default="float32", choices=["float32", "bfloat16"], help="dtype of the part changes"
    )
    # for Bench.scaling, which measures in a new process
    parser.add_argument("--cells", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


class Bench:
    """The tiny model, its prompts and the parts of the benchmark."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.base, self.adapter = make_model(options.data_root, folder, steps=options.steps)
        self.model, self.tokenizer = load_model(self.base, self.adapter, "float32", "cpu")

    def describe(self) -> None:
        """Print the machine and the model."""
        count = sum(parameter.numel() for parameter in self.model.parameters())
        load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
        print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load average {load}")
        print(f"torch {torch.__version__}; LLaMA with LoRA, {count:,} parameters")

    def make_task(self, task: str, protocol: str) -> GenerationTask:
        """Return a task under a protocol as the input of the generate stage."""
        card = read_card("protocols", protocol)
        prompts = write_task(
            task, card.template, self.options.data_root, self.folder, limit=self.options.examples
        )
        decoding = card.decoding(answer_form_of(task), max_new_tokens=None)
        name = f"{task}-{protocol}"
        return GenerationTask(name, prompts, decoding, fingerprint=name)

    def generate_texts(self, task: GenerationTask, *, bare: Path | None = None) -> list[TextAnswer]:
        """Run the stage on one task, for the model or for a bare base; return its rows."""
        rows: list[TextAnswer] = self._run_stage(task, bare)
        return rows

    def score_choices(self, task: GenerationTask) -> list[LikelihoodAnswer]:
        """Run the stage on one task of a likelihood protocol; return its rows."""
        rows: list[LikelihoodAnswer] = self._run_stage(task, None)
        return rows

    def _run_stage(self, task: GenerationTask, bare: Path | None) -> Any:
        output = self.folder / "answers" / "ours"
        shutil.rmtree(output.parent, ignore_errors=True)
        adapter = None if bare else self.adapter
        request = GenerationRequest(task.name, adapter, (task,), output, siblings=output.parent)
        generate(bare or self.base, request, device="cpu", manifest={})
        return read_jsonl(output / f"{task.name}.jsonl")

    # -- against a loop ------------------------------------------------------------------------------------------------

    def loop(self) -> None:
        """Compare ``paper`` with a loop of model.generate over single examples, without a cache."""
        print(
            "\n| paper | n (loop) | CPU s an example, ours | loop | ratio, CPU | wall | same texts | new tokens |"
        )
        print("|---|---|---|---|---|---|---|---|", flush=True)
        untrained_base = self.folder / "start"
        untrained, _ = load_model(untrained_base, None, "float32", "cpu")
        for name in TASKS:
            task = self.make_task(name, "paper")
            self.compare_with_loop(name, self.model, task)
            merged = replace(task, decoding={**task.decoding, "merge_adapter": True})
            self.compare_with_loop(f"{name}, merge_adapter", self.model, merged)
            self.compare_with_loop(f"{name}, an untrained base", untrained, task, bare=untrained_base)

    def compare_with_loop(
        self, label: str, model: Any, task: GenerationTask, *, bare: Path | None = None
    ) -> None:
        """Print a row of the table; the loop generates for a sample of all prompt lengths."""
        rows, our_time = time_call(partial(self.generate_texts, bare=bare), task)
        ids, config = self.encode_task(model, task)
        by_length = sorted(range(len(ids)), key=[len(row) for row in ids].__getitem__)
        sample = by_length[:: max(1, len(ids) // self.options.loop_examples)][: self.options.loop_examples]
        texts, loop_time = time_call(
            self.generate_one_by_one, model, [ids[index] for index in sample], config
        )
        equal_texts = sum(rows[index]["text"] == text for index, text in zip(sample, texts, strict=True))
        ours = Seconds(*(seconds / len(rows) for seconds in our_time))
        loop = Seconds(*(seconds / len(sample) for seconds in loop_time))
        lengths = statistics.quantiles([row["tokens"] for row in rows], n=4)
        print(
            f"| {label} | {len(rows)} ({len(sample)}) | {ours.cpu:.3f} | {loop.cpu:.2f} | {loop.cpu / ours.cpu:.1f} "
            f"| {loop.wall / ours.wall:.1f} | {equal_texts} of {len(sample)} | {lengths} |",
            flush=True,
        )
        if equal_texts < len(sample):
            raise SystemExit("the texts differ")

    def encode_task(self, model: Any, task: GenerationTask) -> tuple[list[list[int]], Any]:
        """Return a task's prompts as tokens, and the decoding config that both sides use."""
        limit, beams = task.decoding["max_new_tokens"], task.decoding["num_beams"]
        config = decoding.configure_decoding(model, self.tokenizer, max_new_tokens=limit, num_beams=beams)
        return encode_prompts(model, self.tokenizer, read_prompts(task.prompts), limit)[0], config

    def generate_one_by_one(self, model: Any, prompts: list[list[int]], config: Any) -> list[str]:
        """Return the texts of the published procedure, without its padding."""
        texts = []
        for ids in prompts:
            with torch.inference_mode():
                out = model.generate(
                    input_ids=torch.tensor([ids]),
                    attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                    generation_config=config,
                    use_cache=False,
                )
            texts.append(self.tokenizer.decode(out.sequences[0, len(ids) :], skip_special_tokens=True))
        return texts

    # -- against lm-eval -----------------------------------------------------------------------------------------------

    def until(self) -> None:
        """Compare ``strict`` with lm-eval's generate_until."""
        for name in TASKS:
            task = self.make_task(name, "strict")
            limits = {
                "until": [self.tokenizer.eos_token],
                "max_gen_toks": task.decoding["max_new_tokens"],
            }
            requests = [(row["prompt"], limits) for row in read_prompts(task.prompts)]

            def texts(task: GenerationTask = task) -> list[str]:
                return [row["text"] for row in self.generate_texts(task)]

            if not self.compare_with_harness(f"generate_until, {name}", texts, requests):
                raise SystemExit("the texts differ")

    def loglikelihood(self) -> None:
        """Compare ``likelihood`` with lm-eval's loglikelihood."""
        task = self.make_task("boolq", "likelihood")
        requests = [
            (row["prompt"], text) for row in self.score_choices(task) for text in row["continuations"]
        ]

        def values() -> list[float | None]:
            return [value for row in self.score_choices(task) for value in row["loglikelihoods"]]

        if not self.compare_with_harness("loglikelihood, boolq", values, requests):
            raise SystemExit("the log-likelihoods differ")

    def compare_with_harness(
        self, label: str, run_ours: Callable[[], list[Any]], requests: Sequence[tuple[Any, ...]]
    ) -> bool:
        """Print lm-eval's time at each batch size, then compare its fastest with ours in turn; return whether results are equal."""
        kind = label.partition(",")[0]
        by_size = {
            size: time_call(self.run_harness, kind, requests, size)[1] for size in self.options.batch_sizes
        }
        best = min(by_size, key=lambda size: by_size[size].cpu)
        print(
            f"\n{label}: lm-eval's CPU seconds by batch size, once:",
            {size: round(seconds.cpu, 2) for size, seconds in by_size.items()},
        )
        our_times, harness_times = [], []
        for _ in range(self.options.rounds):
            our_results, seconds = time_call(run_ours)
            our_times.append(seconds)
            harness_results, seconds = time_call(self.run_harness, kind, requests, best)
            harness_times.append(seconds)
        equal = are_equal(our_results, harness_results)
        pairs = list(zip(our_times, harness_times, strict=True))
        cpu_ratio = statistics.median(harness.cpu / ours.cpu for ours, harness in pairs)
        wall_ratio = statistics.median(harness.wall / ours.wall for ours, harness in pairs)
        print(
            "| | n | CPU s, ours | lm-eval | ratio, CPU | ratio, wall | identical |\n|---|---|---|---|---|---|---|"
        )
        print(
            f"| {label}, batch size {best} | {self.options.examples} | {median_time(our_times).cpu:.2f} "
            f"| {median_time(harness_times).cpu:.2f} | {cpu_ratio:.2f} | {wall_ratio:.2f} | {equal} |",
            flush=True,
        )
        return equal

    def run_harness(self, kind: str, requests: Sequence[tuple[Any, ...]], batch_size: int) -> list[Any]:
        """Return lm-eval's texts, or its log-likelihoods, on the loaded model."""
        instance = import_module("lm_eval.api.instance").Instance
        lm = import_module("lm_eval.models.huggingface").HFLM(
            pretrained=self.model, tokenizer=self.tokenizer, batch_size=batch_size
        )
        instances = [instance(kind, {}, arguments, number) for number, arguments in enumerate(requests)]
        results: list[Any] = getattr(lm, kind)(instances, disable_tqdm=True)
        return [value for value, _ in results] if kind == "loglikelihood" else results

    # -- scaling -------------------------------------------------------------------------------------------------------

    def scaling(self) -> None:
        """Print and draw examples per second and memory by batch size and prompt length, measured in a new process."""
        # freed blocks return to the system at once, so that the resident size is the memory in use
        environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
        command = [
            sys.executable,
            "-m",
            "benchmarks.evaluation",
            "--cells",
            f"--device={self.options.device}",
        ]
        command += [f"--data-root={self.options.data_root}", f"--work={self.folder}"]
        process = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        cells = [Cell(*values) for values in json.loads(process.stdout.splitlines()[-1])]
        print("\n| prompt tokens | rows | examples/s | peak MiB above the model |\n|---|---|---|---|")
        for cell in cells:
            print(f"| {cell.prompt_tokens} | {cell.rows} | {cell.rate:.2f} | {cell.peak_mib:.0f} |")
        draw_scaling(cells, FIGURE)

    def measure_cells(self) -> list[Cell]:
        """Return the rate and memory of each batch size and prompt length."""
        device = self.options.device
        model = self.model.to(device)
        texts = [row["prompt"] or "" for row in read_prompts(self.make_task("svamp", "strict").prompts)]
        config = decoding.configure_decoding(model, self.tokenizer, max_new_tokens=NEW_TOKENS, num_beams=1)
        # not a token, so that no row ends early
        config.eos_token_id = [model.config.vocab_size]
        cells = []
        for length, size in itertools.product(LENGTHS, SIZES):
            prompts = prompts_of_length(self.tokenizer, texts, length, size)
            decoding.decode(model, prompts, config)
            before = reset_peak_mib(device)
            times = [
                time_call(decoding.decode, model, prompts, config)[1] for _ in range(self.options.rounds)
            ]
            seconds = median_time(times)
            rate = size / (seconds.cpu if device == "cpu" else seconds.wall)
            cells.append(Cell(length, size, rate, peak_mib(device) - before))
        return cells

    # -- one load of a base --------------------------------------------------------------------------------------------

    def loads(self) -> None:
        """Print the time of several adapters of a larger base, loading it for each adapter and once for all."""
        folder = self.folder / "large"
        base, adapters = make_large_base(self.tokenizer, folder, count=ADAPTERS)
        task = self.make_task("svamp", "strict")
        task = replace(task, decoding={**task.decoding, "max_new_tokens": 1, "batch_tokens": 2048})

        def make_requests(name: str) -> list[GenerationRequest]:
            shutil.rmtree(folder / name, ignore_errors=True)
            outputs = [folder / name / str(number) / "answers" for number in range(ADAPTERS)]
            return [
                GenerationRequest(f"{name} {number}", adapter, (task,), output, siblings=output.parent)
                for number, (adapter, output) in enumerate(zip(adapters, outputs, strict=True))
            ]

        def generate_each(requests: list[GenerationRequest]) -> list[Any]:
            for request in requests:
                generate(base, request, device="cpu", manifest={})
            return [read_jsonl(request.output / f"{task.name}.jsonl") for request in requests]

        def load_each() -> list[Any]:
            return generate_each(make_requests("alone"))

        def load_once() -> list[Any]:
            requests = make_requests("group")
            generate_group(base, requests, device="cpu")
            return generate_each(requests)

        gib = sum(file.stat().st_size for file in base.glob("*.safetensors")) / 2**30
        print(
            f"\n{ADAPTERS} adapters of a base of {gib:.1f} GiB, {self.options.examples} questions, a token each"
        )
        print("| | wall s | CPU s |\n|---|---|---|")
        times: dict[str, list[Seconds]] = {"a load each": [], "one load": []}
        for _ in range(self.options.rounds):
            results = []
            for label, function in zip(times, (load_each, load_once), strict=True):
                rows, seconds = time_call(function)
                times[label].append(seconds)
                results.append(rows)
            assert results[0] == results[1], "answers differ"
        for label, seconds_list in times.items():
            seconds = median_time(seconds_list)
            print(f"| {label} | {seconds.wall:.1f} | {seconds.cpu:.1f} |", flush=True)

    # -- changed answers -----------------------------------------------------------------------------------------------

    def changes(self) -> None:
        """Print how many greedy answers differ from those of batch size 1, on the given device in the given dtype."""
        model, _ = load_model(self.base, self.adapter, self.options.dtype, self.options.device)
        print(
            f"\n| {self.options.device}, {self.options.dtype} | batch size | changed answers |\n|---|---|---|"
        )
        for name in TASKS:
            ids, config = self.encode_task(model, self.make_task(name, "strict"))
            ids.sort(key=len, reverse=True)

            def decode(batch: list[list[int]], config: Any = config) -> list[list[int]]:
                with compute_in(self.options.dtype, self.options.device):
                    return decoding.decode(model, batch, config)

            alone = [decode([row])[0] for row in ids]
            for size in (8, 64):
                batches = [ids[start : start + size] for start in range(0, len(ids), size)]
                batched = [new for batch in batches for new in decode(batch)]
                changed = sum(a != b for a, b in zip(alone, batched, strict=True))
                print(f"| {name} | {size} | {changed} of {len(ids)} |", flush=True)


def are_equal(ours: Sequence[Any], expected: Sequence[Any]) -> bool:
    """Return whether texts are equal and log-likelihoods within 1e-4."""
    if len(ours) != len(expected):
        return False
    pairs = zip(ours, expected, strict=True)
    return all(abs(a - b) <= 1e-4 if isinstance(a, float) else a == b for a, b in pairs)


if __name__ == "__main__":
    main()
