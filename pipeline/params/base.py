"""What several kinds of card share: strict sections, templates, answer forms and the settings of training."""

import re
from collections.abc import Container, Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from pipeline.core.errors import list_choices
from pipeline.params.templates import TEMPLATE_NAMES

# keys of other programs -> ours: LLM-Adapters' commands, the arguments of transformers and peft, LLaMA-Factory
FOREIGN_KEYS = {
    "lora_r": "r",
    "lora_rank": "r",
    "rank": "r",
    "lora_target": "target_modules",
    "lora_target_modules": "target_modules",
    "num_epochs": "epochs",
    "num_train_epochs": "epochs",
    "lr": "learning_rate",
    "lr_scheduler_type": "lr_scheduler",
    "num_warmup_steps": "warmup_steps",
    "per_device_train_batch_size": "batch_size",
    "micro_batch_size": "micro_batch_tokens",
    "max_length": "cutoff_len",
    "max_seq_length": "cutoff_len",
    "load_in_4bit": "quantization",
    "load_in_8bit": "quantization",
    "quantization_bit": "quantization",
    "bf16": "dtype",
    "fp16": "dtype",
    "torch_dtype": "dtype",
    "model_name_or_path": "repo_id",
    "base_model": "repo_id",
}
# the type of the error that refuse_unknown_keys raises
UNKNOWN_KEY = "unknown_key"


def refuse_unknown_keys(data: Mapping[Any, Any], choices: Iterable[str]) -> None:
    """Refuse the keys of ``data`` that are not among the choices.

    Raises:
        ValidationError: an error for each such key, with the choices; pydantic adds the path of the section.
    """
    choices = list(choices)
    errors = [
        InitErrorDetails(type=_unknown_key(str(key), choices), loc=(key,), input=value)
        for key, value in data.items()
        if key not in choices
    ]
    # raised as pydantic's own error, so that it is reported together with the other mistakes of the card
    if errors:
        raise ValidationError.from_exception_data("card", errors)


def own_key(key: str, choices: Container[str]) -> str | None:
    """Return our key for a key of another program, if it is among the choices."""
    meant = FOREIGN_KEYS.get(key)
    return meant if meant in choices else None


def _unknown_key(key: str, choices: list[str]) -> PydanticCustomError:
    listed = list_choices(key, choices, meant=own_key(key, choices))
    return PydanticCustomError(UNKNOWN_KEY, "unknown key {choices}", {"choices": listed})


# Names become folders, file names and parts of shell commands and messages. Results end in 12 hex digits; "bare" stands for
# the base without an adapter, and "shots" for the input with worked examples.
NAME_PATTERN = r"^(?!(bare|shots)$)(?!(.*-)?[0-9a-f]{12}$)[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$"
NAME_RULE = (
    "a name has at most 64 letters, digits, '.', '_' and '-', begins with a letter, digit or '_', does not end in 12 hex "
    "digits, which mark results, and is not 'bare' or 'shots'"
)


def check_name(name: str) -> str:
    """Return a name that is fit for paths and commands.

    Raises:
        ValueError: it is not; the message is the rule.
    """
    # in lower case too, since some file systems ignore case
    for text in (name, name.lower()):
        # not re.match, since $ also matches before a line end
        if not re.fullmatch(NAME_PATTERN, text):
            raise ValueError(NAME_RULE)
    return name


Name = Annotated[str, AfterValidator(check_name), Field(json_schema_extra={"pattern": NAME_PATTERN})]


