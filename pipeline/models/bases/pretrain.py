"""Pretraining of tiny base models: on the built-in world, or on real text with a tokenizer trained on it.

One plain, seeded loop on one thread: two runs on one machine give equal bytes (the kernels of other processors may
differ in the last bits).
"""

import math
import os
import random
import shutil
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import nn

from pipeline.core.environment import run_info
from pipeline.core.errors import UserError
from pipeline.core.io import atomic_directory, read_json, write_json, write_jsonl
from pipeline.core.progress import progress_bar
from pipeline.models.bases.look_back import favour_look_back
from pipeline.models.optimizer import parameter_groups
from pipeline.params.recipes import BpeTokenizer, PretrainingRecipe, PretrainingSettings, WorldTokenizer

SHIPPED = Path(__file__).resolve().parents[3] / "data" / "shipped"
REBUILD = "PIPELINE_REBUILD_BASES"
START, END = "<s>", "</s>"
# documents that are drawn and tokenized at a time
DOCUMENTS_AT_ONCE = 64
# share of the peak learning rate below which the schedule does not fall
LOWEST_RATE = 0.02


class PretrainingRow(TypedDict):
    """A row of a base's history.jsonl."""

    # optimizer steps so far
    step: int
    # weighted mean loss per token, as a moving average over steps
    loss: float
    learning_rate: float


def pretrain(
    recipe: PretrainingRecipe,
    *,
    corpus: Sequence[Path],
    output: Path,
    manifest: Mapping[str, object],
    portable: bool | None = None,
) -> None:
    """Pretrain a base model by a recipe and write it in transformers' format.

    If data/shipped/ holds the model of the same fingerprint, it is copied, unless PIPELINE_REBUILD_BASES=1 is set in the
    environment.

    Args:
        recipe: architecture, config, tokenizer and training.
        corpus: prompts files of real text; empty: the built-in world.
        output: the directory to write.
        manifest: written with the model; its "fingerprint" identifies the recipe and the corpus.
        portable: the machine's setting, for run.json; None: not chosen. Its kernels are this process' already.

    Raises:
        UserError: a recipe with a BPE tokenizer and no corpus.
    """
    started = time.time()
    shipped = _find_shipped(str(manifest["fingerprint"]))
    with atomic_directory(output) as folder:
        if shipped and os.environ.get(REBUILD) != "1":
            shutil.copytree(shipped, folder, dirs_exist_ok=True)
        else:
            torch.set_num_threads(1)
            tokenizer = make_tokenizer(recipe.tokenizer, corpus)
            model, history = _pretrain_model(recipe, tokenizer, corpus)
            # stored in half precision; the loader restores full precision
            model.half().save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            write_jsonl(folder / "history.jsonl", history)
        write_json(folder / "manifest.json", dict(manifest))
        machine = {} if portable is None else {"portable": portable}
        info = run_info(started=started, device="cpu", shipped=bool(shipped), machine=machine)
        write_json(folder / "run.json", info)


def _find_shipped(fingerprint: str) -> Path | None:
    for path in sorted(SHIPPED.glob("*/manifest.json")):
        if read_json(path).get("fingerprint") == fingerprint:
            return path.parent
    return None


def make_tokenizer(settings: WorldTokenizer | BpeTokenizer, corpus: Sequence[Path]) -> Any:
    """Return the word tokenizer of the built-in world, or a byte-level BPE tokenizer trained on the corpus.

    Raises:
        UserError: a BPE tokenizer without a corpus.
    """
    if settings.kind == "world":
        from pipeline.data.world.tokenizer import build_tokenizer

        return build_tokenizer()
    if not corpus:
        raise UserError("a base with a 'bpe' tokenizer needs a corpus: name training sets in its card")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<unk>", START, END, "<pad>"]
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [text for path in corpus for text in _read_texts(path)]
    bpe.train_from_iterator(random.Random(0).sample(texts, min(len(texts), settings.sample)), trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", special_tokens=[(START, special.index(START))]
    )
    names = dict(zip(("unk_token", "bos_token", "eos_token", "pad_token"), special, strict=True))
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, model_input_names=["input_ids", "attention_mask"], **names
    )


def _read_texts(path: Path) -> list[str]:
    import pyarrow.parquet as pq

    rows = pq.read_table(path, columns=["prompt", "response"]).to_pylist()
    return [row["prompt"] + row["response"] for row in rows]


