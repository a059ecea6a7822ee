"""The commands that name a run or nothing, instead of a fingerprint of the study: what was typed becomes plain arguments."""

import argparse
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.commands.look import catalog
from pipeline.core import first_download
from pipeline.core.errors import UserError
from pipeline.params.templates import CHAT
from pipeline.study import find, load_study

Given = argparse.Namespace


def _methods(given: Given) -> None:
    catalog.show_methods(as_json=given.json)


def _models(given: Given) -> None:
    catalog.show_models(given.name, as_json=given.json)


def _predict(given: Given) -> None:
    from pipeline.core import devices
    from pipeline.evaluate.generation.predict import asked, predict, show

    study, run = find.find_run(given.run, given.study)
    chosen = find.choose_decoding(study, run, given.protocol)
    if given.max_new_tokens is not None:
        chosen["max_new_tokens"] = given.max_new_tokens
    if given.num_beams is not None:
        chosen["num_beams"] = given.num_beams
    base, adapter = find.require_model(study, run)
    _silence_libraries()
    questions = asked(given.question)
    several = len(given.question) > 1 or given.question == ["-"]
    with devices.claim_device(given.device) as device:
        answers = predict(base, adapter, questions, input=given.input, decoding=chosen, device=device)
        try:
            show(answers, as_json=given.json, with_questions=several)
        except KeyboardInterrupt:  # of whom the answer takes too long
            raise SystemExit(130) from None


def _export(given: Given) -> None:
    from pipeline.commands.share.export import export

    _silence_libraries()
    export(*find.find_run(given.run, given.study), output=Path(given.output), merge=given.merge)
    print(f"written: {given.output}")


def _show(given: Given) -> None:
    from pipeline.commands.look import examples

    files = examples.sources(given.dataset, given.split, data_root=given.data_root, lock=first_download.LOCK)
    record = examples.example(files, given.row)
    tokenizer = examples.tokenizer_of(given.model) if given.tokens or given.template == CHAT else None
    if not given.tokens:
        examples.show(record, tokenizer, template=given.template)
        return
    cut = {"cutoff_len": given.cutoff_len, "train_on_inputs": given.train_on_inputs}
    examples.show_tokens(record, tokenizer, template=given.template, **cut)


def _lengths(given: Given) -> None:
    from pipeline.commands.look import examples
    from pipeline.prompts.write import read_raw_records

    asked = {"template": given.template, "cutoff_len": given.cutoff_len}
    rows = []
    for model in given.model:
        tokenizer = examples.tokenizer_of(model)
        for name in given.dataset:
            files = examples.sources(name, given.split, data_root=given.data_root, lock=first_download.LOCK)
            told = examples.lengths(read_raw_records(files), tokenizer, **asked)
            rows.append((name, files[0].split, model, told))
    print(f"template {given.template}, cutoff_len {given.cutoff_len}\n{examples.length_table(rows)}")


def _datasets(given: Given) -> None:
    from pipeline.commands.look import datasets

    if given.write:
        datasets.write()
        print(f"written: {datasets.PATH}")
    else:
        print(datasets.readme(), end="")


def _compare(given: Given) -> None:
    from pipeline.commands.compare import runs

    first, second = (find.find_run(name, given.study) for name in (given.first, given.second))
    told = runs.compare(first, second, task=given.task, protocol=given.protocol)
    runs.show(told, limit=given.limit, as_json=given.json)


def _audit_protocol(given: Given) -> None:
    from pipeline.commands.compare import protocols

    records = protocols.audit_protocols(load_study(given.study))
    protocols.show(records, limit=given.limit, as_json=given.json)


def _compare_data(given: Given) -> None:
    from pipeline.data.compare import compare, table

    rebuilt = [row for name in given.rebuilt for row in _rows(name, given)]
    told = compare(rebuilt, _rows(given.published, given))
    print(json.dumps(told) if given.json else table(told))


def _rows(name: str, given: Given) -> list[dict[str, Any]]:
    """Return the rows of a dataset or of a file, in the instruction format."""
    from pipeline.commands.look import examples
    from pipeline.data.compare import file_rows, raw_rows

    if name.endswith((".json", ".jsonl", ".gz")):
        return file_rows(Path(given.folder, name))
    return raw_rows(examples.sources(name, given.split, data_root=given.data_root, lock=first_download.LOCK))


def _status(given: Given) -> None:
    from pipeline.results.status import print_status

    print_status(load_study(given.study), as_json=given.json)


def _verify(given: Given) -> None:
    from pipeline.results import verify

    study = load_study(given.study) if given.study or given.adopt else None
    if study and given.adopt:
        verify.adopt_study(study)
    paths = [Path(os.path.relpath(path)) for path in given.path]
    outcome = verify.verify(paths=paths, artifacts=study.named() if study and given.study else None)
    verify.print_verify_outcome(outcome)
    if not outcome.passed:
        raise SystemExit(1)


def _reproduce(given: Given) -> None:
    from pipeline.results.reproduce import ReproduceOptions, print_reproduce_outcome, reproduce
    from pipeline.results.reproduce_request import find_request

    request = find_request(given.result, given.study)
    print(f"reproducing: {', '.join(str(target.path) for target in request.targets)}", flush=True)
    options = ReproduceOptions(
        from_inputs=given.from_inputs,
        data_root=given.data_root,
        tolerance=given.tolerance,
        device=given.device,
        worktree=Path(given.worktree) if given.worktree else None,
    )
    outcome = reproduce(request, options)
    print_reproduce_outcome(outcome)
    if outcome.differences:
        raise SystemExit(1)


def _stage_code(given: Given) -> None:
    from pipeline.study import stage_code

    stage_code.raise_version(given.raised)
    stage_code.keep(given.keep)
    undecided = stage_code.changed_stages()
    if undecided:
        print(stage_code.decisions_needed(undecided))
        raise UserError(f"undecided: {', '.join(undecided)}")
    print("every stage's code is as recorded")


def _regenerate(given: Given) -> None:
    from pipeline.commands.maintain import regenerate

    if given.check:
        regenerate.check()
    written = [] if given.check else regenerate.regenerate(matrix=given.matrix)
    print("\n".join(f"written: {name}" for name in written) or "nothing was stale")


def _paths(given: Given) -> None:
    from pipeline.results.dvc.remotes import list_stage_paths

    paths = list_stage_paths(load_study(given.study), given.stage, model=given.model, needed=given.needed)
    print("\n".join(paths))


def _transfer(given: Given) -> None:
    from pipeline.results.dvc.remotes import transfer_results

    status = transfer_results(given.command, given.arguments, folder=Path(given.folder))
    if status:
        raise SystemExit(status)


def _check_remote(given: Given) -> None:
    from pipeline.results.dvc.remotes import check_remote, print_remote_status

    print_remote_status(check_remote(given.remote, remove=given.remove), removed=given.remove)


def _silence_libraries() -> None:
    """Keep what libraries tell each other's developers out of the terminal."""
    warnings.simplefilter("ignore", FutureWarning)


BY_NAME: dict[str, Callable[[Given], None]] = {
    "methods": _methods,
    "models": _models,
    "predict": _predict,
    "export": _export,
    "show": _show,
    "lengths": _lengths,
    "datasets": _datasets,
    "compare": _compare,
    "audit-protocol": _audit_protocol,
    "compare-data": _compare_data,
    "status": _status,
    "verify": _verify,
    "reproduce": _reproduce,
    "paths": _paths,
    "push": _transfer,
    "pull": _transfer,
    "check-remote": _check_remote,
    "stage-code": _stage_code,
    "regenerate": _regenerate,
}
