"""The eleven stages: each function turns an artifact of a study into plain arguments and calls the stage's code.

``pipeline.study.stage_code`` follows the code of a stage from ``run_STAGE`` on, so only what a stage needs belongs here.
"""

import os
import sys
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.commands.run.reference_stages import fetch_reference, score_reference, tie_reference
from pipeline.commands.run.slurm.launch import launch_on_nodes
from pipeline.core.first_download import LOCK
from pipeline.core.io import atomic_directory, atomic_file, write_json
from pipeline.core.work_folder import locked_work_folder
from pipeline.evaluate.generation.rows import FirstStage, GenerationRequest, GenerationTask, is_generated
from pipeline.params.machine import MachineSettings, check_processes
from pipeline.params.reading import read_card
from pipeline.results.mlflow import runs
from pipeline.study import Study
from pipeline.study.artifacts import Artifact
from pipeline.study.description.describe import describe_study
from pipeline.study.references import find_reference
from pipeline.study.run import is_endpoint
from pipeline.study.tuning.choice import require_chosen


@dataclass(frozen=True)
class JobOptions:
    """What a job takes from the machine that it runs on; none of it changes a result.

    Attributes:
        data_root: folder of local dataset files.
        device: "auto", "cpu", "cuda" or "mps".
        processes: number of processes (GPUs) for one training.
        nodes: of a Slurm job that share these processes equally.
        machine: memory, speed and how often a training writes.
    """

    data_root: Path | None = None
    device: str = "auto"
    processes: int = 1
    nodes: int = 1
    machine: MachineSettings = field(default_factory=MachineSettings)


def run_fetch(study: Study, artifact: Artifact, options: JobOptions) -> None:
    """Fetch one split of a dataset."""
    # Each stage imports its own code here, so that a light job does not wait for torch.
    from pipeline.data.fetch import fetch_split

    if "reference" in artifact.params:
        fetch_reference(artifact, options.data_root)
        return
    dataset, split = artifact.params["dataset"], artifact.params["split"]
    card = read_card("datasets", dataset).splits[split].model_dump()
    fetch_split(dataset, split, card, output=artifact.path, data_root=options.data_root, lock=LOCK)


def run_prompts(study: Study, artifact: Artifact, options: JobOptions) -> None:
    """Write the prompts of a dataset or mixture."""
    from pipeline.commands.run import prompt_inputs
    from pipeline.prompts.write import write_prompts

    sources = prompt_inputs.raw_sources(artifact.inputs, artifact.params)
    write_prompts(
        sources,
        template=artifact.params["template"],
        output=artifact.path,
        limit=artifact.params.get("limit"),
        sample_seed=artifact.params.get("sample_seed", 0),
        removed=prompt_inputs.removed_rows(artifact, sources),
        worked_examples=prompt_inputs.worked_examples(artifact),
        for_training=artifact.path in prompt_inputs.training_paths(study),
    )


def run_audit(study: Study, artifact: Artifact, options: JobOptions) -> None:
    """Look for test questions in a training set."""
    from pipeline.audit import write_audit

    # The study lists the training set first (Study.audit).
    train, *tests = artifact.inputs.values()
    paths = {test.path.parent.name: test.path for test in tests}
    write_audit(train.path, paths, output=artifact.path, train_name=train.path.parent.name)


