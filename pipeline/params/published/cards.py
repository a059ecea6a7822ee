"""Cards of published figures and commands, which reports and docs/deviations.md compare with our own."""

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from pipeline.params.base import Strict

Percent = Annotated[float, Field(ge=0, le=100)]
MEASUREMENT = "a key of the card's measurements"


def _require_place(source: str) -> str:
    if not source.strip():
        raise ValueError("is empty; say where this is printed, or leave out what has no source")
    return source


Source = Annotated[str, AfterValidator(_require_place)]

# what a procedure may state, in the order of tables
Step = Literal[
    "base",
    "training_set",
    "prompt",
    "loss",
    "rank",
    "target_modules",
    "learning_rate",
    "batch_size",
    "epochs",
    "cutoff_len",
    "dropout",
    "warmup",
    "dtype",
    "checkpoint",
    "seeds",
    "evaluation_prompt",
    "decoding",
    "padding",
    "parser",
]


class Extended(Strict):
    """A section with fields that were added later. Where they are unused, its dump has them not: a report's identity has the cards."""

    later: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _dump_without_unused(self, dump: SerializerFunctionWrapHandler) -> dict[str, object]:
        return {key: value for key, value in dump(self).items() if key not in self.later or value}


class Fact(Strict):
    """A part of a published procedure, in words, and where it is stated."""

    value: str = Field(min_length=1)
    source: Source = Field(
        description="a file with its line, below the card's repository; or an address, or a place in the publication"
    )


class Measurement(Extended):
    """How published accuracies were measured. Write "not stated" where the source does not say."""

    later: ClassVar[tuple[str, ...]] = ("differences", "procedure")

    measured_by: str = Field(description="who measured them, and in which publication")
    prompting: str = Field(
        description="how the model was trained for the tasks, if at all, and how it was prompted"
    )
    parsing: str = Field(description="how its answers were parsed")
    protocol: str | None = Field(
        None,
        description="the card of params/protocols/ that follows this procedure, but for differences; null: none does",
    )
    differences: str = Field(
        "", description="what the protocol does differently; empty: nothing that the source states"
    )
    procedure: dict[Step, Fact] = Field(
        default_factory=dict,
        description="training and evaluation step by step, each with its source; what is missing is not stated",
    )

    @property
    def protocol_here(self) -> str:
        """The protocol that follows the procedure and what it does differently, in words; "none": none does."""
        return (self.protocol or "none") + (f", but {self.differences}" if self.differences else "")

    @model_validator(mode="after")
    def _check_differences(self) -> "Measurement":
        if self.differences and self.protocol is None:
            raise ValueError("differences: only with protocol, from which the procedure differs")
        return self


class PublishedRow(Extended):
    """The published figures of a method on a model."""

    later: ClassVar[tuple[str, ...]] = ("label", "settings", "source")

    model: str = Field(description="a card of params/models/; any other name is shown without a comparison")
    method: str | None = Field(None, description="a card of params/methods/; null: no adapter, or see label")
    label: str = Field(
        "",
        description="the publication's name of the method, where it has no card or its settings are not the card's; empty: as the card",
    )
    settings: dict[str, int | float | str | bool] = Field(
        default_factory=dict,
        description="fields of the method's card or of training that the publication states for the row, such as r: 16; a run is "
        "compared if it has them. Empty: the card's own",
    )
    accuracy: list[Percent | None] = Field(
        description="in percent, in the order of the table's tasks; null: not published"
    )
    average: Percent | None = Field(None, description="in percent, as published: the mean over tasks")
    measurement: str | None = Field(None, description=f"{MEASUREMENT}; null: that of the table")
    source: Source | None = Field(None, description="place of the row; null: that of the table")

    @property
    def is_bare(self) -> bool:
        """Whether the row is that of a model without an adapter."""
        return self.method is None and not self.label

    @property
    def title(self) -> str:
        """The row's method as the publication or our card names it."""
        return self.label or self.method or "no adapter"

    @model_validator(mode="after")
    def _check_settings(self) -> "PublishedRow":
        if self.settings and self.method is None:
            raise ValueError("settings: only with method, the card that they change")
        return self


