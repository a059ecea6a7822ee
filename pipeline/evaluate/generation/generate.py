"""The generate stage: write a model's answers to its tasks, or those of several models with one load of their base.

Answers are collected in a hidden work folder beside the output, which is renamed once all tasks are answered. A killed
job leaves the work folder, and the next job resumes from the tasks and batches that are finished. Answers that another
folder of the same adapter already holds, with an equal fingerprint, are copied and not generated again.
"""

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch

from pipeline.adapters.precision import compute_in
from pipeline.core.environment import run_info
from pipeline.core.errors import UserError
from pipeline.core.hardware.accelerators import is_gpu, peak_bytes, reset_peak
from pipeline.core.hardware.devices import configure_torch
from pipeline.core.io import atomic_file, read_json, replace_directory, write_json, write_jsonl
from pipeline.core.work_folder import locked_work_folder
from pipeline.evaluate.generation.budget import batch_budget
from pipeline.evaluate.generation.likelihood import write_likelihood_answers
from pipeline.evaluate.generation.loading import BaseLoader
from pipeline.evaluate.generation.merging import PROBES, merge_adapter
from pipeline.evaluate.generation.rows import (
    GenerationRequest,
    GenerationTask,
    MergeOutcome,
    TaskCost,
    answers_file,
)
from pipeline.evaluate.generation.text_answers import (
    divide_first_answers,
    encode_prompts,
    extend_prompt,
    write_text_answers,
)
from pipeline.evaluate.scoring.gold import refuse_unanswerable
from pipeline.evaluate.texts.measure import text_budget, write_text_likelihoods
from pipeline.params.base import Quantization
from pipeline.params.machine import MachineSettings
from pipeline.params.protocols import rows_per_prompt
from pipeline.prompts.encode import render_example
from pipeline.prompts.rows import RenderedExample
from pipeline.prompts.write import read_prompts

# in the work folder: what each answered task took, since a later process may write run.json
COSTS = ".costs.json"
# in the work folder: the tokens of each task's batches, so that a resumed job makes the same batches
BUDGETS = ".budgets.json"
# the key ``answered`` of a cost in files that earlier code wrote
OLD_ANSWERED = "asked"
DEFAULTS = MachineSettings()


def generate(
    base: Path,
    request: GenerationRequest,
    *,
    device: str,
    manifest: Mapping[str, object],
    machine: MachineSettings = DEFAULTS,
) -> None:
    """Write a model's answers to its tasks: NAME.jsonl of each, manifest.json and run.json.

    Rows are ``TextAnswer`` or ``LikelihoodAnswer``, in the order of the prompts. A resumed job writes the same bytes as
    an uninterrupted one.

    Args:
        base: directory of the base model.
        request: the model and its tasks.
        device: a torch device, such as "cpu" or "cuda:0".
        manifest: which answers these are.
        machine: settings of this machine.

    Raises:
        UserError: another process writes these answers, a file is missing or broken, or a single example does not fit
            in memory.
    """
    with locked_work_folder(request.output) as work:
        _answer_tasks(BaseLoader(base, device, gpus=machine.gpus_per_job or 1), request, work, machine)
        fingerprints = {task.name: task.fingerprint for task in request.tasks}
        write_json(work / "manifest.json", {**manifest, "answers": fingerprints})
        for name in (COSTS, BUDGETS):
            (work / name).unlink(missing_ok=True)
        replace_directory(work, request.output)


def generate_group(
    base: Path,
    requests: Sequence[GenerationRequest],
    *,
    device: str,
    machine: MachineSettings = DEFAULTS,
) -> int:
    """Answer the tasks of several models with one load of their base; ``generate`` of each then only renames its folder.

    Args:
        base: directory of the base model.
        requests: the models and their tasks.
        device: a torch device, such as "cpu" or "cuda:0".
        machine: settings of this machine.

    Returns:
        How often the base was loaded: once more for each model that changed it, as a merged adapter does.

    Raises:
        UserError: naming the models that failed, after all others have been answered.
    """
    loader, errors = BaseLoader(base, device, gpus=machine.gpus_per_job or 1, reuse=True), []
    for request in requests:
        print(f"evaluating {request.name}", flush=True)
        try:
            with locked_work_folder(request.output) as work:
                _answer_tasks(loader, request, work, machine)
        except UserError as error:
            errors.append(str(error))
    if errors:
        raise UserError("; ".join(errors))
    return loader.loads


