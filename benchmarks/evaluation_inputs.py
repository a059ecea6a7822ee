"""Inputs of benchmarks.evaluation: real prompts, and a tiny LLaMA with a LoRA adapter whose answers have many lengths.

A model with random weights repeats a token, so no answer would end before the limit. So the base is trained for a minute:
it counts down from a number that depends on the first letter of the question, and answers BoolQ in the sentence of the
data set.
"""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pipeline.adapters import add_adapter
from pipeline.data.fetch import fetch_split
from pipeline.data.rows import RawFile
from pipeline.models.base import load_base
from pipeline.models.train import train
from pipeline.params.base import Training
from pipeline.params.reading import read_card
from pipeline.params.templates import build_prompt
from pipeline.prompts.write import SCHEMA, write_prompts

LORA = {"kind": "peft", "peft_type": "LORA", "r": 32, "lora_alpha": 64, "lora_dropout": 0.05}
LORA["target_modules"] = ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"]
SIZES = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4, "num_attention_heads": 4}
LARGE = {"hidden_size": 1536, "intermediate_size": 4096, "num_hidden_layers": 16, "num_attention_heads": 16}
TEMPLATES = ("strict", "paper-eval")


def make_model(data_root: Path, folder: Path, *, steps: int) -> tuple[Path, Path]:
    """Return the folders of base and adapter; train them if they do not exist."""
    adapter = folder / "adapter"
    if adapter.exists():
        return folder / "base", adapter
    rows = _training_rows(data_root)
    prompts, start = folder / "training.parquet", folder / "start"
    start.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), prompts)
    _train_tokenizer(row["prompt"] + row["response"] for row in rows).save_pretrained(start)
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=2048, **SIZES)).save_pretrained(start)
    _train_model(start, prompts, {"kind": "full"}, folder / "base", steps)
    _train_model(folder / "base", prompts, LORA, adapter, 10 + steps // 10)
    return folder / "base", adapter


def make_large_base(tokenizer: Any, folder: Path, *, count: int) -> tuple[Path, list[Path]]:
    """Write a large base with random weights and ``count`` LoRA adapters of it; return their folders."""
    base = folder / "base"
    if not base.exists():
        tokenizer.save_pretrained(base)
        torch.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(vocab_size=2048, **LARGE)).save_pretrained(base)
    adapters = [folder / f"adapter{number}" for number in range(count)]
    for number, adapter in enumerate(adapters):
        model, _ = load_base(base)
        settings = {**LORA, "init_lora_weights": False}
        add_adapter(model, settings, architecture="llama", seed=number).save_pretrained(adapter)
    return base, adapters


def _training_rows(data_root: Path) -> list[dict[str, Any]]:
    arithmetic = [
        (row["question"], _count_down(row["question"]))
        for row in _read_training_rows(data_root / "raw/gsm8k")
    ]
    boolean = [(row["instruction"], row["output"]) for row in _read_training_rows(data_root / "boolq")[:2500]]
    rows = []
    for number, (question, response) in [*enumerate(arithmetic), *enumerate(boolean)]:
        prompt = build_prompt(question, template=TEMPLATES[number % 2])
        texts = {"id": str(number), "prompt": prompt, "response": response}
        rows.append({**dict.fromkeys(SCHEMA.names, ""), "choices": [], **texts})
    return rows


def _read_training_rows(folder: Path) -> list[dict[str, Any]]:
    with gzip.open(folder / "train.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _count_down(question: str) -> str:
    first = question.strip()[0].lower()
    start = max(3, 10 + 5 * (ord(first) - ord("a"))) if first.isalpha() else 60
    return " ".join(map(str, range(start, -1, -1)))


def _train_tokenizer(texts: Any) -> PreTrainedTokenizerFast:
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    special = ["<unk>", "<s>", "</s>"]
    words.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=2048, special_tokens=special, show_progress=False)
    )
    words.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def _train_model(base: Path, prompts: Path, method: dict[str, Any], output: Path, steps: int) -> None:
    training = Training(
        max_steps=steps,
        epochs=None,
        warmup_steps=steps // 10,
        learning_rate=3e-3,
        cutoff_len=512,
        train_on_inputs=False,
        save_steps=10**6,
    )
    train(
        base,
        prompts,
        method=method,
        training=training,
        seed=0,
        output=output,
        validation=None,
        manifest={},
        device="cpu",
    )


def write_task(task: str, template: str, data_root: Path, folder: Path, *, limit: int) -> Path:
    """Write a sample of a task's test prompts in a template; return the file."""
    card = read_card("datasets", task)
    raw, output = folder / f"{task}.jsonl", folder / f"{task}-{template}-{limit}.parquet"
    fetch_split(task, "test", card.splits["test"].model_dump(), output=raw, data_root=data_root)
    source = RawFile(dataset=task, split="test", path=raw, answer_form=card.answer_form)
    write_prompts([source], template=template, output=output, limit=limit, sample_seed=0)
    return output


def prompts_of_length(tokenizer: Any, texts: Sequence[str], tokens: int, rows: int) -> list[list[int]]:
    """Return ``rows`` prompts of exactly ``tokens`` tokens: real prompts, joined and cut at the front."""
    prompts = []
    for row in range(rows):
        ids: list[int] = []
        for number in range(len(texts)):
            ids = tokenizer(texts[(row + number) % len(texts)], add_special_tokens=False)["input_ids"] + ids
            if len(ids) >= tokens:
                break
        prompts.append([tokenizer.bos_token_id, *ids[len(ids) - tokens + 1 :]])
    return prompts