def stream_documents(
    settings: PretrainingSettings, tokenizer: Any, corpus: Sequence[Path]
) -> Generator[list[int], float | None, None]:
    """Yield the token ids of documents without end, each with its start and end token.

    ``send`` the share of the training that is done (0 to 1): the world's documents grow harder with it.
    """
    draw = _document_source(settings, corpus)
    done = 0.0
    while True:
        documents = [draw(done) for _ in range(DOCUMENTS_AT_ONCE)]
        for ids in tokenizer(documents, add_special_tokens=False)["input_ids"]:
            done = (yield [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]) or done


def _document_source(settings: PretrainingSettings, corpus: Sequence[Path]) -> Callable[[float], str]:
    """Return a function that draws a document, given the share of the training that is done."""
    rng = random.Random(settings.seed)
    if corpus:
        texts = [_read_texts(path) for path in corpus]
        # each set equally often: GSM8K has a twentieth of the rows of the commonsense sets
        return lambda done: rng.choice(rng.choice(texts))
    from pipeline.data.world.corpus import draw_document

    if settings.world_seed is None:
        raise UserError("pretraining.world_seed: missing; a base without a corpus needs it")
    world_seed = settings.world_seed
    return lambda done: draw_document(rng, done, world_seed=world_seed, first_stage=settings.first_stage)


def _pretraining_batches(
    settings: PretrainingSettings, tokenizer: Any, corpus: Sequence[Path]
) -> Iterator[torch.Tensor]:
    """Yield token ids of shape (rows, length), a batch for each step.

    A row begins with a document, more documents follow, and the last of them is cut.
    """
    documents = stream_documents(settings, tokenizer, corpus)
    # a generator must reach its first yield before it accepts a value; that document is dropped
    next(documents)
    for step in range(settings.steps):
        rows = []
        for _ in range(settings.batch_tokens // settings.length):
            row: list[int] = []
            while len(row) < settings.length:
                row += documents.send(step / settings.steps)
            rows.append(row[: settings.length])
        yield torch.tensor(rows)


def make_model(recipe: PretrainingRecipe, tokenizer: Any) -> nn.Module:
    """Return a model of the recipe's architecture with random weights, drawn from its seed."""
    from transformers import AutoConfig, AutoModelForCausalLM

    special = {key: getattr(tokenizer, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    fields = recipe.config.model_dump(exclude_unset=True)
    config = AutoConfig.for_model(recipe.architecture, vocab_size=len(tokenizer), **fields, **special)
    seed = recipe.pretraining.seed
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = AutoModelForCausalLM.from_config(config)
    if recipe.pretraining.look_back:
        favour_look_back(model, recipe.architecture, seed=seed)
    return model


def _pretrain_model(
    recipe: PretrainingRecipe, tokenizer: Any, corpus: Sequence[Path]
) -> tuple[Any, list[PretrainingRow]]:
    settings = recipe.pretraining
    model = make_model(recipe, tokenizer).train()
    groups = parameter_groups(model.parameters(), weight_decay=settings.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98), fused=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate_factor(step, settings))
    first_weight, later_weight = _token_weights(settings, len(tokenizer))
    history: list[PretrainingRow] = []
    smooth: torch.Tensor | None = None
    with progress_bar(settings.steps, label="pretraining", unit="steps") as bar:
        for step, ids in enumerate(_pretraining_batches(settings, tokenizer, corpus), start=1):
            logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
            weight = first_weight if step <= settings.first_stage * settings.steps else later_weight
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), weight=weight)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad(set_to_none=True)
            smooth = loss.detach() if smooth is None else 0.98 * smooth + 0.02 * loss.detach()
            bar.update()
            if step % settings.logging_steps == 0 or step == settings.steps:
                rate = float(scheduler.get_last_lr()[0])
                history.append({"step": step, "loss": round(float(smooth), 6), "learning_rate": rate})
                bar.set_postfix(loss=round(float(smooth), 3), refresh=False)
    return model.eval(), history


def _rate_factor(step: int, settings: PretrainingSettings) -> float:
    """Return the learning rate of a step, counted from 0, as a share of its peak: a linear rise, then half a cosine."""
    cosine = 0.5 * (1 + math.cos(math.pi * step / settings.steps))
    return float(min((step + 1) / settings.warmup_steps, max(LOWEST_RATE, cosine)))


def _token_weights(
    settings: PretrainingSettings, vocab_size: int
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Return the loss weights (vocab,) of tokens in the first stage and after it; None: all weigh the same."""
    if settings.label_weight is None:
        return None, None
    from pipeline.data.world.tokenizer import label_token_ids

    first, later = torch.ones(vocab_size), torch.ones(vocab_size)
    first[label_token_ids()] = settings.label_weight
    later[label_token_ids()] = settings.later_label_weight
    return first, later
