"""Cards of studies: what params/study/NAME.yaml may contain."""

from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from pipeline.core.errors import list_choices
from pipeline.params.base import Dtype, Name, Strict, Template, TrainingOverlay
from pipeline.params.tuning.cards import Tuning


class Entry(BaseModel):
    """A method of a study: a method card, and the fields that the study changes."""

    # any field of the method card; resolve_method checks them
    model_config = ConfigDict(extra="allow", frozen=True)

    method: str = Field(description="a card of params/methods/")
    label: Name | None = Field(
        None, description="name of the method in the study's paths and tables; needed if a card is used twice"
    )
    models: list[str] | None = Field(
        None, min_length=1, description="models of the study on which the method is trained; null: all"
    )
    setting: str | None = Field(
        None,
        description="name of the method's setting on a figure's axis, if the axis has words instead of numbers",
    )
    training: TrainingOverlay = Field(default_factory=TrainingOverlay, description="for this method")

    @property
    def name(self) -> str:
        """The method's name within the study, in paths and messages."""
        return self.label or self.method

    @property
    def has_card_settings(self) -> bool:
        """Whether the study changes no field of the method's card and no setting of its training."""
        return not self.model_extra and not self.training.model_fields_set


class ReferenceEntry(Strict):
    """Answers made elsewhere, and the tasks for which a study uses them."""

    reference: str = Field(description="a card of params/references/")
    tasks: list[str] | None = Field(
        None, min_length=1, description="tasks of the study; null: all tasks that the card has answers to"
    )


class Arm(Strict):
    """A training set, and the tasks on which adapters trained on it are evaluated."""

    name: Name = Field(description="unique in the study; appears in file names and tables")
    training_set: str = Field(
        "", description="a card of params/datasets/; empty only in a study that trains nothing"
    )
    tasks: list[str] = Field(min_length=1, description="cards of params/datasets/")
    training: TrainingOverlay = Field(default_factory=TrainingOverlay, description="for this arm")
    training_by_model: dict[str, TrainingOverlay] = Field(
        default_factory=dict, description="for this arm and one of the study's models: model -> training"
    )
    limit: int | None = Field(
        None, gt=0, description="number of training examples, drawn with sample_seed; null: all"
    )

    @model_serializer(mode="wrap")
    def _dump_without_unused(self, dump: SerializerFunctionWrapHandler) -> dict[str, object]:
        # the field was added later: where it is unused it is left out, so that no earlier report changes
        return {key: value for key, value in dump(self).items() if key != "training_by_model" or value}


class Evaluation(Strict):
    """The precision in which a study's answers are computed."""

    dtype: Dtype | None = Field(
        None,
        description="dtype in which answers are computed; null: the dtype of each run's training, or of the study's training for a bare base",
    )
    weights: Dtype | None = Field(
        None,
        description="round the base's weights to this dtype, then compute in float32; only with dtype: float32; null: the same as dtype",
    )

    @model_validator(mode="after")
    def _check_weights(self) -> "Evaluation":
        if self.weights and self.dtype != "float32":
            raise ValueError(
                f"weights: {self.weights} is allowed only with dtype: float32; a 16-bit computation rounds the weights to its own dtype"
            )
        return self


class Texts(Strict):
    """Texts for which the study measures the negative log-likelihood, of each bare base and each adapter in the same way."""

    datasets: list[str] = Field(
        min_length=1,
        description="cards of params/datasets/ with answer_form passage (text without a question) or text (references of instructions)",
    )
    split: str = Field("test", description="the split that is measured")
    limit: int | None = Field(
        None, gt=0, description="number of passages or references, drawn with sample_seed; null: all"
    )
    window: int = Field(
        512, ge=2, description="tokens that the model reads at once; a longer passage is divided"
    )


class SettingFigure(Strict):
    """A figure of accuracy against a setting that the study varies: a panel for each axis, a line for each method card."""

    title: str
    x: dict[str, str] = Field(
        min_length=1,
        description="the x axes: a field of a method or of training, or 'setting' for the methods' words -> title of the axis",
    )