def run_base(study: Study, artifact: Artifact, options: JobOptions) -> None:
    """Provide a base model: from the hub, a folder, a package or an endpoint, or pretrained here."""
    card = read_card("models", artifact.path.parent.name)
    if card.kind == "endpoint":
        # nothing is fetched: the folder holds what identifies the model
        with atomic_directory(artifact.path) as path:
            write_json(path / "manifest.json", artifact.manifest)
        return
    if card.kind == "local":
        from pipeline.models.bases.local import fetch_local

        fetch_local(card, label=artifact.path.parent.name, output=artifact.path)
        return
    if "repo_id" in artifact.params:
        from pipeline.models.bases.hub import fetch_base

        settings = {key: artifact.params.get(key) for key in ("revision", "tokens")}
        settings |= {"architecture": card.architecture, "modules": card.modules}
        fetch_base(artifact.params["repo_id"], **settings, output=artifact.path, lock=LOCK)
        return
    if "package" in artifact.params:
        from pipeline.models.bases.package import convert_package

        convert_package(
            **artifact.params,
            output=artifact.path,
            manifest=artifact.manifest,
            architecture=card.architecture,
        )
        return
    from pipeline.models.bases.pretrain import pretrain
    from pipeline.params.recipes import PretrainingRecipe

    corpus = [prompts.path for prompts in artifact.inputs.values()]
    # The folder gets its name after tracking: a job that is killed while it tracks reruns.
    with atomic_directory(artifact.path) as path:
        pretrain(
            PretrainingRecipe(**artifact.params),
            corpus=corpus,
            output=path,
            manifest=artifact.manifest,
            portable=options.machine.portable,
        )
        runs.track_base(study, artifact, path)


def run_train(study: Study, artifact: Artifact, options: JobOptions) -> None:
    """Train one adapter."""
    from pipeline.core.hardware import devices
    from pipeline.models.train import train
    from pipeline.params.base import Training

    check_processes(options.processes, options.machine)
    chosen = require_chosen(artifact)
    if options.processes > 1 and "LOCAL_RANK" not in os.environ:
        # Each process runs this command again; RANK tells them apart.
        command = ["-m", "pipeline", *sys.argv[1:]]
        if options.nodes > 1:
            launch_on_nodes(
                command, options.processes, nodes=options.nodes, threads=options.machine.threads or 1
            )
        else:
            devices.launch_processes(command, options.processes, device=options.device)
        return
    is_first_process = "LOCAL_RANK" not in os.environ or os.environ["RANK"] == "0"
    with (
        # One lock and one MLflow run for all processes of a training.
        locked_work_folder(artifact.path) if is_first_process else nullcontext(),
        devices.claim_device(options.device, gpus=options.machine.gpus_per_job or 1) as device,
        runs.stream_training(study, artifact) if is_first_process else nullcontext() as on_log,
    ):
        train(
            artifact.inputs["base"].path,
            artifact.inputs["prompts"].path,
            method=artifact.params["method"],
            training=Training(**artifact.params["training"] | chosen),
            seed=artifact.params["seed"],
            output=artifact.path,
            validation=None,
            manifest={**artifact.manifest, **({"chosen": chosen} if chosen else {})},
            device=device,
            machine=options.machine,
            on_log=on_log,
            is_trial=artifact.params.get("role") == "trial",
        )


def run_combine(study: Study, artifact: Artifact, options: JobOptions) -> None:
    """Combine trained adapters into one."""
    from pipeline.models.combination.combine import combine

    members = [source.path for name, source in artifact.inputs.items() if name.startswith("member ")]
    combine(
        artifact.inputs["base"].path,
        members,
        combination=artifact.params["method"],
        seed=artifact.params["seed"],
        output=artifact.path,
        manifest=artifact.manifest,
        portable=options.machine.portable,
    )


def run_choose(study: Study, artifact: Artifact, options: JobOptions) -> None:
    """Choose training settings from the results of trials."""
    from pipeline.evaluate.tuning.choose import TrialFiles, choose

    adapters, scores = (
        [source for name, source in artifact.inputs.items() if name.startswith(kind)]
        for kind in ("trial ", "scores ")
    )
    trials = [
        TrialFiles(values, adapter.path, adapter.fingerprint, scores[number].path if scores else None)
        for number, (values, adapter) in enumerate(zip(artifact.params["candidates"], adapters, strict=True))
    ]
    with atomic_file(artifact.path) as path:
        choose(
            trials,
            rule=artifact.params["rule"],
            keep=adapters[0].params["training"].get("keep", "last"),
            output=path,
            manifest=artifact.manifest,
        )
        runs.track_trials(study, artifact)


