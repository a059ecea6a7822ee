"""Pretraining of tiny base models: on the built-in world, or on real text with a tokenizer trained on it.

One plain loop, seeded, on one thread: two runs on one machine give equal bytes (other processors' kernels may differ in
the last bits).
"""

import math
import os
import random
import shutil
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.core.environment import run_info
from pipeline.core.errors import UserError
from pipeline.core.io import atomic_directory, read_json, write_json, write_jsonl
from pipeline.core.progress import progress_bar
from pipeline.models.look_back import favour_look_back

SHIPPED = Path(__file__).resolve().parents[2] / "data" / "shipped"
REBUILD = "PIPELINE_REBUILD_BASES"
START, END = "<s>", "</s>"
PADDING = 64  # documents tokenized at a time


def pretrain(
    recipe: Mapping[str, Any], *, corpus: Sequence[Path], output: Path, manifest: Mapping[str, Any]
) -> None:
    """Write a base model that transformers loads, made by a recipe.

    Where data/shipped/ holds the model of the same fingerprint it is copied, unless the environment has
    PIPELINE_REBUILD_BASES=1.

    Args:
        recipe: architecture ("llama", "bloom", "gptj"), config (fields of its transformers config), tokenizer
            (kind "world", or kind "bpe" with vocab_size), pretraining (steps, batch_size and length in tokens,
            learning_rate, warmup_steps, weight_decay, seed, world_seed, label_weight, look_back).
        corpus: prompts files of real text; empty: the built-in world.
        output: the directory to make.
        manifest: written with it; its "fingerprint" names the recipe.

    Raises:
        UserError: a recipe of real text without files, or text too short for one row.
    """
    started = time.time()
    shipped = _shipped(str(manifest["fingerprint"]))
    with atomic_directory(output) as folder:
        if shipped and os.environ.get(REBUILD) != "1":
            shutil.copytree(shipped, folder, dirs_exist_ok=True)
        else:
            torch.set_num_threads(1)
            tokenizer = make_tokenizer(recipe["tokenizer"], corpus)
            model, history = _fit(recipe, tokenizer, corpus)
            model.half().save_pretrained(folder)  # half precision: the loader makes it whole again
            tokenizer.save_pretrained(folder)
            write_jsonl(folder / "history.jsonl", history)
        write_json(folder / "manifest.json", dict(manifest))
        write_json(folder / "run.json", run_info(started=started, device="cpu", shipped=bool(shipped)))


def _shipped(fingerprint: str) -> Path | None:
    for path in sorted(SHIPPED.glob("*/manifest.json")):
        if read_json(path).get("fingerprint") == fingerprint:
            return path.parent
    return None


def make_tokenizer(settings: Mapping[str, Any], corpus: Sequence[Path]) -> Any:
    """Return the world's word tokenizer, or a byte-level BPE tokenizer trained on the corpus."""
    if settings["kind"] == "world":
        from pipeline.data.world.tokenizer import build_tokenizer

        return build_tokenizer()
    if not corpus:
        raise UserError("a base with a 'bpe' tokenizer needs a corpus: name training sets in its card")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<unk>", START, END, "<pad>"]
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=settings["vocab_size"],
        special_tokens=special,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    sample = random.Random(0).sample(
        texts := [text for path in corpus for text in _texts(path)],
        min(len(texts), settings.get("sample", 20000)),
    )
    made.train_from_iterator(sample, trainer)
    made.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", special_tokens=[(START, special.index(START))]
    )
    names = dict(zip(("unk_token", "bos_token", "eos_token", "pad_token"), special, strict=True))
    return PreTrainedTokenizerFast(
        tokenizer_object=made, model_input_names=["input_ids", "attention_mask"], **names
    )


def _texts(path: Path) -> list[str]:
    import pyarrow.parquet as pq

    rows = pq.read_table(path, columns=["prompt", "response"]).to_pylist()
    return [row["prompt"] + row["response"] for row in rows]


