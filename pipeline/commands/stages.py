"""From a fingerprint to a stage's plain arguments: each function looks its artifact up and calls the stage."""

import argparse
import os
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from pipeline.commands.dispatch import BY_NAME
from pipeline.core.errors import UserError
from pipeline.core.first_download import LOCK
from pipeline.core.io import atomic_directory, atomic_file, check_writable
from pipeline.params.reading import read_card
from pipeline.results.mlflow import runs
from pipeline.results.provenance import record_result
from pipeline.study import Study, load_study, project_root
from pipeline.study.artifacts import Artifact
from pipeline.study.description import describe_study
from pipeline.study.run import Run
from pipeline.study.stages import STAGES

Given = argparse.Namespace


def run(given: Given) -> None:
    """Run one sub-command in the project's root."""
    os.chdir(project_root())
    if given.command in BY_NAME:
        BY_NAME[given.command](given)
        return
    study = load_study(given.study)
    inner = "LOCAL_RANK" in os.environ  # one of the processes of a training, whose caller records it
    if given.command not in STAGES or inner:
        COMMANDS[given.command](study, given)
        return
    made = study.find_artifact(given.command, given.fingerprint)
    check_writable(made.path.parent)
    _date_back(made)
    with record_result(made, study=study.name, command=["python", "-m", "pipeline", *sys.argv[1:]]):
        COMMANDS[given.command](study, given)


def _date_back(made: Artifact) -> None:
    """Give inputs from the future (a clock was set back) the present date: snakemake refuses outputs that are older."""
    for one in made.inputs.values():
        for path in (one.path, one.path / ".snakemake_timestamp"):
            with suppress(OSError):  # not there, or not ours
                if path.stat().st_mtime > time.time():
                    os.utime(path)


def _fetch(study: Study, given: Given) -> None:
    from pipeline.data.fetch import fetch

    raw = study.find_artifact("fetch", given.fingerprint)
    name, split = raw.params["dataset"], raw.params["split"]
    card = {"dataset": name, **read_card("datasets", name).model_dump()}
    root = Path(given.data_root) if given.data_root else None
    fetch(card, split, output=raw.path, data_root=root, lock=LOCK)


def _prompts(study: Study, given: Given) -> None:
    from pipeline.commands import prompt_inputs
    from pipeline.prompts.write import write_prompts

    made = study.find_artifact("prompts", given.fingerprint)
    sources = prompt_inputs.sources(made.inputs, made.params)
    write_prompts(
        sources,
        template=made.params["template"],
        output=made.path,
        limit=made.params.get("limit"),
        sample_seed=made.params.get("sample_seed", 0),
        removed=prompt_inputs.removed_rows(made, sources),
        worked_examples=prompt_inputs.worked_examples(made),
    )


def _audit(study: Study, given: Given) -> None:
    from pipeline.audit import audit

    made = study.find_artifact("audit", given.fingerprint)
    train, *tests = made.inputs.values()
    paths = {test.path.parent.name: test.path for test in tests}
    audit(train.path, paths, output=made.path, train_name=train.path.parent.name)


def _base(study: Study, given: Given) -> None:
    base = study.find_artifact("base", given.fingerprint)
    if "repo_id" in base.params:
        from pipeline.models.hub import fetch_base

        named = {key: base.params.get(key) for key in ("revision", "tokens")}
        fetch_base(base.params["repo_id"], **named, output=base.path, lock=LOCK)
        return
    from pipeline.models.pretrain import pretrain

    corpus = [one.path for one in base.inputs.values()]
    with atomic_directory(base.path) as path:  # named last, as scores are
        pretrain(dict(base.params), corpus=corpus, output=path, manifest=base.manifest)
        runs.track_base(study, base, path)


def _train(study: Study, given: Given) -> None:
    from pipeline.core import devices
    from pipeline.models.train import train

    adapter = study.find_artifact("train", given.fingerprint)
    if given.processes > 1 and "LOCAL_RANK" not in os.environ:
        devices.launch_processes(["-m", "pipeline", *sys.argv[1:]], given.processes, device=given.device)
        return
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    with (
        devices.claim_device(given.device) as device,
        runs.live(study, adapter) if first else nullcontext() as live,
    ):
        train(
            adapter.inputs["base"].path,
            adapter.inputs["prompts"].path,
            method=adapter.params["method"],
            training=adapter.params["training"],
            seed=adapter.params["seed"],
            output=adapter.path,
            validation=None,
            manifest=adapter.manifest,
            device=device,
            on_log=live,
        )