class Strict(BaseModel):
    """A frozen section of a card; it refuses unknown keys and lists the known ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: Any) -> Any:
        # pydantic's own error for an unknown key does not list the choices
        if isinstance(data, dict):
            refuse_unknown_keys(data, cls.model_fields)
        return data


def _check_template_name(name: str) -> str:
    if name not in TEMPLATE_NAMES:
        raise ValueError(f"unknown template (choices: {', '.join(TEMPLATE_NAMES)})")
    return name


Template = Annotated[str, AfterValidator(_check_template_name)]


AnswerForm = Literal[
    "number", "letter", "boolean", "solution", "answer", "ending", "option", "mixed", "text", "passage"
]


Dtype = Literal["float32", "bfloat16", "float16"]
Quantization = Literal["nf4", "int8"]


class TrainingSettings(Strict):
    """The settings of a training. Defaults are the published ones (arXiv:2304.01933 and its commands)."""

    learning_rate: float = Field(3e-4, gt=0, le=1, description="peak learning rate")
    batch_size: int = Field(16, gt=0, description="examples in an optimizer step")
    epochs: float | None = Field(
        3, gt=0, description="passes over the training set; null if max_steps is set"
    )
    max_steps: int | None = Field(None, gt=0, description="number of optimizer steps, instead of epochs")
    warmup_steps: int = Field(100, ge=0, description="steps during which the learning rate rises to its peak")
    # From here to adam_epsilon: the defaults of transformers' Trainer, which the published code keeps.
    lr_scheduler: Literal["linear", "cosine", "constant"] = Field(
        "linear", description="schedule of the learning rate after the warm-up"
    )
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to this norm")
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    adam_epsilon: float = Field(1e-8, gt=0)
    cutoff_len: int = Field(
        256,
        gt=1,
        description="most tokens of prompt and response together; a longer example is truncated at its end",
    )
    train_on_inputs: bool = Field(
        True, description="compute the loss on the prompt too, not only on the response"
    )
    micro_batch_tokens: int = Field(
        4096, gt=0, description="tokens per forward pass, padding included; fewer tokens need less memory"
    )
    val_set_size: int = Field(0, ge=0, description="training examples held out to compute val_loss")
    eval_steps: int = Field(200, gt=0, description="steps between two computations of val_loss")
    keep: Literal["last", "best"] = Field(
        "last",
        description="the weights that are saved: those of the last step, or those with the lowest val_loss",
    )
    early_stopping_patience: int | None = Field(
        None,
        gt=0,
        description="stop training when val_loss has not reached a new minimum this many times in a row; null: never",
    )
    logging_steps: int = Field(10, gt=0, description="steps between two rows of history.jsonl")
    save_steps: int = Field(200, gt=0, description="steps between two checkpoints")
    dtype: Dtype = Field(
        "float32",
        description="dtype of the base's weights and of matrix products; trained tensors are float32",
    )
    quantization: Quantization | None = Field(
        None,
        description="store the weights of the base's linear modules in 4 bits (nf4) or 8 bits (int8); null: in dtype",
    )
    gradient_checkpointing: bool = Field(
        False, description="save memory by recomputing activations in the backward pass"
    )


class Training(TrainingSettings):
    """The complete settings of a training."""

    @model_serializer(mode="wrap")
    def _dump_without_unused(self, dump: SerializerFunctionWrapHandler) -> dict[str, object]:
        # added later: left out where they are unused, so that no earlier fingerprint changes
        unused = {"quantization": None, "keep": "last", "early_stopping_patience": None}
        return {key: value for key, value in dump(self).items() if key not in unused or value != unused[key]}

    @model_validator(mode="after")
    def _check_length(self) -> "Training":
        if (self.epochs is None) == (self.max_steps is None):
            raise ValueError("set epochs or max_steps, and the other to null")
        return self

    @property
    def depends_on_validation(self) -> bool:
        """Whether the validation loss decides which weights are saved, so that its steps are part of the result."""
        return self.keep == "best" or self.early_stopping_patience is not None


class TrainingOverlay(TrainingSettings):
    """Training settings that a card changes; all others come from the layers below it, then from the defaults."""

    @model_serializer(mode="wrap")
    def _dump_changes(self, dump: SerializerFunctionWrapHandler) -> dict[str, object]:
        # a default must not hide what a lower layer sets
        return {key: value for key, value in dump(self).items() if key in self.model_fields_set}