def documents(
    recipe: Mapping[str, Any], tokenizer: Any, corpus: Sequence[Path]
) -> Generator[list[int], float | None, None]:
    """Yield token ids of documents for ever, each between its start and end token; send() tells the progress (0 to 1)."""
    settings = recipe["pretraining"]
    rng = random.Random(settings["seed"])
    progress = 0.0
    if corpus:
        texts = [_texts(path) for path in corpus]
    else:
        from pipeline.data.world.corpus import draw_document
    while True:
        if corpus:
            # each set as often as the others: GSM8K is a twentieth of the rows of the commonsense sets
            drawn = [rng.choice(rng.choice(texts)) for _ in range(PADDING)]
        else:
            stages = {"world_seed": settings["world_seed"], "first_stage": settings.get("first_stage", 0)}
            drawn = [draw_document(rng, progress, **stages) for _ in range(PADDING)]
        for ids in tokenizer(drawn, add_special_tokens=False)["input_ids"]:
            progress = (yield [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]) or progress


def _batches(recipe: Mapping[str, Any], tokenizer: Any, corpus: Sequence[Path]) -> Iterator[torch.Tensor]:
    """Yield rows of token ids, shape (rows, length): documents one after the other, a row beginning with one."""
    settings = recipe["pretraining"]
    steps, length = settings["steps"], settings["length"]
    drawn = documents(recipe, tokenizer, corpus)
    next(drawn)
    for step in range(steps):
        rows = []
        for _ in range(settings["batch_tokens"] // length):
            row: list[int] = []
            while len(row) < length:
                row += drawn.send(step / steps)
            rows.append(row[:length])
        yield torch.tensor(rows)


def make_model(recipe: Mapping[str, Any], tokenizer: Any) -> nn.Module:
    """Return a model of the recipe's architecture with random weights, drawn from its seed."""
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = recipe["pretraining"]
    special = {key: getattr(tokenizer, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = AutoConfig.for_model(
        recipe["architecture"], vocab_size=len(tokenizer), **recipe["config"], **special
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings["seed"])
        model: nn.Module = AutoModelForCausalLM.from_config(config)
    if settings.get("look_back"):
        favour_look_back(model, recipe["architecture"], seed=settings["seed"])
    return model


def _fit(
    recipe: Mapping[str, Any], tokenizer: Any, corpus: Sequence[Path]
) -> tuple[Any, list[dict[str, float]]]:
    settings = recipe["pretraining"]
    model = make_model(recipe, tokenizer).train()
    matrices = [one for one in model.parameters() if one.dim() > 1]
    vectors = [one for one in model.parameters() if one.dim() <= 1]
    groups = [
        {"params": matrices, "weight_decay": settings["weight_decay"]},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=settings["learning_rate"], betas=(0.9, 0.98), fused=True)
    steps, warmup = settings["steps"], settings["warmup_steps"]

    def rate(step: int) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
        return float(min((step + 1) / warmup, max(0.02, cosine)))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    weights = _weights(recipe, len(tokenizer))
    history: list[dict[str, float]] = []
    smooth: torch.Tensor | None = None
    with progress_bar(steps, label="pretraining", unit="steps") as bar:
        for step, ids in enumerate(_batches(recipe, tokenizer, corpus), start=1):
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
            weight = weights[0] if step <= settings.get("first_stage", 0) * steps else weights[1]
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), weight=weight)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad(set_to_none=True)
            smooth = loss.detach() if smooth is None else 0.98 * smooth + 0.02 * loss.detach()
            bar.update()
            if step % settings["logging_steps"] == 0 or step == steps:
                rate_now = float(scheduler.get_last_lr()[0])
                history.append({"step": step, "loss": round(float(smooth), 6), "learning_rate": rate_now})
                bar.set_postfix(loss=round(float(smooth), 3), refresh=False)
    return model.eval(), history


def _weights(recipe: Mapping[str, Any], size: int) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Loss weights of tokens in the first stage and after it: labels weigh more, or all the same."""
    settings = recipe["pretraining"]
    if "label_weight" not in settings:
        return None, None
    from pipeline.data.world.tokenizer import label_token_ids

    first, later = torch.ones(size), torch.ones(size)
    first[label_token_ids()] = settings["label_weight"]
    later[label_token_ids()] = settings.get("later_label_weight", 1.0)
    return first, later
