"""The section ``tune`` of a study's card: which settings are chosen by trials, from which values, and by which rule."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from pipeline.core.errors import list_choices
from pipeline.params.base import Name, Strict

# Settings of a training that trials may choose. Sizes are not among them: a method that chose its size would no longer be
# compared at its number of parameters, and a study that varies a size has a figure for it.
TUNABLE = (
    *("learning_rate", "warmup_steps", "lr_scheduler", "weight_decay", "max_grad_norm"),
    *("adam_beta1", "adam_beta2", "adam_epsilon"),
)
Setting = int | float | str


class Interval(Strict):
    """A range of values, ends included."""

    low: float = Field(description="smallest value")
    high: float = Field(description="largest value")
    log: bool = Field(False, description="space or draw the values on a logarithmic scale")

    @model_validator(mode="after")
    def _check_ends(self) -> "Interval":
        if self.low >= self.high:
            raise ValueError(f"low: {self.low:g} must be below high, {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"low: {self.low:g} must be positive with log: true")
        return self


def _tag_values(data: Any) -> str:
    return "interval" if isinstance(data, dict | Interval) else "listed"


Candidates = Annotated[
    Annotated[list[Setting], Field(min_length=1), Tag("listed")] | Annotated[Interval, Tag("interval")],
    Discriminator(_tag_values),
]
Fields = dict[str, Candidates]


class Validation(Strict):
    """The examples on which trials are scored; never those of the study's own evaluation."""

    held_out: int | None = Field(
        None, gt=0, description="training examples that no trial trains on; for rule: loss"
    )
    split: Name | None = Field(
        None, description="a split of the tasks that differs from the study's; for rule: accuracy"
    )
    limit: int | None = Field(None, gt=0, description="number of examples per task of that split; null: all")


class Tuning(Strict):
    """How trials choose training settings, with the same number of trials for each method."""

    fields: Fields = Field(
        default_factory=dict,
        description="training settings to choose, each with its values or with low, high and log",
    )
    methods: dict[str, Fields] = Field(
        default_factory=dict,
        description="overrides `fields` for some methods, where scales differ: method -> fields",
    )
    trials: int = Field(ge=2, description="number of trials for each model, method and arm")
    search: Literal["grid", "random"] = Field(
        "grid",
        description="grid: all combinations, or a drawn part of them; random: each field is drawn independently",
    )
    max_steps: int = Field(gt=0, description="optimizer steps of a trial")
    rule: Literal["loss", "accuracy"] = Field(
        description="loss: choose the lowest loss on held-out examples; accuracy: choose the highest mean accuracy over the arm's tasks"
    )
    validation: Validation = Field(
        default_factory=Validation, description="the examples on which trials are scored"
    )
    seed: int = Field(description="seed of the trials and of their draws; must not be a seed of the study")

    def fields_of(self, method: str) -> Fields:
        """Return what is chosen for a method of the study."""
        return self.fields | self.methods.get(method, {})

    @model_validator(mode="after")
    def _check_fields(self) -> "Tuning":
        for key, fields in [("fields", self.fields), *((f"methods.{m}", f) for m, f in self.methods.items())]:
            for name in fields:
                if name not in TUNABLE:
                    raise ValueError(f"{key}: '{name}' is not tunable {list_choices(name, TUNABLE)}")
        return self

    @model_validator(mode="after")
    def _check_rule(self) -> "Tuning":
        chosen = self.validation
        if self.rule == "loss" and not chosen.held_out:
            raise ValueError("rule: loss needs validation: {held_out: N}, training examples to measure it on")
        if self.rule == "accuracy" and not chosen.split:
            raise ValueError("rule: accuracy needs validation: {split: NAME}, another split than the study's")
        if self.rule == "loss" and (chosen.split or chosen.limit):
            raise ValueError("validation: split and limit are for rule: accuracy; leave them out")
        if self.rule == "accuracy" and chosen.held_out:
            raise ValueError("validation: held_out is for rule: loss; leave it out")
        return self
