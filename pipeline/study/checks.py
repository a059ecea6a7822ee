"""Checks of a study's card that involve several of its fields, or other cards."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

from pipeline.core.errors import UserError, list_choices
from pipeline.params.architectures import ONE_CARD
from pipeline.params.machine import MachineSettings, override_training
from pipeline.params.models import check_chat_template, check_endpoint
from pipeline.params.peft.values import DATA_DRIVEN
from pipeline.params.protocols import Protocol
from pipeline.params.reading import read_card
from pipeline.params.resolve import check_training
from pipeline.params.studies import StudyCard, Texts
from pipeline.study.artifacts import Artifact
from pipeline.study.combination.resolve import is_combined
from pipeline.study.followups.check import check_followup, check_published
from pipeline.study.tuning.choice import plan_training

# answer forms of texts: passages, and references of instructions
TEXT_FORMS = ("passage", "text")


def check_study_card(card: StudyCard, *, where: str) -> None:
    """Refuse a study with repeated or ambiguous names, with references to nothing, or with cards that do not go together.

    Raises:
        UserError: in one line with file, key, value and choices.
    """
    _check_names(card, where=where)
    for protocol in card.headline:
        if protocol not in card.protocols:
            choices = ", ".join(card.protocols)
            raise UserError(
                f"{where}: headline: '{protocol}' is not a protocol of the study (choices: {choices})"
            )
    for arm in card.arms:
        key = f"arms.{arm.name}: training_by_model"
        _refuse_other_models(arm.training_by_model, card.models, where=f"{where}: {key}")
    for entry in card.methods:
        if card.tune and entry.name in card.tune.methods and is_combined(entry):
            raise UserError(
                f"{where}: tune.methods: '{entry.name}' is a combination, which trains nothing; tune its members"
            )
        key = f"methods.{entry.name}: models"
        _refuse_repetition(key, entry.models or [], where=where)
        _refuse_other_models(entry.models or [], card.models, where=f"{where}: {key}")
    _check_endpoints(card, where=where)
    for model in card.models:
        if not card.bare and not card.methods_of(model):
            raise UserError(f"{where}: models: '{model}' has no method, and bare bases are not evaluated")
    if card.published:
        check_published(card.published)
    _refuse_repetition("followups", card.followups, where=where)
    if card.published in card.followups:
        raise UserError(
            f"{where}: followups: '{card.published}' is the study's 'published' too, and its rows would be in the report twice; leave it "
            "out of followups"
        )
    for followup in card.followups:
        check_followup(followup, card, where=f"{where}: followups")
    for protocol in card.protocols:
        _check_second_stage(protocol, card.protocols, where=where)
    if card.texts:
        _check_texts(card.texts, where=where)
    templates = {f"protocol {name}": read_card("protocols", name).template for name in card.protocols}
    templates["training"] = card.template
    check_chat_template({name: read_card("models", name) for name in card.models}, templates, where=where)


def _check_names(card: StudyCard, *, where: str) -> None:
    """Refuse repeated names, and names or titles that tables and files could not tell apart."""
    _refuse_repetition("methods", [entry.name for entry in card.methods], where=where)
    _refuse_repetition("models", card.models, where=where)
    _refuse_repetition("seeds", card.seeds, where=where)
    _refuse_repetition("protocols", card.protocols, where=where)
    _refuse_repetition("references", [entry.reference for entry in card.references], where=where)
    _refuse_repetition("arms", [arm.name for arm in card.arms], where=where)
    for arm in card.arms:
        _refuse_repetition(f"arms.{arm.name}: tasks", arm.tasks, where=where)
    tasks = list(dict.fromkeys(task for arm in card.arms for task in arm.tasks))
    _refuse_joined_names("tasks and protocols", tasks, card.protocols, where=where)
    _refuse_joined_names("arms and protocols", [arm.name for arm in card.arms], card.protocols, where=where)
    _refuse_equal_titles("tasks", {task: read_card("datasets", task).title for task in tasks}, where=where)
    _refuse_equal_titles(
        "models", {model: read_card("models", model).name for model in card.models}, where=where
    )
    cards = {entry.method: read_card("methods", entry.method).name for entry in card.methods}
    _refuse_equal_titles("methods", cards, where=where)
    titles = {entry.name: entry.label or cards[entry.method] for entry in card.methods}
    _refuse_equal_titles("methods", titles, where=where)


def _check_endpoints(card: StudyCard, *, where: str) -> None:
    """Refuse what a study wants of a model behind an endpoint, and only a model on the machine can do."""
    protocols = {name: read_card("protocols", name) for name in card.protocols}
    for model in card.models:
        model_card = read_card("models", model)
        if model_card.kind != "endpoint":
            continue
        check_endpoint(model, model_card, protocols, where=where)
        if card.texts:
            raise UserError(
                f"{where}: texts: cannot be measured with the endpoint model '{model}'; leave one out"
            )
        if not card.bare:
            raise UserError(
                f"{where}: bare: must be true for the endpoint model '{model}', which has no adapters"
            )
        for entry in card.methods:
            if model in (entry.models or []):
                raise UserError(
                    f"{where}: methods.{entry.name}: models: '{model}' is behind an endpoint, so no adapter can be trained on it"
                )


def check_machine(adapters: Sequence[Artifact], machine: MachineSettings) -> None:
    """Refuse settings of the machine that do not work with a method of the study.

    Args:
        adapters: the adapters of the study.
        machine: the settings that ``--config`` or a profile chooses.

    Raises:
        UserError: with the setting and the adapter.
    """
    if (machine.gpus_per_job or 1) > 1:
        _refuse_methods_of_one_card(adapters)
    if machine.shard:
        _refuse_unsharded(adapters)
    if machine.eval_steps:
        _refuse_other_validations(adapters, machine.eval_steps)
    if not machine.gradient_checkpointing:
        return
    for adapter in adapters:
        training = override_training(plan_training(adapter.params), machine)
        # a label begins with the model
        architecture = read_card("models", adapter.label.partition("/")[0]).architecture
        where = f"--config: {adapter.label.rstrip('/')}"
        check_training(adapter.params["method"], training, architecture=architecture, where=where)


def _check_second_stage(name: str, protocols: Sequence[str], *, where: str) -> None:
    """Refuse a second stage that does not fit its first stage."""
    card: Protocol = read_card("protocols", name)
    if card.first_stage is None:
        return
    key = f"params/protocols/{name}.yaml: first_stage"
    try:
        first: Protocol = read_card("protocols", card.first_stage)
    except UserError as error:
        raise UserError(f"{key}: {error}") from None
    problem = "compares likelihoods" if first.parser == "likelihood" else ""
    problem = problem or ("is a second stage itself" if first.first_stage else "")
    problem = problem or ("samples several answers to a question" if first.sampling else "")
    if problem:
        raise UserError(f"{key}: '{card.first_stage}' {problem}; name a protocol that generates text")
    for field in ("template", "parser", "shots", "shots_split", "shots_seed"):
        own, other = getattr(card, field), getattr(first, field)
        if own != other:
            raise UserError(
                f"{key}: '{card.first_stage}' has {field} {other}, and this card has {own}; both stages need the same"
            )
    if missing := [form for form in card.forms if form not in first.forms]:
        raise UserError(f"{key}: '{card.first_stage}' has no answers of the form {', '.join(missing)}")
    if card.first_stage not in protocols:
        raise UserError(
            f"{where}: protocols: '{name}' completes the answers of '{card.first_stage}'; list '{card.first_stage}' too"
        )


def _check_texts(texts: Texts, *, where: str) -> None:
    """Refuse texts without a likelihood that is worth measuring: answers of tasks, or rows without an answer form."""
    _refuse_repetition("texts: datasets", texts.datasets, where=where)
    for name in texts.datasets:
        form = read_card("datasets", name).answer_form
        if form not in TEXT_FORMS:
            raise UserError(
                f"{where}: texts: datasets: '{name}' has answer_form {form or 'null'}; texts need a card with "
                f"{' or '.join(TEXT_FORMS)}"
            )


def find_obstacle_to_split(method: Mapping[str, Any]) -> str | None:
    """Return the key of an adapter's method that rules out a base over several GPUs; None: the base may be split."""
    return next((key for key in ("peft_type", "init_lora_weights") if method.get(key) in ONE_CARD), None)


