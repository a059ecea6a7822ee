"""Tokens per second of ``pipeline.models.train`` compared with transformers' Trainer, and where our time goes.

Both train the same base (LLaMA, 4 M parameters) with the same peft LoRA (r 32 on q, k, v, up, down), on the same rows
(GSM8K's training set in our prompt template) and with the same number of examples per step. They run in turn in a single
process with a single thread. Padding tokens do not count. The Trainer has its default settings (batches in random order,
padded to the longest), with two micro-batch sizes: the full step at once, and the published 4 examples.

    python -m benchmarks.training --data-root DIRECTORY       # DIRECTORY/raw/gsm8k/train.jsonl.gz
"""

import argparse
import gzip
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    DataCollatorForSeq2Seq,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from pipeline.adapters import add_adapter
from pipeline.models import batches
from pipeline.models import loss as our_loss
from pipeline.models import train as our_training
from pipeline.models.base import load_base
from pipeline.params.base import Training
from pipeline.params.templates import build_prompt
from pipeline.prompts.encode import encode
from pipeline.prompts.write import SCHEMA, read_prompts

LORA = {"kind": "peft", "peft_type": "LORA", "r": 32, "lora_alpha": 64, "lora_dropout": 0.05}
LORA["target_modules"] = ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"]
# the first steps are not measured
WARM_STEPS = 3


def main() -> None:
    """Run the comparison and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=25, help="measured steps a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--cutoff-len", type=int, default=512)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        base, prompts = Path(folder) / "base", Path(folder) / "prompts.parquet"
        print_inputs(make_inputs(options.data_root, base, prompts), base)
        training = Training(
            batch_size=options.batch_size,
            epochs=None,
            max_steps=options.steps + WARM_STEPS,
            cutoff_len=options.cutoff_len,
            logging_steps=1,
            save_steps=10**6,
        )
        compare_trainers(base, prompts, training, rounds=options.rounds)
        print_phases(base, prompts, training)


def make_inputs(data_root: Path, base: Path, prompts: Path) -> list[dict[str, str]]:
    """Write prompts of GSM8K's training rows and a random LLaMA with a tokenizer trained on them."""
    with gzip.open(data_root / "raw" / "gsm8k" / "train.jsonl.gz", "rt", encoding="utf-8") as lines:
        raw = [json.loads(line) for line in lines]
    rows = [
        {"prompt": build_prompt(row["question"], template="strict"), "response": row["answer"]} for row in raw
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), prompts)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2048, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False
    )
    tokenizer.train_from_iterator((row["prompt"] + row["response"] for row in rows), trainer)
    fast_tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    fast_tokenizer.save_pretrained(base)
    sizes = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4, "num_attention_heads": 4}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=2048, **sizes)).save_pretrained(base)
    return rows


def print_inputs(rows: list[dict[str, str]], base: Path) -> None:
    """Print the machine, the base and the rows."""
    model, tokenizer = load_base(base)
    lengths = sorted(len(encode(tokenizer, row["prompt"] or "", row["response"])[0]) for row in rows)
    quantiles = [lengths[int(len(lengths) * part)] for part in (0.05, 0.5, 0.95)]
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, one thread; torch {torch.__version__}"
    )
    print(f"base: {sum(parameter.numel() for parameter in model.parameters()):,} parameters")
    print(f"rows: {len(rows)}; tokens at the 5, 50 and 95 % quantiles: {quantiles}\n")