class PublishedPart(Strict):
    """What a published table and a published figure have in common: numbers of one training set on the same tasks."""

    name: str = Field(description="of the table or figure")
    training_set: str = Field(description="a card of params/datasets/")
    source: Source = Field(description="place in the publication")
    measurement: str = Field(description=f"{MEASUREMENT}: that of all rows or points without one")
    notes: str = ""
    tasks: list[str] = Field(min_length=1, description="cards of params/datasets/")


class PublishedTable(PublishedPart):
    """A published table: a row for each method on a model."""

    rows: list[PublishedRow] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_rows(self) -> "PublishedTable":
        for row in self.rows:
            if len(row.accuracy) != len(self.tasks):
                name = " ".join(filter(None, (row.model, row.method)))
                raise ValueError(f"{name}: needs {len(self.tasks)} accuracies, of which some may be null")
        return self


class PublishedPoint(Strict):
    """A point of a published figure."""

    model: str = Field(description="a card of params/models/")
    method: str = Field(description="a card of params/methods/: the line that the point is on")
    setting: int | float | str = Field(description="position on the axis, as the study's figure has it")
    average: Percent = Field(description="in percent: the mean over the figure's tasks")
    source: Source = Field(description="where the number is printed")
    measurement: str | None = Field(None, description=f"{MEASUREMENT}; null: that of the figure")


class PublishedFigure(PublishedPart):
    """A published figure: the average accuracy over tasks against a setting of the methods."""

    field: str = Field(description="the setting that varies: a key of figure.x in the study")
    points: list[PublishedPoint] = Field(min_length=1)


class Published(Extended):
    """The tables and figures of one publication."""

    later: ClassVar[tuple[str, ...]] = ("repository",)

    title: str
    repository: str = Field(
        "",
        pattern=r"^(https://github\.com/[^/]+/[^/]+/blob/[0-9a-f]{40})?$",
        description="address of the publication's repository at a commit, https://github.com/OWNER/NAME/blob/COMMIT, below which "
        "sources such as README.md#L10 lie; empty: sources are complete",
    )
    measurements: dict[str, Measurement] = Field(
        min_length=1, description="name -> how the figures were measured"
    )
    tables: list[PublishedTable] = Field(default_factory=list)
    figures: list[PublishedFigure] = Field(default_factory=list)

    @property
    def parts(self) -> Sequence[PublishedTable | PublishedFigure]:
        """The tables, then the figures."""
        return [*self.tables, *self.figures]

    def locate(self, source: str) -> str:
        """Return the address of a source that is a file of the repository; any other source as it is."""
        is_file = re.fullmatch(r"[\w./-]+\.\w+(#L\d+(-L\d+)?)?", source)
        return f"{self.repository}/{source}" if self.repository and is_file else source

    @model_validator(mode="after")
    def _check_parts(self) -> "Published":
        if not self.parts:
            raise ValueError("needs tables or figures")
        for part in self.parts:
            for name in _list_measurements(part):
                if name not in self.measurements:
                    choices = ", ".join(self.measurements)
                    raise ValueError(f"{part.name}: measurement: unknown '{name}' (choices: {choices})")
        return self


def _list_measurements(part: PublishedTable | PublishedFigure) -> Iterator[str]:
    yield part.measurement
    entries = part.rows if isinstance(part, PublishedTable) else part.points
    yield from (entry.measurement for entry in entries if entry.measurement)