def _refuse_methods_of_one_card(adapters: Iterable[Artifact]) -> None:
    for adapter in adapters:
        method = adapter.params["method"]
        if key := find_obstacle_to_split(method):
            raise UserError(
                f"--config gpus_per_job: {adapter.label.rstrip('/')}: {key}: peft's {method[key]} does not work on a base split over "
                "several GPUs; use one GPU, or another method"
            )


def _refuse_unsharded(adapters: Iterable[Artifact]) -> None:
    for adapter in adapters:
        method, quantization = adapter.params["method"], adapter.params["training"].get("quantization")
        obstacle = ""
        if method["kind"] == "full":
            obstacle = "kind: full trains the whole base, and only frozen weights are sharded"
        elif method.get("init_lora_weights") in DATA_DRIVEN:
            obstacle = f"init_lora_weights: {method['init_lora_weights']} is computed with the whole base"
        elif quantization:
            obstacle = f"quantization: {quantization}: quantized weights cannot be sharded"
        if obstacle:
            raise UserError(f"--config shard: {adapter.label.rstrip('/')}: {obstacle}; use shard=false")


def _refuse_other_validations(adapters: Iterable[Artifact], eval_steps: int) -> None:
    for adapter in adapters:
        training = plan_training(adapter.params)
        if training.depends_on_validation and training.eval_steps != eval_steps:
            raise UserError(
                f"--config eval_steps: {adapter.label.rstrip('/')}: its val_loss decides which weights are saved, so its steps are "
                f"those of the card, {training.eval_steps} (got {eval_steps}); leave eval_steps out"
            )


