"""The answers of a model: one load of its base, every task that is not answered yet, crash-safe."""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import UserError
from pipeline.evaluate import decoding, likelihood, merging
from pipeline.evaluate.cache import bytes_kept
from pipeline.evaluate.gold import refuse_unanswerable
from pipeline.evaluate.origin import refuse_other_base
from pipeline.evaluate.resume import answer
from pipeline.io import atomic_file, read_json, replace_directory, write_json
from pipeline.models import load_base
from pipeline.prompts import encode_example, read_prompts, rendered
from pipeline.records import run_info

# Padded tokens of a batch, new ones included, where a task's decoding gives no batch_tokens. A GPU wants as many rows as
# fit (it halves this when memory runs out). On a CPU, where no error tells that memory runs out, larger batches than
# WRITTEN_TOKENS gain nothing, and what the rows and their beams keep of keys and values is bounded.
BATCH_TOKENS = {"cpu": 8192, "cuda": 65536}
WRITTEN_TOKENS = 16384
CPU_CACHE_BYTES = 8 * 2**30

Asked = Mapping[str, Any]


def generate(
    base: Path,
    adapter: Path | None,
    *,
    tasks: Sequence[Asked],
    output: Path,
    siblings: Path,
    device: str,
    manifest: Mapping[str, Any],
) -> None:
    """Write a model's answers to its tasks: NAME.jsonl each, manifest.json and run.json.

    A row is {"id", "prompt", "text", "tokens" (new ones, the end token included), "stop": "eos", "length" or "complete"
    (the model begins another example; not under beams)}, or what ``likelihood.ask_task`` says, rows in the order of the
    prompts. Answers with a task's fingerprint are taken over from sibling directories. A killed run leaves
    ``.OUTPUT.work``; the next one keeps its finished tasks and batches, and gives the same bytes.

    Args:
        base: directory of the base model.
        adapter: directory of the adapter; None: the bare base.
        tasks: for each: name ("TASK-PROTOCOL"), prompts (a file), fingerprint, and decoding: continuation (of a
            likelihood protocol), or num_beams, max_new_tokens and perhaps padding "unmasked" with batch_size; if they are
            not to be the default, batch_tokens, dtype ("float32") and merge_adapter (False).
        output: directory to write.
        siblings: directory whose sub-directories hold answers of the same adapter to other sets of tasks.
        device: torch's name of it.
        manifest: which answers these are.

    Raises:
        UserError: another process is writing these answers, a file is missing or broken, a single example does not
            fit in memory.
    """
    started = time.time()
    if device == "cpu":
        torch.set_num_threads(1)  # as in training: the same bytes on any number of cores, jobs side by side
    work = output.with_name(f".{output.name}.work")
    work.mkdir(parents=True, exist_ok=True)
    with _only_writer(work):
        taken = _take_over(tasks, work, siblings)
        missing = [task for task in tasks if not _answers(work, task).exists()]
        for task in missing:
            refuse_unanswerable(read_prompts(task["prompts"]), path=task["prompts"])
        asked = _ask(base, adapter, missing, work, device) if missing else {}
        fingerprints = {task["name"]: task["fingerprint"] for task in tasks}
        write_json(work / "manifest.json", {**manifest, "answers": fingerprints})
        memory = (
            {"peak_memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 4)}
            if "cuda" in device
            else {}
        )
        record = run_info(started=started, device=device, taken_over=taken, tasks=asked, **memory)
        write_json(work / "run.json", record)
        replace_directory(work, output)


def _answers(work: Path, task: Asked) -> Path:
    return work / f"{task['name']}.jsonl"


@contextmanager
def _only_writer(work: Path) -> Iterator[None]:
    """Hold the directory's lock, which the system frees however this process ends."""
    handle = os.open(work, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise UserError(f"{work}: another process is writing these answers; wait for it or end it") from None
    finally:
        os.close(handle)


def _take_over(tasks: Sequence[Asked], work: Path, siblings: Path) -> dict[str, str]:
    """Copy finished answers of equal fingerprint; return which sibling each came from."""
    found = {}
    for path in sorted(siblings.glob("[!.]*/manifest.json")):
        known = read_json(path).get("answers", {})
        for task in tasks:
            name, target = task["name"], _answers(work, task)
            if known.get(name) == task["fingerprint"] and not target.exists():
                with atomic_file(target) as temporary:
                    shutil.copyfile(path.with_name(target.name), temporary)
                found[name] = path.parent.name
    return found


def _ask(base: Path, adapter: Path | None, tasks: Sequence[Asked], work: Path, device: str) -> dict[str, Any]:
    """Answer the tasks and return for each what it took."""
    torch.manual_seed(0)  # nothing is drawn; a method that did would do so equally
    records: dict[str, Any] = {}
    for way in sorted({_loading(task) for task in tasks}):
        some = [task for task in tasks if _loading(task) == way]
        model, tokenizer, told = _load_to_ask(base, adapter, some, device)
        records |= {task["name"]: {**_ask_task(model, tokenizer, task, work), **told} for task in some}
        del model
    return records


def _loading(task: Asked) -> tuple[str, bool]:
    """Return what of a task's decoding is said when the model is loaded: dtype, and whether the adapter is merged."""
    return task["decoding"].get("dtype", "float32"), task["decoding"].get("merge_adapter", False)


def _load_to_ask(
    base: Path, adapter: Path | None, tasks: Sequence[Asked], device: str
) -> tuple[Any, Any, dict[str, Any]]:
    """Return the model, its tokenizer and what merging found; all tasks are of one way of loading."""
    dtype, merge = _loading(tasks[0])
    model, tokenizer = load_model(base, adapter, dtype, device)
    if not merge:
        return model, tokenizer, {}
    rows = read_prompts(tasks[0]["prompts"])[: merging.PROBES]
    examples = [rendered(tokenizer, row, with_response=False) for row in rows]
    probes, _ = encode_prompts(model, tokenizer, examples, 1)
    model, told = merging.merged(model, probes)
    if not told["merged"]:
        print(f"the adapter is not merged: {told['why']}", flush=True)
    if model is None:
        model, tokenizer = load_model(base, adapter, dtype, device)
    return model, tokenizer, {"merge_adapter": told}


def load_model(base: Path, adapter: Path | None, dtype: str, device: str) -> tuple[Any, Any]:
    """Return a base with its adapter, if one is given, in eval mode, and its tokenizer.

    A fully trained model, which lies where an adapter would, needs no base.

    Raises:
        UserError: base or adapter is not there or broken, or they do not belong together.
    """
    if adapter is not None and (adapter / "config.json").is_file():
        return load_base(adapter, dtype=dtype, device=device)
    model, tokenizer = load_base(base, dtype=dtype, device=device)
    if adapter is not None:
        refuse_other_base(adapter, base, tokenizer)
        from peft import PeftModel
        from safetensors import SafetensorError

        try:
            model = PeftModel.from_pretrained(model, str(adapter), torch_device=device)
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"{adapter}: the adapter cannot be loaded onto {base}: {reason}") from error
    return model.eval(), tokenizer


def _ask_task(model: Any, tokenizer: Any, task: Asked, work: Path) -> dict[str, Any]:
    """Answer what is left of a task, a batch at a time, and write its file; return what it took."""
    started = time.time()
    chosen = task["decoding"]
    rows = read_prompts(task["prompts"])
    examples = [rendered(tokenizer, row, with_response=False) for row in rows]
    given = {"output": _answers(work, task), "what": task["name"]}
    if "continuation" in chosen:
        budget = int(chosen.get("batch_tokens") or BATCH_TOKENS[model.device.type])
        frame = chosen["continuation"]
        took = likelihood.ask_task(model, tokenizer, examples, frame=frame, budget=budget, **given)
    else:
        took = _write_answers(model, tokenizer, examples, chosen, **given)
    return {**took, "seconds": round(time.time() - started, 3)}


def _write_answers(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Mapping[str, Any]],
    chosen: Mapping[str, Any],
    **given: Any,
) -> dict[str, Any]:
    """Have a model write what is left of its answers to a task; return what it took."""
    config = decoding.settings(
        model, tokenizer, max_new_tokens=chosen["max_new_tokens"], num_beams=chosen["num_beams"]
    )
    ids, cut = encode_prompts(model, tokenizer, examples, chosen["max_new_tokens"])
    budget = _budget(model, chosen)
    masked = chosen.get("padding", "masked") == "masked"

    complete = decoding.completed(tokenizer, config) if masked else None

    def ask(batch: Sequence[int]) -> list[dict[str, Any]]:
        some = [ids[index] for index in batch]
        if masked:
            tokens = decoding.decode(model, some, config, complete)
        else:
            tokens = decoding.decode_unmasked(model, some, config)
        return [
            _row(examples[index], new, tokenizer, stop=decoding.stop_reason(new, config, complete))
            for index, new in zip(batch, tokens, strict=True)
        ]

    if masked:
        batches = decoding.batches(
            [len(row) for row in ids], new_tokens=chosen["max_new_tokens"], budget=budget
        )
    else:
        size = chosen["batch_size"]
        batches = (list(range(start, min(start + size, len(ids)))) for start in range(0, len(ids), size))
    took = answer(examples, batches, ask, whole=not masked, **given)
    return {**took, "cut_prompts": cut, **({"batch_tokens": budget} if masked else {})}


