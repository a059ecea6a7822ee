"""Settings of the machine that a job runs on: memory, speed and how often a training writes, but not what it computes.

They come from Snakemake's ``--config KEY=VALUE`` or the ``config:`` of a profile. None of them is in a fingerprint, so users
with different machines make, pull and compare the same results; run.json records them.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated

from pydantic import BeforeValidator, Field, ValidationError

from pipeline.core.errors import UserError, list_choices
from pipeline.core.hardware.devices import DEVICES
from pipeline.params.base import Strict, Training

# Keys of Snakemake's --config that the rules read themselves.
RULE_KEYS = ("study", "seeds", "data_root", "device", "processes", "adapters_per_load", "container")


def _refuse_boolean(value: object) -> object:
    # to pydantic, true is the integer 1
    if isinstance(value, bool):
        raise ValueError("must be a positive integer")
    return value


def _refuse_boolean_number(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a positive number")
    return value


# Keys of `training` that a card may set too.
TRAINING_KEYS = ("micro_batch_tokens", "gradient_checkpointing", "save_steps", "logging_steps", "eval_steps")

PositiveInteger = Annotated[int, BeforeValidator(_refuse_boolean), Field(gt=0)]
PositiveNumber = Annotated[float, BeforeValidator(_refuse_boolean_number), Field(gt=0, allow_inf_nan=False)]
# Snakemake reads a number as a number, also in the name of a folder
Folder = Annotated[str, Field(min_length=1, coerce_numbers_to_str=True)]


class MachineSettings(Strict):
    """Settings of a machine; without a value, the job decides."""

    micro_batch_tokens: PositiveInteger | None = Field(
        None, description="training: tokens per forward pass, padding included; fewer tokens need less memory"
    )
    packing: bool | None = Field(
        None, description="training: put the examples of a forward pass into one row, without padding"
    )
    gradient_checkpointing: bool | None = Field(
        None, description="training: save memory by recomputing activations in the backward pass"
    )
    compile: bool | None = Field(None, description="training: compile the decoder layers with torch.compile")
    save_steps: PositiveInteger | None = Field(
        None, description="training: steps between two checkpoints, from which a killed job resumes"
    )
    logging_steps: PositiveInteger | None = Field(
        None, description="training: steps between two rows of history.jsonl"
    )
    eval_steps: PositiveInteger | None = Field(
        None, description="training: steps between two computations of val_loss"
    )
    batch_tokens: PositiveInteger | None = Field(
        None, description="evaluation: tokens per batch, with padding and generated tokens"
    )
    continuous_batching: bool | None = Field(
        None,
        description="evaluation: generate greedy answers with transformers' continuous batching, where a test shows that they are equal",
    )
    threads: PositiveInteger | None = Field(None, description="threads of a job on a CPU")
    deterministic: bool | None = Field(
        None, description="on a GPU, use only kernels that give the same bits each time"
    )
    portable: bool | None = Field(
        None,
        description="on a CPU, use only kernels that each Intel processor with AVX2 has, so that all of them give the same bits",
    )
    gpus_per_job: PositiveInteger | None = Field(
        None,
        description="training and evaluation: split a job's base over this many GPUs of a machine; more GPUs hold a larger base",
    )
    shard: bool | None = Field(
        None,
        description="training: several processes share the frozen weights of the base's decoder layers (FSDP2)",
    )
    max_cost: PositiveNumber | None = Field(
        None,
        description="endpoints: the most that all responses of an endpoint may cost, at the price on its card; the run stops before it would exceed this",
    )
    models_root: Folder | None = Field(
        None, description="root folder of local models; the `path` of a model card is relative to it"
    )

    def chosen(self) -> dict[str, bool | int | float | str]:
        """Return the settings that have a value, as run.json records them."""
        return self.model_dump(exclude_none=True)

    def arguments(self) -> list[str]:
        """Return the options of a job's command line that pass these settings on."""
        texts = {
            key: str(value).lower() if isinstance(value, bool) else value
            for key, value in self.chosen().items()
        }
        return [part for key, text in texts.items() for part in ("--machine", f"{key}={text}")]


def override_training(training: Training, machine: MachineSettings) -> Training:
    """Return the settings that a job trains with: where the machine has a value, it replaces that of the cards.

    Fingerprints, manifests and checkpoints keep the values of the cards, or the defaults. Results from before these settings
    were the machine's were named by them, and keep their names so.
    """
    values = machine.chosen()
    return training.model_copy(update={key: values[key] for key in TRAINING_KEYS if key in values})


def check_config_options(config: Mapping[str, object]) -> MachineSettings:
    """Check the options that the user passed to snakemake by ``--config``; return those of the machine.

    Raises:
        UserError: an unknown key, or a value that no job accepts; it names the key, the value and the choices.
    """
    choices = (*RULE_KEYS, *MachineSettings.model_fields)
    for key, value in config.items():
        if key not in choices:
            raise UserError(f"--config {key}: unknown {list_choices(key, choices)}")
        if key == "device" and value not in DEVICES:
            raise UserError(f"--config device: unknown '{value}' (choices: {', '.join(DEVICES)})")
        if key in ("seeds", "processes") and not _is_positive_integer(value):
            raise UserError(f"--config {key}: must be a positive integer (got '{value}')")
        if key == "adapters_per_load" and value != "all" and not _is_positive_integer(value):
            raise UserError(
                f"--config adapters_per_load: must be a positive integer or 'all' (got '{value}')"
            )
    machine = _parse_settings(
        {key: value for key, value in config.items() if key not in RULE_KEYS}, option="--config"
    )
    check_processes(int(str(config.get("processes", 1))), machine)
    return machine


def check_processes(processes: int, machine: MachineSettings) -> None:
    """Refuse a number of processes for a training that another setting cannot be combined with.

    Raises:
        UserError: naming both settings.
    """
    if machine.shard and processes == 1:
        raise UserError(
            "--config shard: sharding needs several processes, but there is 1; add processes=N, with a process for each GPU"
        )
    if machine.shard and machine.compile:
        raise UserError("--config shard: cannot be combined with compile=true; use one of the two")
    if processes > 1 and (machine.gpus_per_job or 1) > 1:
        raise UserError(
            f"--config gpus_per_job: {machine.gpus_per_job} GPUs for a base cannot be combined with processes={processes}; use one of the two"
        )


def parse_machine_options(options: Iterable[str]) -> MachineSettings:
    """Return the settings that a job's options ``--machine KEY=VALUE`` hold; the last of several for a key wins.

    Raises:
        UserError: an option of another form, an unknown key, or a value that is not allowed.
    """
    values = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals:
            raise UserError(f"--machine {option}: must be KEY=VALUE")
        values[key] = value
    return _parse_settings(values, option="--machine")


def _parse_settings(values: Mapping[str, object], *, option: str) -> MachineSettings:
    for key in values:
        if key not in MachineSettings.model_fields:
            raise UserError(f"{option} {key}: unknown {list_choices(key, MachineSettings.model_fields)}")
    try:
        return MachineSettings.model_validate(dict(values))
    except ValidationError as error:
        details = error.errors()[0]
        key = str(details["loc"][0])
        raise UserError(f"{option} {key}: must be {_choices(key)} (got '{details['input']}')") from None


def _choices(key: str) -> str:
    """Return in words what a setting may be."""
    schema = MachineSettings.model_json_schema()["properties"][key]["anyOf"][0]
    return {"integer": "a positive integer", "number": "a positive number", "boolean": "true or false"}.get(
        schema["type"], "a folder"
    )


def _is_positive_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
