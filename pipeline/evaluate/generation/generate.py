"""The answers of a model, or of several at one load of their base: every task that is not answered yet, crash-safe."""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pipeline.core.environment import run_info
from pipeline.core.errors import UserError
from pipeline.core.io import atomic_file, read_json, replace_directory, write_json
from pipeline.evaluate.generation import decoding, likelihood, merging
from pipeline.evaluate.generation.cache import bytes_kept
from pipeline.evaluate.generation.loading import Base
from pipeline.evaluate.generation.resume import answer
from pipeline.evaluate.scoring.gold import refuse_unanswerable
from pipeline.prompts.encode import encode_example, render_example
from pipeline.prompts.rows import PromptRow, RenderedExample
from pipeline.prompts.write import read_prompts

# Padded tokens of a batch, new ones included, where a task's decoding gives no batch_tokens. A GPU wants as many rows as
# fit (it halves this when memory runs out). On a CPU, where no error tells that memory runs out, larger batches than
# WRITTEN_TOKENS gain nothing, and what the rows and their beams keep of keys and values is bounded.
BATCH_TOKENS = {"cpu": 8192, "cuda": 65536}
WRITTEN_TOKENS = 16384
CPU_CACHE_BYTES = 8 * 2**30
ASKED = ".asked.json"  # what each task took, while not all are answered

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
    with _work(output) as work:
        _ask(Base(base, device), adapter, tasks, work, siblings)
        fingerprints = {task["name"]: task["fingerprint"] for task in tasks}
        write_json(work / "manifest.json", {**manifest, "answers": fingerprints})
        (work / ASKED).unlink(missing_ok=True)
        replace_directory(work, output)


def ask(base: Path, models: Sequence[Asked], *, device: str) -> int:
    """Answer the tasks of several models at one load of their base; ``generate`` then finds nothing left to ask.

    Args:
        base: directory of the base model.
        models: for each: name, adapter, tasks, output and siblings, as for ``generate``.
        device: torch's name of it.

    Returns:
        How often the base was loaded: again after a model that did not leave it as it was, which a merged adapter does not.

    Raises:
        UserError: what ``generate`` would raise for some of the models; the others are answered.
    """
    shared, failed = Base(base, device, reused=True), []
    for model in models:
        print(f"asking {model['name']}", flush=True)
        try:
            with _work(model["output"]) as work:
                _ask(shared, model["adapter"], model["tasks"], work, model["siblings"])
        except UserError as error:
            failed.append(str(error))
    if failed:
        raise UserError("; ".join(failed))
    return shared.loads


def is_asked(output: Path, tasks: Sequence[Asked]) -> bool:
    """Return whether all answers are there, with what they took, and only their directory is not named yet."""
    work = _work_of(output)
    return (work / "run.json").exists() and all(_answers(work, task).exists() for task in tasks)


def _work_of(output: Path) -> Path:
    return output.with_name(f".{output.name}.work")


def _answers(work: Path, task: Asked) -> Path:
    return work / f"{task['name']}.jsonl"


@contextmanager
def _work(output: Path) -> Iterator[Path]:
    """Yield the directory that answers lie in until they are whole; its lock is freed however this process ends."""
    work = _work_of(output)
    work.mkdir(parents=True, exist_ok=True)
    handle = os.open(work, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield work
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


def _ask(base: Base, adapter: Path | None, tasks: Sequence[Asked], work: Path, siblings: Path) -> None:
    """Answer what is not answered yet, and write what that took to run.json, with what earlier processes took."""
    started, on_gpu = time.time(), "cuda" in base.device
    if base.device == "cpu":
        torch.set_num_threads(1)  # as in training: the same bytes on any number of cores, jobs side by side
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    taken = _take_over(tasks, work, siblings)
    missing = [task for task in tasks if not _answers(work, task).exists()]
    if not missing and (work / "run.json").exists():
        return
    for task in missing:
        refuse_unanswerable(read_prompts(task["prompts"]), path=task["prompts"])
    torch.manual_seed(0)  # nothing is drawn; a method that did would do so equally
    for way in sorted({_loading(task) for task in missing}):
        some = [task for task in missing if _loading(task) == way]
        model, tokenizer, told = _load_to_ask(base, adapter, some)
        for task in some:
            took = {**_ask_task(model, tokenizer, task, work), **told}
            write_json(work / ASKED, {**_asked_before(work), task["name"]: took})
        base.give_back(model, tokenizer, way[0])
        del model
    info = run_info(
        started=started,
        device=base.device,
        peak_gib=torch.cuda.max_memory_allocated() / 2**30 if on_gpu else None,
        taken_over=taken,
        tasks=_asked_before(work),
    )
    write_json(work / "run.json", info)


def _asked_before(work: Path) -> dict[str, Any]:
    """Return what each task took that was asked so far, also by a process that was killed."""
    return read_json(work / ASKED) if (work / ASKED).exists() else {}


def _loading(task: Asked) -> tuple[str, bool]:
    """Return what of a task's decoding is said when the model is loaded: dtype, and whether the adapter is merged."""
    return task["decoding"].get("dtype", "float32"), task["decoding"].get("merge_adapter", False)


def _load_to_ask(base: Base, adapter: Path | None, tasks: Sequence[Asked]) -> tuple[Any, Any, dict[str, Any]]:
    """Return the model, its tokenizer and what merging found; all tasks are of one way of loading."""
    dtype, merge = _loading(tasks[0])
    model, tokenizer = base.take(adapter, dtype)
    if not merge:
        return model, tokenizer, {}
    rows = read_prompts(tasks[0]["prompts"])[: merging.PROBES]
    examples = [render_example(tokenizer, row, with_response=False) for row in rows]
    probes, _ = encode_prompts(model, tokenizer, examples, 1)
    model, told = merging.merged(model, probes)
    if not told["merged"]:
        print(f"the adapter is not merged: {told['why']}", flush=True)
    if model is None:
        model, tokenizer = base.take(adapter, dtype)
    return model, tokenizer, {"merge_adapter": told}


def _ask_task(model: Any, tokenizer: Any, task: Asked, work: Path) -> dict[str, Any]:
    """Answer what is left of a task, a batch at a time, and write its file; return what it took."""
    started = time.time()
    chosen = task["decoding"]
    rows = read_prompts(task["prompts"])
    examples = [render_example(tokenizer, row, with_response=False) for row in rows]
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
    examples: Sequence[RenderedExample],
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
    model: Any, tokenizer: Any, examples: Sequence[PromptRow | RenderedExample], max_new_tokens: int
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