def _refuse_other_models(names: Iterable[str], models: Sequence[str], *, where: str) -> None:
    for name in names:
        if name not in models:
            raise UserError(f"{where}: '{name}' is not a model of the study {list_choices(name, models)}")


def _refuse_repetition(key: str, values: Sequence[str | int], *, where: str) -> None:
    # results lie in folders of these names, and some file systems ignore case
    folded = [str(value).casefold() for value in values]
    for value in values:
        if folded.count(str(value).casefold()) > 1:
            raise UserError(f"{where}: {key}: '{value}' is repeated (a method used twice needs a label)")


def _refuse_joined_names(key: str, first: Sequence[str], second: Sequence[str], *, where: str) -> None:
    """Refuse names whose pairs, joined by a dash as in a file name, are not all different."""
    pairs: dict[str, tuple[str, str]] = {}
    for pair in product(first, second):
        joined = "-".join(pair).casefold()
        other = pairs.setdefault(joined, pair)
        if other != pair:
            raise UserError(
                f"{where}: {key}: '{other[0]}' under '{other[1]}' and '{pair[0]}' under '{pair[1]}' would share the file "
                f"'{joined}'; rename one of them"
            )


def _refuse_equal_titles(key: str, titles: Mapping[str, str], *, where: str) -> None:
    """Refuse names with one title: rows or columns of tables could not be told apart."""
    name_of: dict[str, str] = {}
    for name, title in titles.items():
        other = name_of.setdefault(title, name)
        if other != name:
            raise UserError(
                f"{where}: {key}: '{other}' and '{name}' have the title '{title}', so tables cannot tell them apart; "
                "change one in its card, or leave one out"
            )


def lacks_quantized_results(artifacts: Mapping[str, Iterable[Artifact]]) -> bool:
    """Return whether an adapter or answers on a quantized base are still to be made.

    Args:
        artifacts: of a study, by stage.
    """
    quantized = [adapter for adapter in artifacts["train"] if adapter.params["training"].get("quantization")]
    quantized += [
        answers
        for answers in (*artifacts["generate"], *artifacts["distill"])
        if any(isinstance(part, dict) and "quantization" in part for part in answers.params.values())
    ]
    return not all(artifact.path.exists() for artifact in quantized)


def refuse_aliases(artifacts: Iterable[Artifact], *, where: str) -> None:
    """Refuse two cards of one content, such as two models of one repository: a result would have two paths.

    Raises:
        UserError: it names both cards.
    """
    first_of: dict[tuple[str, str], Artifact] = {}
    for artifact in artifacts:
        first = first_of.setdefault((artifact.stage, artifact.fingerprint), artifact)
        if first.path != artifact.path:
            # of a distilled set, the first folder is that of all sets
            labels = [source.label.removeprefix("sets/") for source in (first, artifact)]
            names = [label.partition("/")[0] for label in labels]
            raise UserError(
                f"{where}: '{names[0]}' and '{names[1]}' are the same {'model' if artifact.stage == 'base' else 'dataset'} under "
                "two names; use only one of them"
            )