def run_distill(study: Study, artifact: Artifact, options: JobOptions) -> None:
    """Let a teacher answer training questions, or build a training set from its answers."""
    from pipeline.commands.run import distill_stage

    if distill_stage.is_set(artifact):
        distill_stage.write_set(artifact)
        return
    request = distill_stage.answer_request(artifact)
    base = artifact.inputs["base"].path
    teacher = base.parent.name
    if is_endpoint(teacher):
        from pipeline.evaluate.endpoints.answers import answer_by_endpoint

        card = read_card("models", teacher)
        answer_by_endpoint(teacher, card, request, manifest=artifact.manifest, machine=options.machine)
        return
    from pipeline.core.hardware import devices
    from pipeline.evaluate.generation.generate import generate

    with devices.claim_device(options.device, gpus=options.machine.gpus_per_job or 1) as device:
        generate(base, request, device=device, manifest=artifact.manifest, machine=options.machine)


def run_generate(study: Study, artifact: Artifact, options: JobOptions) -> None:
    """Generate the answers of one run, request them from an endpoint, or tie those of a reference to our examples."""
    reference = find_reference(study.references, artifact.fingerprint)
    if reference:
        tie_reference(reference)
        return
    run = study.run_of(artifact.fingerprint)
    request = generation_request(study, artifact)
    if is_endpoint(run.model):
        from pipeline.evaluate.endpoints.answers import answer_by_endpoint

        card = read_card("models", run.model)
        answer_by_endpoint(run.model, card, request, manifest=artifact.manifest, machine=options.machine)
        return
    from pipeline.core.hardware import devices
    from pipeline.evaluate.generation.generate import generate

    # A job whose answers a `generate-group` job has left behind only renames them: it needs no GPU.
    device = "cpu" if is_generated(request) else options.device
    with devices.claim_device(device, gpus=options.machine.gpus_per_job or 1) as device:
        generate(run.base.path, request, device=device, manifest=artifact.manifest, machine=options.machine)


def generation_request(study: Study, answers: Artifact) -> GenerationRequest:
    """Return the model of a run and the tasks that an artifact has answers to."""
    run = study.run_of(answers.fingerprint)
    results = study.results(run)
    return GenerationRequest(
        name=run.name,
        adapter=run.adapter.path if run.adapter else None,
        tasks=tuple(
            GenerationTask(
                task.name,
                task.prompts.path,
                task.decoding,
                task.fingerprint,
                FirstStage(results.answers_file(task.first.name), task.answer_form, task.first.protocol.shots)
                if task.first
                else None,
            )
            for task in results.tasks
            if task.name in answers.params
        )
        + tuple(
            GenerationTask(text.name, text.prompts.path, text.decoding, text.fingerprint)
            for text in results.texts
            if text.name in answers.params
        ),
        output=answers.path,
        siblings=answers.path.parent,
    )


def run_score(study: Study, artifact: Artifact, options: JobOptions) -> None:
    """Score the answers of one run or reference."""
    reference = find_reference(study.references, artifact.fingerprint)
    if reference:
        score_reference(reference)
        return
    from pipeline.evaluate.scoring.rows import ScoringTask
    from pipeline.evaluate.scoring.score import score

    run = study.run_of(artifact.fingerprint)
    tasks = [
        ScoringTask.under(
            task.protocol,
            name=task.name,
            task=task.task,
            answer_form=task.answer_form,
            prompts=task.prompts.path,
            answers=study.results(run).answers_file(task.name),
        )
        for task in study.tasks(run)
    ]
    manifest = {
        "model": run.model,
        "method": run.method,
        "training_set": run.training_set,
        "seed": run.seed,
        **artifact.manifest,
    }
    # The file gets its name after tracking: a job that is killed while it tracks reruns.
    with atomic_file(artifact.path) as path:
        score(study.answers(run).path, tasks=tasks, output=path, manifest=manifest)
        runs.track_run(study, run, scores=path)


def run_report(study: Study, artifact: Artifact, options: JobOptions) -> None:
    """Write the tables, the figures and the page of a study."""
    from pipeline import report

    report.build(describe_study(study), output=artifact.path.parent, fingerprint=artifact.fingerprint)
    runs.track_report(study)