class StudyCard(Strict):
    """A grid of models x methods x arms x seeds, evaluated under protocols."""

    title: str
    description: str
    models: list[str] = Field(
        description="cards of params/models/; like methods and seeds, empty only in a study that contains only references"
    )
    methods: list[Entry] = Field(
        description="cards of params/methods/, each a name or a name with changes; like seeds, empty in a study that only evaluates bare bases"
    )
    seeds: list[int] = Field(description="each method is trained once with each seed")
    arms: list[Arm] = Field(min_length=1)
    protocols: list[str] = Field(min_length=1, description="cards of params/protocols/")
    headline: list[str] = Field(
        default_factory=list,
        description="protocols of the headline tables; empty: all but those with comparison_only",
    )
    bare: bool = Field(True, description="evaluate the base without an adapter too")
    template: Template = Field("strict", description="template of the training prompts")
    split: str = Field("test", description="the split of the tasks that is evaluated")
    limit: int | None = Field(
        None, gt=0, description="number of examples per task, drawn with sample_seed; null: all"
    )
    sample_seed: int = Field(0, description="seed of the draws for limits")
    max_new_tokens: int | None = Field(None, gt=0, description="replaces the limit of the protocols")
    merge_adapter: bool = Field(
        False,
        description="generate with adapters merged into the weights, where that changes only rounding",
    )
    training: TrainingOverlay = Field(
        default_factory=TrainingOverlay, description="for all methods of this study"
    )
    tune: Tuning | None = Field(
        None,
        description="training settings that trials choose (docs/tuning.md); null: all settings are as written",
    )
    evaluation: Evaluation = Field(
        default_factory=Evaluation, description="precision in which answers are computed"
    )
    texts: Texts | None = Field(
        None, description="texts to measure the negative log-likelihood per token on; null: none"
    )
    published: str | None = Field(
        None, description="a card of params/published/; the report compares our accuracies with the card's"
    )
    followups: list[str] = Field(
        default_factory=list,
        description="cards of params/published/; without that of published; the report compares their rows with runs of the same base, method and settings (docs/followups.md)",
    )
    references: list[ReferenceEntry] = Field(
        default_factory=list,
        description="answers made elsewhere, parsed by the study's protocols (docs/references.md): cards of params/references/, each a name or a name with its tasks",
    )
    figure: SettingFigure | None = Field(None, description="the figure of a study that varies a setting")
    seed_variance: Literal["pooled", "own"] | None = Field(
        None,
        description="the variance between seeds in the report's intervals: pooled over the methods of a model, or each method's own; null: pooled if there are fewer than five seeds (docs/statistics.md)",
    )

    def methods_of(self, model: str) -> list[Entry]:
        """Return the methods of one of the study's models."""
        return [entry for entry in self.methods if entry.models is None or model in entry.models]

    @model_validator(mode="before")
    @classmethod
    def _expand_names(cls, data: Any) -> Any:
        """Turn the short form of a method or a reference, its name, into an entry."""
        for section, key in (("methods", "method"), ("references", "reference")):
            if isinstance(data, dict) and isinstance(data.get(section), list):
                entries = [{key: entry} if isinstance(entry, str) else entry for entry in data[section]]
                data = {**data, section: entries}
        return data

    @model_serializer(mode="wrap")
    def _dump_without_unused(self, dump: SerializerFunctionWrapHandler) -> dict[str, object]:
        # as in Arm: a section that was added later is left out where it is unused
        dumped = dump(self)
        unused = {"evaluation"} if not any(dumped["evaluation"].values()) else set()
        unused |= {key for key in ("seed_variance", "texts", "tune") if dumped[key] is None}
        unused |= {key for key in ("references", "followups") if not dumped[key]}
        return {key: value for key, value in dumped.items() if key not in unused}

    @model_validator(mode="after")
    def _check_grid(self) -> "StudyCard":
        parts = {"models": self.models, "methods": self.methods, "seeds": self.seeds}
        lacking = [key for key, values in parts.items() if not values]
        trains_nothing = bool(self.models) and self.bare and lacking == ["methods", "seeds"]
        if lacking and not (trains_nothing or self.references):
            raise ValueError(f"{lacking[0]}: needs at least one")
        if lacking and len(lacking) < len(parts) and not trains_nothing:
            raise ValueError(
                f"{lacking[0]}: needs at least one; or leave all of {', '.join(parts)} empty, for a study that contains only references"
            )
        for arm in self.arms:
            if not arm.training_set and self.models and not trains_nothing:
                raise ValueError(f"arms.{arm.name}: training_set: missing")
        for key, section in (("texts", self.texts), ("figure", self.figure), ("tune", self.tune)):
            if section and not self.models:
                raise ValueError(
                    f"{key}: needs models; leave it out of a study that contains only references"
                )
        return self

    @model_validator(mode="after")
    def _check_tuning(self) -> "StudyCard":
        if self.tune is None:
            return self
        if self.tune.seed in self.seeds:
            raise ValueError(f"tune.seed: {self.tune.seed} is a seed of the study; trials need another")
        # test items are for final results, whatever the study evaluates; training items are no measure
        if self.tune.validation.split in (self.split, "test", "train"):
            raise ValueError(
                f"tune.validation.split: '{self.tune.validation.split}' cannot be used for trials; choose a split that is neither "
                f"train nor test nor the split that the study evaluates ('{self.split}')"
            )
        names = [entry.name for entry in self.methods]
        for method in self.tune.methods:
            if method not in names:
                raise ValueError(
                    f"tune.methods: '{method}' is not a method of the study {list_choices(method, names)}"
                )
        return self

    @model_validator(mode="after")
    def _check_settings_are_drawn(self) -> "StudyCard":
        if "setting" not in (self.figure.x if self.figure else {}):
            for entry in self.methods:
                if entry.setting is not None:
                    raise ValueError(
                        f"methods: '{entry.name}' has a setting, but no figure of the study has the axis x.setting"
                    )
        return self