class CommandFlags(Strict):
    """The flags of a published training command; the defaults are those of the published program.

    Source: github.com/AGI-Edgerunners/LLM-Adapters/blob/816657208af4db747803f87ba40a4c71383fed7a/finetune.py#L31-L65
    """

    base_model: str = Field(description="model repository on the hub")
    data_path: str = Field(description="file of the training set")
    adapter_name: Literal["lora", "bottleneck", "prefix-tuning"] = "lora"
    load_8bit: bool = Field(False, description="quantize the base to 8 bits")
    batch_size: int = 128
    micro_batch_size: int = 4
    num_epochs: float = 3
    learning_rate: float = 3e-4
    cutoff_len: int = Field(256, description="in tokens")
    val_set_size: int = Field(2000, description="examples held out of the training")
    use_gradient_checkpointing: bool = False
    eval_step: int = Field(
        200, description="steps between two computations of the loss on the held-out examples"
    )
    save_step: int = Field(200, description="steps between two checkpoints")
    lora_r: int = 8
    lora_alpha: int = 16
    lora_dropout: float = 0.05
    target_modules: list[str] | None = Field(None, description="null: the defaults of the architecture")
    bottleneck_size: int = 256
    non_linearity: str = "tanh"
    adapter_dropout: float = 0.0
    use_parallel_adapter: bool = Field(False, description="bottleneck adapters beside the modules")
    use_adapterp: bool = Field(
        False, description="a bottleneck adapter after the last module of the MLP: AdapterP"
    )
    scaling: float = 1.0
    num_virtual_tokens: int = 30
    train_on_inputs: bool = True
    group_by_length: bool = False


class PublishedTraining(Strict):
    """Settings of the published training program that no flag changes."""

    source: str = Field(description="link to the lines of the program")
    warmup_steps: int
    lr_scheduler: str
    weight_decay: float
    max_grad_norm: float
    adam_beta1: float
    adam_beta2: float
    adam_epsilon: float
    torch_dtype: str = Field(description="dtype of the base's weights")
    autocast: str = Field(description="dtype of the computation under autocast")
    init_weights: str = Field(
        description="initial weights of a bottleneck adapter, as our method cards name them"
    )


class PublishedEvaluation(Strict):
    """Settings of a published evaluation program."""

    source: str = Field(description="link to the lines of the program")
    do_sample: bool
    num_beams: int
    temperature: float
    top_p: float
    top_k: int
    max_new_tokens: int
    batch_size: int | None = Field(description="prompts in a batch; null: no command states it")
    padding: Literal["none", "masked", "unmasked"] = Field(
        description="padding of shorter prompts in a batch"
    )
    torch_dtype: str = Field(description="dtype of the model's weights")
    load_8bit: bool = Field(description="quantize the base to 8 bits")


class PublishedCommand(Strict):
    """A published training command, and our corresponding run."""

    source: str = Field(description="link to the command")
    study: str = Field(description="a card of params/study/: the study with the corresponding run")
    model: str = Field(description="a card of params/models/")
    method: str = Field(description="a card of params/methods/")
    evaluation: str = Field(description="the program that evaluates its adapter: a key of evaluations")
    flags: CommandFlags


class Reason(Strict):
    """Why our runs differ from published commands in some settings."""

    settings: list[str] = Field(min_length=1, description="names of settings, as in docs/deviations.md")
    commands: list[str] | None = Field(
        None, min_length=1, description="names of commands; null: every command where the settings differ"
    )
    reason: str = Field(min_length=1)


class PublishedCommands(Strict):
    """The training commands of one publication, and why our runs differ from them."""

    title: str = Field(description="of the publication")
    placement: dict[str, dict[str, str]] = Field(
        description="architecture -> module -> position of a bottleneck adapter that is not parallel"
    )
    placement_source: str = Field(description="link to the lines of the program that state the placement")
    adapterp_modules: dict[str, list[str]] = Field(
        description="architecture -> target modules of a command with use_adapterp and without target_modules"
    )
    adapterp_source: str = Field(description="link to the lines of the program that state the modules")
    training: PublishedTraining
    evaluations: dict[str, PublishedEvaluation] = Field(min_length=1)
    commands: dict[str, PublishedCommand] = Field(min_length=1)
    reasons: list[Reason] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list, description="printed below the tables")

    @model_validator(mode="after")
    def _check_names(self) -> "PublishedCommands":
        for name, command in self.commands.items():
            if command.evaluation not in self.evaluations:
                raise ValueError(
                    f"commands.{name}: unknown evaluation '{command.evaluation}' "
                    f"(choices: {', '.join(self.evaluations)})"
                )
        for reason in self.reasons:
            for name in reason.commands or []:
                if name not in self.commands:
                    raise ValueError(
                        f"reasons: unknown command '{name}' (choices: {', '.join(self.commands)})"
                    )
        return self
