"""The command `check`: a study's params, before anything runs."""

from pipeline.commands.options import SeedsOption, StudyOption
from pipeline.models.bases.local import check_local_model
from pipeline.params.peft.quantization import require_bitsandbytes
from pipeline.params.reading import read_card
from pipeline.study import load_study
from pipeline.study.checks import lacks_quantized_results


def check_command(study: StudyOption = None, seeds: SeedsOption = None) -> None:
    """Check a study's params and the rows that are fetched already, and count its artifacts."""
    from pipeline.commands.run.prompt_inputs import check_fetched_rows

    checked = load_study(study, seeds=seeds)
    if lacks_quantized_results(checked.artifacts):
        require_bitsandbytes(checked.where)
    notes = check_fetched_rows(checked)
    for name in checked.card.models:
        card = read_card("models", name)
        if card.kind == "local":
            check_local_model(card, label=name)
    counts = ", ".join(f"{len(artifacts)} {stage}" for stage, artifacts in checked.artifacts.items())
    print(f"study '{checked.name}' is well-formed: {counts}")
    tasks_by_protocol: dict[str, list[str]] = {}
    for task, protocol in checked.skipped_tasks:
        tasks_by_protocol.setdefault(protocol, []).append(task)
    for protocol, tasks in tasks_by_protocol.items():
        print(f"not evaluated under '{protocol}', which lacks their answer form: {', '.join(tasks)}")
    for note in notes:
        print(note)