def _budget(model: Any, chosen: Mapping[str, Any]) -> int:
    """Return the padded tokens of a batch to write, the beams of a row not counted."""
    beams = int(chosen["num_beams"])
    if "batch_tokens" in chosen or model.device.type != "cpu":
        return int(chosen.get("batch_tokens") or BATCH_TOKENS[model.device.type]) // beams
    return min(WRITTEN_TOKENS, CPU_CACHE_BYTES // bytes_kept(model) // beams)


def encode_prompts(
    model: Any, tokenizer: Any, examples: Sequence[Mapping[str, Any]], max_new_tokens: int
) -> tuple[list[list[int]], int]:
    """Return token ids as training has them, and how many prompts had to be cut to the model's positions."""
    room = decoding.room_for_prompt(model, max_new_tokens=max_new_tokens)
    whole = [encode_example(tokenizer, example, with_response=False)[0] for example in examples]
    if room is None:
        return whole, 0
    fitting = [decoding.shortened(row, room=room, start=tokenizer.bos_token_id) for row in whole]
    return fitting, sum(len(row) < len(before) for row, before in zip(fitting, whole, strict=True))


def _row(example: Mapping[str, Any], new: list[int], tokenizer: Any, *, stop: str) -> dict[str, Any]:
    return {
        "id": example["id"],
        "prompt": example["prompt"],
        "text": tokenizer.decode(new, skip_special_tokens=True),
        "tokens": len(new),
        "stop": stop,
    }
