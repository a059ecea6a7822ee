"""Typed study cards: what params/study/*.yaml may say."""

from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from pipeline.params.base import Strict, Template


class Training(Strict):
    """How an adapter is trained. Defaults are the published settings (arXiv:2304.01933 and its commands)."""

    learning_rate: float = Field(3e-4, gt=0, le=1)
    batch_size: int = Field(16, gt=0, description="examples an optimizer step")
    epochs: float | None = Field(
        3, gt=0, description="passes over the training set; null if max_steps is given"
    )
    max_steps: int | None = Field(None, gt=0, description="optimizer steps, instead of epochs")
    warmup_steps: int = Field(100, ge=0)
    lr_scheduler: Literal["linear", "cosine", "constant"] = "linear"
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    adam_epsilon: float = Field(1e-8, gt=0)
    cutoff_len: int = Field(
        256, gt=1, description="tokens of prompt and response; the rest is cut on the right"
    )
    train_on_inputs: bool = Field(True, description="loss on the prompt too, not on the response alone")
    micro_batch_tokens: int = Field(4096, gt=0, description="padded tokens that go through the model at once")
    val_set_size: int = Field(0, ge=0, description="examples held out of the training set for val_loss")
    eval_steps: int = Field(200, gt=0, description="steps between two measurements of val_loss")
    logging_steps: int = Field(10, gt=0)
    save_steps: int = Field(200, gt=0, description="steps between two checkpoints")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="of the base's weights")
    gradient_checkpointing: bool = False

    @model_validator(mode="after")
    def _one_length(self) -> "Training":
        if (self.epochs is None) == (self.max_steps is None):
            raise ValueError("give epochs or max_steps, and null for the other")
        return self


class Entry(BaseModel):
    """A method as a study uses it: a card, and the fields that the study sets otherwise."""

    model_config = ConfigDict(extra="allow", frozen=True)

    method: str
    label: str | None = Field(
        None, description="its name in this study's paths; needed if a card is used twice"
    )
    setting: str | None = Field(None, description="the word that stands for it on an axis of words")
    training: dict[str, Any] = Field(default_factory=dict)

    @property
    def name(self) -> str:
        """The method's name within the study, in paths and messages."""
        return self.label or self.method


class Arm(Strict):
    """A kind of reasoning: adapters are trained on one set and asked several tasks."""

    name: str
    training_set: str
    tasks: list[str] = Field(min_length=1)
    training: dict[str, Any] = Field(default_factory=dict)
    training_by_model: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="what one of the study's models sets otherwise: model -> training"
    )
    limit: int | None = Field(None, gt=0, description="training examples, drawn by sample_seed; null: all")

    @model_serializer(mode="wrap")
    def _without_unused(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out the field that came later where it is not used, so that no earlier report changes."""
        return {key: value for key, value in dump(self).items() if key != "training_by_model" or value}


class SettingFigure(Strict):
    """The figure of a study that varies a setting: accuracy against it, a panel an axis, a line a method card."""

    title: str
    x: dict[str, str] = Field(
        min_length=1,
        description="field of a method or of training, or 'setting' for the entries' words -> its axis' title",
    )


class StudyCard(Strict):
    """A grid: models x methods x arms x seeds, asked under protocols."""

    title: str
    description: str
    models: list[str] = Field(min_length=1)
    methods: list[Entry] = Field(min_length=1)
    seeds: list[int] = Field(min_length=1)
    arms: list[Arm] = Field(min_length=1)
    protocols: list[str] = Field(min_length=1)
    headline: list[str] = Field(
        default_factory=list,
        description="of the protocols, those of the headline tables; empty: all that are not for comparison only",
    )
    bare: bool = Field(True, description="ask the bare base too")
    template: Template = Field("strict", description="of the training prompts")
    split: str = Field("test", description="of the tasks that is asked")
    limit: int | None = Field(None, gt=0, description="examples of a task, drawn by sample_seed; null: all")
    sample_seed: int = 0
    max_new_tokens: int | None = Field(None, gt=0, description="instead of the protocols' own")
    merge_adapter: bool = Field(
        False,
        description="ask with adapters folded into the weights, where that changes nothing but rounding",
    )
    training: dict[str, Any] = Field(default_factory=dict, description="what this study sets for all methods")
    published: str | None = Field(None, description="card of published figures to set beside")
    figure: SettingFigure | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_entries(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("methods"), list):
            entries = [{"method": entry} if isinstance(entry, str) else entry for entry in data["methods"]]
            return {**data, "methods": entries}
        return data

    @model_validator(mode="after")
    def _words_are_drawn(self) -> "StudyCard":
        if "setting" not in (self.figure.x if self.figure else {}):
            worded = next((entry for entry in self.methods if entry.setting is not None), None)
            if worded:
                name = worded.label or worded.method
                raise ValueError(f"methods: '{name}' has a setting, but there is no figure with x.setting")
        return self
