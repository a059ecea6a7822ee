"""The settings of a training and its evaluation under common names: those of a published command, and of our run."""

from typing import Literal

from pydantic import Field

from pipeline.core.errors import UserError
from pipeline.params.base import Strict
from pipeline.params.published.cards import PublishedCommand, PublishedCommands
from pipeline.params.reading import read_card
from pipeline.study.grid import Study
from pipeline.study.run import Run

# the protocol that follows the published evaluation
PROTOCOL = "paper"
# the settings that belong to one kind of adapter
METHOD_SETTINGS = {
    "lora": ("lora_r", "lora_alpha", "lora_dropout", "target_modules"),
    "bottleneck": (
        "bottleneck_size",
        "non_linearity",
        "adapter_dropout",
        "scaling",
        "init_weights",
        "placement",
        "target_modules",
    ),
    "prefix-tuning": ("num_virtual_tokens",),
}
# peft_type -> the published name
ADAPTER_NAMES = {"LORA": "lora", "PREFIX_TUNING": "prefix-tuning"}


# a setting that trials choose has no value of its own in the params
Tuned = Literal["tuned"]


class Settings(Strict):
    """The settings that decide what is trained and how it answers; None: the method or program has no such setting."""

    base_model: str = Field(description="repository of the base on the hub")
    training_set: str = Field(description="training data")
    adapter_name: str = Field(description="kind of adapter")
    target_modules: list[str] | str | None = Field(None, description="linear layers that have an adapter")
    placement: dict[str, str] | str | None = Field(None, description="position of a bottleneck adapter")
    bottleneck_size: int | None = Field(None, description="width of the adapter")
    non_linearity: str | None = Field(None, description="activation of the adapter")
    adapter_dropout: float | None = Field(None, description="dropout on the adapter's input")
    scaling: float | str | None = Field(None, description="factor of the adapter's output")
    init_weights: str | None = Field(None, description="initial weights of the adapter")
    lora_r: int | None = Field(None, description="rank of LoRA")
    lora_alpha: int | None = Field(None, description="the scale is lora_alpha / lora_r")
    lora_dropout: float | None = Field(None, description="dropout on LoRA's input")
    num_virtual_tokens: int | None = Field(None, description="length of the prefix")
    method_settings: dict[str, object] = Field(
        default_factory=dict, description="other settings of the method that are not at their defaults"
    )
    learning_rate: float | Tuned = Field(description="peak value")
    num_epochs: float | None = Field(description="passes over the training set")
    batch_size: int = Field(description="examples in a step")
    micro_batch: str = Field(description="size of a forward pass within a step")
    cutoff_len: int = Field(description="maximum length of an example, in tokens")
    warmup_steps: int | Tuned = Field(description="steps until the learning rate peaks")
    lr_scheduler: str = Field(description="course of the learning rate after the warm-up")
    weight_decay: float | Tuned
    max_grad_norm: float | Tuned = Field(description="gradients are clipped to this norm")
    adam_beta1: float | Tuned
    adam_beta2: float | Tuned
    adam_epsilon: float | Tuned
    train_on_inputs: bool = Field(description="the loss covers the prompt too")
    group_by_length: bool = Field(description="a step has examples of similar length")
    gradient_checkpointing: bool = Field(description="saves memory, costs time")
    val_set_size: int = Field(description="examples held out of the training")
    load_best_model_at_end: bool = Field(
        description="keep the checkpoint with the lowest held-out loss, not the last"
    )
    save_steps: int = Field(description="steps between two checkpoints")
    seeds: list[int] | None = Field(description="of the initial weights and the order of the data")
    load_8bit: bool = Field(description="8-bit base in training")
    torch_dtype: str = Field(description="dtype of the base's weights in training")
    autocast: str | None = Field(description="dtype of the computation in training")
    eval_load_8bit: bool = Field(description="8-bit base in evaluation")
    eval_torch_dtype: str = Field(description="dtype of the base's weights in evaluation")
    eval_dtype: str = Field(description="dtype of the computation in evaluation")
    eval_batch_size: int | None = Field(description="prompts in a batch")
    eval_padding: str = Field(description="padding of shorter prompts in a batch")
    do_sample: bool = Field(description="sample tokens at random")
    temperature: float | None
    top_p: float | None
    top_k: int | None
    num_beams: int
    max_new_tokens: list[int] = Field(description="maximum length of an answer, in tokens")