def _copy_from_siblings(request: GenerationRequest, work: Path) -> dict[str, str]:
    """Copy answers with an equal fingerprint from sibling folders; return task -> sibling."""
    copied = {}
    # hidden folders are unfinished work of other jobs
    for path in sorted(request.siblings.glob("[!.]*/manifest.json")):
        fingerprints = read_json(path).get("answers", {})
        for task in request.tasks:
            target = answers_file(work, task)
            if fingerprints.get(task.name) == task.fingerprint and not target.exists():
                with atomic_file(target) as temporary:
                    shutil.copyfile(path.with_name(target.name), temporary)
                copied[task.name] = path.parent.name
    return copied


def _answer_tasks(
    loader: BaseLoader, request: GenerationRequest, work: Path, machine: MachineSettings
) -> None:
    """Answer the tasks that have no answers yet; write run.json with the cost of all, also of earlier processes."""
    started = time.time()
    configure_torch(loader.device, threads=machine.threads, deterministic=machine.deterministic)
    gpus = [device for device in loader.cards or [torch.device(loader.device)] if is_gpu(device)]
    for gpu in gpus:
        reset_peak(gpu)
    copied = _copy_from_siblings(request, work)
    missing = [task for task in request.tasks if not answers_file(work, task).exists()]
    # a generate-group job has answered everything already
    if not missing and (work / "run.json").exists():
        return
    for task in missing:
        refuse_unanswerable(read_prompts(task.prompts), path=task.prompts)
    missing = [task for task in missing if not _take_over_answers(task, work)]
    # nothing is drawn at random; a method that did would repeat its draws
    torch.manual_seed(0)
    # tasks with equal options share a load
    for options in sorted({_load_options(task) for task in missing}, key=str):
        tasks = [task for task in missing if _load_options(task) == options]
        model, tokenizer, outcome = _load_for_tasks(loader, request.adapter, tasks)
        for task in tasks:
            with compute_in(options.dtype, loader.device):
                cost = _answer_task(model, tokenizer, task, work, machine)
            cost |= {"dtype": options.dtype, "weights": options.weights}
            if options.quantization:
                cost["quantization"] = options.quantization
            if outcome:
                cost["merge_adapter"] = outcome
            write_json(work / COSTS, {**_read_costs(work), task.name: cost})
        loader.release(model, tokenizer, options.dtype, options.weights, options.quantization)
        # otherwise this name would keep the weights in memory while the next ones are loaded
        del model
    info = run_info(
        started=started,
        device=loader.device,
        peak_gib=sum(map(peak_bytes, gpus)) / 2**30 if gpus else None,
        machine=machine.chosen(),
        taken_over=copied,
        tasks=_read_costs(work),
    )
    write_json(work / "run.json", info)


def _take_over_answers(task: GenerationTask, work: Path) -> bool:
    """Write a second stage's answers without a model, if all first answers were parsed; else return False."""
    if task.first is None:
        return False
    first = divide_first_answers(read_prompts(task.prompts), task.first, task.decoding)
    if first.unparsed:
        return False
    write_jsonl(answers_file(work, task), list(first.parsed.values()))
    cost: TaskCost = {"answered": 0, "rows_at_once": 0, "largest_batch": 0, "cut_prompts": 0}
    write_json(work / COSTS, {**_read_costs(work), task.name: cost})
    return True


def _read_costs(work: Path) -> dict[str, TaskCost]:
    """Return the cost of each task answered so far, also by a process that was killed."""
    costs: dict[str, TaskCost] = read_json(work / COSTS) if (work / COSTS).exists() else {}
    return {name: _rename_answered(cost) for name, cost in costs.items()}


def _rename_answered(cost: TaskCost) -> TaskCost:
    """Return a cost under today's keys, also if the process that wrote it was killed before an update of the code."""
    renamed = {"answered" if key == OLD_ANSWERED else key: value for key, value in cost.items()}
    return cast(TaskCost, renamed)


