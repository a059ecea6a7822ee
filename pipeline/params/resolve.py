"""Settings of a run that follow from several cards."""

import re
from collections.abc import Mapping
from typing import Any

from pipeline.core.errors import UserError
from pipeline.params.architectures import LINEAR_MODULES, check_method, select_for_architecture
from pipeline.params.base import AnswerForm, Training, TrainingOverlay
from pipeline.params.datasets import Dataset
from pipeline.params.methods import Method
from pipeline.params.peft.quantization import check_quantization
from pipeline.params.peft.values import check_peft_training
from pipeline.params.protocols import Decoding
from pipeline.params.reading import parse_card, read_card
from pipeline.params.studies import Entry, StudyCard


def resolve_training(*layers: tuple[str, TrainingOverlay]) -> Training:
    """Return the training settings that result from the defaults and ``layers``; a later layer wins.

    A layer that sets ``max_steps`` without ``epochs`` replaces the number of epochs, and the reverse.

    Args:
        layers: for each the place that it is from, for messages, and its settings.

    Raises:
        UserError: a layer sets both ``epochs`` and ``max_steps``, or neither remains.
    """
    merged: dict[str, object] = {}
    for where, layer in layers:
        changes = layer.model_dump()
        # Exactly one of the two may be set; the layer's own choice replaces that of the layers below.
        if layer.max_steps is not None and "epochs" not in changes:
            changes["epochs"] = None
        elif "epochs" in changes and layer.epochs is not None and "max_steps" not in changes:
            changes["max_steps"] = None
        merged |= changes
        # Checked after each layer, so that the message names the layer with the mistake.
        training: Training = parse_card(Training, merged, where=f"{where}: training")
    return training


def resolve_precision(card: StudyCard, adapter: Mapping[str, Any] | None, *, where: str) -> Decoding:
    """Return the precision in which a run's answers are computed, as far as it is part of their fingerprint.

    Args:
        card: the study's.
        adapter: the params of the run's adapter: its dtype is that of the answers unless the study sets another, and its
            base is quantized as it was in training. None: a bare base, one run however its adapters are trained, for
            which the study's own settings of training count.
        where: the study's file, for messages.

    Raises:
        UserError: the study merges adapters, and the answers are computed in 16 bits or on a quantized base.
    """
    training = adapter["training"] if adapter else card.training.model_dump()
    # a study's own settings are dumped without those that it does not set
    dtype = card.evaluation.dtype or training.get("dtype", "float32")
    # a fully trained model has no weights of a base to round
    is_full = adapter is not None and adapter["method"]["kind"] == "full"
    weights = dtype if is_full else card.evaluation.weights or dtype
    quantization = training.get("quantization")
    if card.merge_adapter and adapter and quantization:
        raise UserError(
            f"{where}: merge_adapter: not allowed on a base quantized to {quantization}, since rounding the merged weights would "
            "lose the adapter; leave merge_adapter out"
        )
    if card.merge_adapter and adapter and dtype != "float32":
        raise UserError(
            f"{where}: merge_adapter: not allowed with answers in {dtype}, since rounding the merged weights would lose the adapter; "
            "leave merge_adapter out, or set evaluation: {dtype: float32}"
        )
    precision: Decoding = {}
    # float32 is left out: answers from before the option existed keep their fingerprints
    if dtype != "float32":
        precision["dtype"] = dtype
    # So 16-bit answers have both keys. Answers with only a dtype were computed without autocast, by an earlier version.
    if weights != "float32":
        precision["weights"] = weights
    if quantization:
        precision["quantization"] = quantization
    return precision


def resolve_method(entry: Entry, *, architecture: str, where: str) -> dict[str, Any]:
    """Return the fields of a study's method for one architecture, without name, training and source.

    Args:
        entry: the method: a card, and the fields that the study changes.
        architecture: the listed one as which the model names its modules, such as "llama".
        where: the study's file, for messages.

    Raises:
        UserError: a field that the method does not have, or modules that the architecture does not have.
    """
    card, changes = read_card("methods", entry.method), entry.model_extra or {}
    in_study, in_card = f"{where}: methods.{entry.name}", f"params/methods/{entry.method}.yaml"
    merged = {**card.model_dump(exclude_unset=True), **changes}
    resolved = parse_card(Method, merged, where=in_study).model_dump()
    settings = {
        key: select_for_architecture(
            value, architecture=architecture, field=f"{in_study if key in changes else in_card}: {key}"
        )
        for key, value in resolved.items()
        if key not in ("name", "training", "source")
    }
    try:
        check_method(settings, architecture=architecture)
    except UserError as error:
        moved = any(re.search(rf"\b{re.escape(name)}:", str(error)) for name in changes)
        raise UserError(f"{in_study if moved else in_card}: {error}") from None
    return settings


def check_training(method: Mapping[str, Any], training: Training, *, architecture: str, where: str) -> None:
    """Refuse settings of a training that do not work with its method.

    Args:
        method: the resolved fields of the method.
        training: the resolved settings.
        architecture: of the model, such as "llama".
        where: the method's entry in the study, for messages.

    Raises:
        UserError: with the setting.
    """
    if training.depends_on_validation and not training.val_set_size:
        key = "keep: best" if training.keep == "best" else "early_stopping_patience"
        raise UserError(
            f"{where}: training: {key} needs val_set_size, the training examples to compute val_loss on"
        )
    try:
        check_peft_training(
            method, gradient_checkpointing=training.gradient_checkpointing, dtype=training.dtype
        )
        if training.quantization:
            check_quantization(
                method, training.quantization, linear_modules=LINEAR_MODULES.get(architecture, ())
            )
    except UserError as error:
        raise UserError(f"{where}: training: {error}") from None


def answer_form_of(task: str) -> AnswerForm:
    """Return the answer form of a task.

    Raises:
        UserError: there is no such dataset, or it has no answer form.
    """
    card: Dataset = read_card("datasets", task)
    if card.answer_form is None:
        raise UserError(f"params/datasets/{task}.yaml: answer_form: missing, so '{task}' cannot be a task")
    return card.answer_form
