"""The command `check`: a study's params, before anything runs."""

import sys

from pipeline.commands.options import MachineOption, SeedsOption, StudyOption
from pipeline.models.bases.hub import check_hub_model
from pipeline.models.bases.local import check_local_model, set_models_root
from pipeline.params.machine import parse_machine_options
from pipeline.params.peft.quantization import require_bitsandbytes
from pipeline.params.reading import read_card
from pipeline.study import load_study
from pipeline.study.checks import check_machine, lacks_quantized_results
from pipeline.study.costs.messages import describe_needs, warn_of_large_models
from pipeline.study.distillation.teacher import list_base_models


def check_command(
    study: StudyOption = None, seeds: SeedsOption = None, machine: MachineOption = None
) -> None:
    """Check a study's params and the rows fetched so far, and count its artifacts."""
    from pipeline.commands.run.prompt_inputs import check_fetched_rows

    settings = parse_machine_options(machine or ())
    set_models_root(settings.models_root)
    checked = load_study(study, seeds=seeds)
    check_machine(checked.artifacts["train"], settings)
    if lacks_quantized_results(checked.artifacts):
        require_bitsandbytes(checked.where)
    notes = check_fetched_rows(checked)
    for name in list_base_models(checked):
        card = read_card("models", name)
        if card.kind == "local":
            check_local_model(card, label=name)
        elif card.kind == "hub":
            check_hub_model(card)
    counts = ", ".join(
        f"{len(artifacts)} {stage}" for stage, artifacts in checked.artifacts.items() if artifacts
    )
    print(f"study '{checked.name}' is well-formed: {counts}")
    tasks_by_protocol: dict[str, list[str]] = {}
    for task, protocol in checked.skipped_tasks:
        tasks_by_protocol.setdefault(protocol, []).append(task)
    for protocol, tasks in tasks_by_protocol.items():
        print(f"not evaluated under '{protocol}', which lacks their answer form: {', '.join(tasks)}")
    for note in [*notes, *describe_needs(checked)]:
        print(note)
    if warning := warn_of_large_models(checked):
        print(warning, file=sys.stderr)