class _LoadOptions(NamedTuple):
    """The decoding options that apply when the model is loaded."""

    dtype: str
    weights: str
    quantization: Quantization | None
    merge_adapter: bool


def _load_options(task: GenerationTask) -> _LoadOptions:
    decoding = task.decoding
    return _LoadOptions(
        decoding.get("dtype", "float32"),
        decoding.get("weights", "float32"),
        decoding.get("quantization"),
        decoding.get("merge_adapter", False),
    )


def _load_for_tasks(
    loader: BaseLoader, adapter: Path | None, tasks: Sequence[GenerationTask]
) -> tuple[Any, Any, MergeOutcome | None]:
    """Return the model, its tokenizer and the outcome of merging; the tasks have the same load options."""
    dtype, weights, quantization, merge = _load_options(tasks[0])
    model, tokenizer = loader.load(adapter, dtype, weights, quantization)
    if not merge:
        return model, tokenizer, None
    examples = _render_prompts(tokenizer, tasks[0].prompts, limit=PROBES)
    probes, _ = encode_prompts(model, tokenizer, examples, 1)
    with compute_in(dtype, loader.device):
        model, outcome = merge_adapter(model, probes)
    if not outcome["merged"]:
        print(f"the adapter is not merged: {outcome['why']}", flush=True)
    if model is None:
        model, tokenizer = loader.load(adapter, dtype, weights, quantization)
    return model, tokenizer, outcome


def _answer_task(
    model: Any, tokenizer: Any, task: GenerationTask, work: Path, machine: MachineSettings
) -> TaskCost:
    """Write the answers file of a task, a batch at a time."""
    started = time.time()
    output, decoding = answers_file(work, task), task.decoding
    # of a text, the response is measured, which a chat template renders too
    examples = _render_prompts(tokenizer, task.prompts, with_response="window" in decoding)
    if "window" in decoding:
        budget = text_budget(model, chosen=machine.batch_tokens)
        cost = write_text_likelihoods(
            model,
            tokenizer,
            examples,
            window=decoding["window"],
            budget=budget,
            output=output,
            label=task.name,
        )
        cost["seconds"] = round(time.time() - started, 3)
        return cost
    budget = _kept_budget(model, task, work, machine)
    if "continuation" in decoding:
        cost = write_likelihood_answers(
            model,
            tokenizer,
            examples,
            frame=decoding["continuation"],
            unconditional=decoding.get("unconditional"),
            budget=budget,
            output=output,
            label=task.name,
        )
    else:
        rows = read_prompts(task.prompts)
        first = divide_first_answers(rows, task.first, decoding) if task.first else None
        if task.first and first:
            examples = [
                extend_prompt(
                    row, first.unparsed[row["id"]], trigger=decoding["answer_trigger"], form=task.first.form
                )
                if row["id"] in first.unparsed
                else row
                for row in examples
            ]
        cost = write_text_answers(
            model,
            tokenizer,
            examples,
            decoding,
            budget=budget,
            continuous=bool(machine.continuous_batching),
            output=output,
            label=task.name,
            first=first,
        )
    cost["seconds"] = round(time.time() - started, 3)
    return cost


def _kept_budget(model: Any, task: GenerationTask, work: Path, machine: MachineSettings) -> int:
    """Return the tokens of a task's batches: as set, else as in a killed job on such a device, else from free memory."""
    decoding, path = task.decoding, work / BUDGETS
    chosen = machine.batch_tokens or decoding.get("batch_tokens")
    budgets: dict[str, int] = read_json(path) if path.exists() else {}
    key = f"{task.name} {model.device.type}"
    if chosen is None and key in budgets:
        return budgets[key]
    rows = None if "continuation" in decoding else rows_per_prompt(decoding)
    budget = batch_budget(model, chosen=chosen, rows=rows)
    write_json(path, {**budgets, key: budget})
    return budget


def _render_prompts(
    tokenizer: Any, path: Path, *, limit: int | None = None, with_response: bool = False
) -> list[RenderedExample]:
    rows = read_prompts(path)[:limit]
    return [render_example(tokenizer, row, with_response=with_response) for row in rows]