def _generate(study: Study, given: Given) -> None:
    from pipeline.core import devices
    from pipeline.evaluate.generation.generate import generate, is_asked

    run = study.run_of(given.fingerprint)
    asked, manifest = _asked(study, run), study.answers(run).manifest
    device = "cpu" if is_asked(asked["output"], asked["tasks"]) else given.device  # a GPU is for asking
    with devices.claim_device(device) as device:
        generate(run.base.path, **asked, device=device, manifest=manifest)


def _ask(study: Study, given: Given) -> None:
    from pipeline.core import devices
    from pipeline.evaluate.generation.generate import ask

    runs = [study.run_of(fingerprint) for fingerprint in given.fingerprints]
    bases = {run.base.path for run in runs}
    if len(bases) > 1:
        raise UserError(f"ask: models of one base can share a load of it (got {', '.join(map(str, bases))})")
    check_writable(Path(STAGES["generate"].folder))
    models = [{"name": run.label.strip("/"), **_asked(study, run)} for run in runs]
    with devices.claim_device(given.device) as device:
        loaded = ask(bases.pop(), models, device=device)
    print(f"{len(models)} models asked; their base was loaded {loaded} times")


def _asked(study: Study, run: Run) -> dict[str, Any]:
    """What a run is asked, as plain arguments."""
    output = study.answers(run).path
    return {
        "adapter": run.adapter.path if run.adapter else None,
        "tasks": [
            {
                "prompts": task.prompts.path,
                "name": task.name,
                "decoding": task.decoding,
                "fingerprint": task.fingerprint,
            }
            for task in study.tasks(run)
        ],
        "output": output,
        "siblings": output.parent,
    }


def _score(study: Study, given: Given) -> None:
    from pipeline.evaluate.scoring.rows import ScoringTask
    from pipeline.evaluate.scoring.score import score

    run = study.run_of(given.fingerprint)
    scores = study.scores(run)
    tasks = [
        ScoringTask.under(
            task.protocol,
            name=task.name,
            task=task.task,
            answer_form=task.answer_form,
            prompts=task.prompts.path,
        )
        for task in study.tasks(run)
    ]
    with atomic_file(scores.path) as path:  # named last: a job killed while it tracks is run again
        score(study.answers(run).path, tasks=tasks, output=path, manifest=_described(run, scores))
        runs.track_run(study, run, scores=path)


def _described(run: Run, artifact: Artifact) -> dict[str, Any]:
    training_set = run.arms[0].training_set if run.adapter else None
    return {
        "model": run.model,
        "method": run.method,
        "training_set": training_set,
        "seed": run.seed,
        **artifact.manifest,
    }


def _report(study: Study, given: Given) -> None:
    from pipeline import report

    made = study.find_artifact("report", given.fingerprint)
    report.build(describe_study(study), output=made.path.parent, fingerprint=made.fingerprint)


def _track(study: Study, given: Given) -> None:
    runs.track_all(study)


def _check(study: Study, given: Given) -> None:
    counts = ", ".join(f"{len(found)} {stage}" for stage, found in study.artifacts.items())
    print(f"study '{study.name}' is well-formed: {counts}")
    left_out: dict[str, list[str]] = {}
    for task, protocol in study.skipped_tasks:
        left_out.setdefault(protocol, []).append(task)
    for protocol, tasks in left_out.items():
        print(f"not asked under '{protocol}', which does not name their answer form: {', '.join(tasks)}")


def _prune(study: Study, given: Given) -> None:
    from pipeline.results.free_store import free_store
    from pipeline.results.store import prune_results

    if given.store:
        free_store(older_than_days=given.older_than, include_referenced=given.all, confirmed=given.yes)
    elif given.yes or given.all or given.older_than:
        raise UserError("prune: --yes, --all and --older-than say what to free of the store; add --store")
    else:
        prune_results(study, given.stages, dry_run=given.dry_run)


def _commit(study: Study, given: Given) -> None:
    from pipeline.results.dvc.commit import commit_results

    commit_results(study)


COMMANDS: dict[str, Callable[[Study, Given], None]] = {
    "fetch": _fetch,
    "prompts": _prompts,
    "audit": _audit,
    "base": _base,
    "train": _train,
    "ask": _ask,
    "generate": _generate,
    "score": _score,
    "report": _report,
    "check": _check,
    "prune": _prune,
    "commit": _commit,
    "track": _track,
}