def compare_trainers(base: Path, prompts: Path, training: Training, *, rounds: int) -> None:
    """Run all in turn; print medians and ratios of wall time and of CPU time, which other processes affect less."""
    batch = training.batch_size
    runs: dict[str, Callable[[], dict[str, float]]] = {
        "pipeline.models.train": lambda: run_ours(base, prompts, training),
        f"Trainer, {batch} at once": lambda: run_trainer(base, prompts, training, micro=batch),
        f"Trainer, {batch // 4} x 4": lambda: run_trainer(base, prompts, training, micro=4),
    }
    results: dict[str, list[dict[str, float]]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            results[name].append(run())
    print(f"{'':24}{'tokens/s':>10}{'tokens/CPU-s':>14}{'padding':>9}{'ratio (wall)':>14}{'ratio (CPU)':>13}")
    ours = results["pipeline.models.train"]
    for name, measured in results.items():
        wall, cpu, padding = (
            statistics.median(result[key] for result in measured) for key in ("wall", "cpu", "padding")
        )
        ratios = [
            statistics.median(a[key] / b[key] for a, b in zip(ours, measured, strict=True))
            for key in ("wall", "cpu")
        ]
        print(f"{name:24}{wall:10.0f}{cpu:14.0f}{padding:9.1%}{ratios[0]:14.2f}{ratios[1]:13.2f}")


class Meter:
    """Counts tokens with and without padding, and measures the time from the end of the warm steps to the end of the last."""

    def __init__(self, total: int) -> None:
        self.total, self.step, self.real, self.padded = total, 0, 0, 0
        self.start = (0.0, 0.0)
        self.result: dict[str, float] = {}

    def count(self, mask: torch.Tensor) -> None:
        """Count the tokens of a micro-batch with this attention mask (examples, tokens)."""
        self.real, self.padded = self.real + int(mask.sum()), self.padded + mask.numel()

    def end_step(self) -> None:
        """Count an optimizer step."""
        self.step += 1
        now = (time.perf_counter(), time.process_time())
        if self.step == WARM_STEPS:
            self.start, self.real, self.padded = now, 0, 0
        if self.step == self.total:
            wall, cpu = (now[i] - self.start[i] for i in (0, 1))
            self.result = {
                "wall": self.real / wall,
                "cpu": self.real / cpu,
                "padding": 1 - self.real / self.padded,
            }


def run_ours(base: Path, prompts: Path, training: Training) -> dict[str, float]:
    """Train with ``pipeline.models.train``; return tokens per second, tokens per CPU second and the share of padding."""
    meter = Meter(training.max_steps or 0)
    collate = batches.collate

    def collate_and_count(*args: Any, **kwargs: Any) -> Any:
        batch = collate(*args, **kwargs)
        meter.count(batch[1])
        return batch

    with tempfile.TemporaryDirectory() as folder, mock.patch.object(our_loss, "collate", collate_and_count):
        our_training.train(
            base,
            prompts,
            method=LORA,
            training=training,
            seed=0,
            output=Path(folder) / "adapter",
            validation=None,
            manifest={},
            device="cpu",
            on_log=lambda row: meter.end_step(),
        )
    return meter.result


def run_trainer(base: Path, prompts: Path, training: Training, *, micro: int) -> dict[str, float]:
    """Train with transformers' Trainer; return tokens per second, tokens per CPU second and the share of padding."""
    model, tokenizer = load_base(base)
    adapted = add_adapter(model, LORA, architecture="llama", seed=0)
    data = []
    for row in read_prompts(prompts):
        ids, labels = encode(tokenizer, row["prompt"] or "", row["response"], cutoff_len=training.cutoff_len)
        data.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels})
    meter = Meter(training.max_steps or 0)
    collator = DataCollatorForSeq2Seq(tokenizer)

    def collate_and_count(features: Any) -> Any:
        batch = collator(features)
        meter.count(batch["attention_mask"])
        return batch

    class Steps(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            meter.end_step()

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=training.batch_size // micro,
            max_steps=training.max_steps,
            learning_rate=training.learning_rate,
            warmup_steps=training.warmup_steps,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        Trainer(
            adapted, arguments, train_dataset=data, data_collator=collate_and_count, callbacks=[Steps()]
        ).train()
    return meter.result


def print_phases(base: Path, prompts: Path, training: Training) -> None:
    """Print the share of each part of a step in our training."""
    spent: dict[str, float] = {}
    with ExitStack() as patches:
        for name, owner, attribute in (
            ("whole", our_training, "_run_steps"),
            ("split", our_loss, "split_into_micro_batches"),
            ("collate", batches, "collate"),
            ("forward and loss", our_loss, "summed_loss"),
            ("backward", torch.Tensor, "backward"),
            ("clip", our_training, "clip_grad_norm_"),
            ("AdamW", torch.optim.AdamW, "step"),
        ):
            patches.enter_context(add_time(owner, attribute, spent, name))
        run_ours(base, prompts, training)
    whole = spent.pop("whole")
    spent["forward and loss"] -= spent["collate"]
    spent["rest"] = whole - sum(spent.values())
    print("\nwhere our time goes: " + ", ".join(f"{name} {part / whole:.1%}" for name, part in spent.items()))


@contextmanager
def add_time(owner: Any, attribute: str, spent: dict[str, float], name: str) -> Iterator[None]:
    """Add the time within ``owner.attribute`` to ``spent[name]``."""
    function = getattr(owner, attribute)

    def timed_function(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        result = function(*args, **kwargs)
        spent[name] = spent.get(name, 0.0) + time.perf_counter() - started
        return result

    with mock.patch.object(owner, attribute, timed_function):
        yield


if __name__ == "__main__":
    main()