def published_settings(card: PublishedCommands, name: str) -> Settings:
    """Return the settings of a published command, with those that its programs set themselves."""
    command = card.commands[name]
    flags, evaluation = command.flags, card.evaluations[command.evaluation]
    values: dict[str, object] = flags.model_dump() | card.training.model_dump()
    if flags.adapter_name == "bottleneck":
        values["placement"] = _published_placement(card, command)
        values["target_modules"] = list(_published_placement(card, command))
    foreign = {
        setting
        for kind, settings in METHOD_SETTINGS.items()
        if kind != flags.adapter_name
        for setting in settings
    }.difference(METHOD_SETTINGS[flags.adapter_name])
    values |= {
        "training_set": flags.data_path.removesuffix(".json"),
        "micro_batch": f"{flags.micro_batch_size} examples",
        "gradient_checkpointing": flags.use_gradient_checkpointing,
        "load_best_model_at_end": flags.val_set_size > 0,
        "save_steps": flags.save_step,
        # the program has no flag, and seeds its Trainer only after the adapter is made and the data shuffled
        "seeds": None,
        "eval_load_8bit": evaluation.load_8bit,
        # the program computes in the type of the weights
        "eval_torch_dtype": evaluation.torch_dtype,
        "eval_dtype": evaluation.torch_dtype,
        "eval_batch_size": evaluation.batch_size,
        "eval_padding": evaluation.padding,
        "max_new_tokens": [evaluation.max_new_tokens],
    }
    for setting in ("do_sample", "temperature", "top_p", "top_k", "num_beams"):
        values[setting] = getattr(evaluation, setting)
    return _select_settings({key: value for key, value in values.items() if key not in foreign})


def _published_placement(card: PublishedCommands, command: PublishedCommand) -> dict[str, str]:
    architecture, flags = read_card("models", command.model).architecture, command.flags
    places = card.placement[architecture]
    default = card.adapterp_modules[architecture] if flags.use_adapterp else list(places)
    modules = sorted(flags.target_modules or default)
    return {module: "parallel" if flags.use_parallel_adapter else places[module] for module in modules}


def resolved_settings(study: Study, command: PublishedCommand, *, where: str) -> Settings:
    """Return the settings of a study's run that corresponds to a published command.

    Args:
        study: the study that the command names.
        command: with the run's model and method.
        where: the command's place in its card, for messages.

    Raises:
        UserError: the study has no such run, or does not have the protocol ``paper``.
    """
    runs = [run for run in study.runs if (run.model, run.method) == (command.model, command.method)]
    adapter = runs[0].adapter if runs else None
    if adapter is None:
        raise UserError(f"{where}: {study.where} has no run of '{command.model}' with '{command.method}'")
    training = adapter.params["training"]
    values = (
        training | _resolved_method(adapter.params["method"]) | _resolved_evaluation(study, runs[0], where)
    )
    values |= {
        "base_model": read_card("models", command.model).repo_id,
        "training_set": runs[0].arms[0].training_set,
        "num_epochs": training["epochs"],
        "micro_batch": f"{training['micro_batch_tokens']} padded tokens",
        # steps are drawn at random, and only their micro-batches are by length (pipeline/models/batches.py)
        "group_by_length": False,
        "load_best_model_at_end": training.get("keep") == "best",
        "load_8bit": training.get("quantization") == "int8",
        # answers are computed on the base of the training
        "eval_load_8bit": training.get("quantization") == "int8",
        "seeds": sorted({run.seed for run in runs if run.seed is not None}),
        "torch_dtype": training["dtype"],
        "autocast": training["dtype"] if training["dtype"] != "float32" else None,
    }
    return _select_settings(values)


def _resolved_method(method: dict[str, object]) -> dict[str, object]:
    kind = method.get("peft_type", method["kind"])
    name = ADAPTER_NAMES.get(str(kind), str(kind))
    values = {("lora_r" if key == "r" else key): value for key, value in method.items()}
    if isinstance(placement := values.get("placement"), dict):
        # where a card names no target modules, they are the modules of the placement
        values["placement"] = dict(sorted(placement.items()))
        values["target_modules"] = values["target_modules"] or list(placement)
    compared = {"kind", "peft_type", *METHOD_SETTINGS.get(name, ())}
    remaining = {key: value for key, value in values.items() if key not in compared}
    return values | {"adapter_name": name, "method_settings": remaining}


def _resolved_evaluation(study: Study, run: Run, where: str) -> dict[str, object]:
    decodings = [task.decoding for task in study.tasks(run) if task.protocol.name == PROTOCOL]
    if not decodings:
        raise UserError(f"{where}: {study.where} does not have the protocol '{PROTOCOL}'")
    first: dict[str, object] = dict(decodings[0])
    dtype = first.get("dtype", "float32")
    return {
        # tokens are never drawn at random, so nothing shapes the distribution that they would be drawn from
        "do_sample": False,
        "temperature": None,
        "top_p": None,
        "top_k": None,
        "num_beams": first["num_beams"],
        "max_new_tokens": sorted({decoding["max_new_tokens"] for decoding in decodings}),
        "eval_torch_dtype": first.get("weights", dtype),
        "eval_dtype": dtype,
        "eval_batch_size": first.get("batch_size"),
        "eval_padding": first.get("padding", "masked"),
    }


def _select_settings(values: dict[str, object]) -> Settings:
    selected = {key: value for key, value in values.items() if key in Settings.model_fields}
    if isinstance(modules := selected.get("target_modules"), list):
        # their order does not matter
        selected["target_modules"] = sorted(modules)
    return Settings.model_validate(selected)
