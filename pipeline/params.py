"""Typed cards and settings: everything that params/ may say, checked before a job is planned.

A value is declared once, here, with its type, unit, bound and default; the YAML files hold what differs. Unknown keys
are refused. An error is one line that names file, key, value and the choices.
"""

from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationError,
    model_serializer,
    model_validator,
)

from pipeline.architectures import LINEAR_MODULES, check_method, for_architecture
from pipeline.dataset_cards import Dataset
from pipeline.errors import UserError
from pipeline.method_cards import Method, Strict, Template
from pipeline.model_cards import Model
from pipeline.protocol_cards import Protocol
from pipeline.published_cards import Published

ROOT = Path(__file__).resolve().parents[1]
PARAMS = ROOT / "params"


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


T = TypeVar("T")


@cache
def read_card(kind: str, name: str) -> Any:
    """Return the checked card ``params/KIND/NAME.yaml``.

    Raises:
        UserError: no such card (names the choices), or a key or value that is not allowed.
    """
    folder = PARAMS / kind
    path, names = folder / f"{name}.yaml", sorted(file.stem for file in folder.glob("*.yaml"))
    alike = next((one for one in names if one != name and one.casefold() == name.casefold()), None)
    if not path.is_file() or (alike and name not in names):  # there, on some systems, by other letters
        raise UserError(f"params/{kind}: no '{name}' (choices: {', '.join(names)})")
    if alike:
        raise UserError(
            f"params/{kind}: '{alike}' and '{name}' differ in case only, one file on some systems; rename one"
        )
    return check(CARDS[kind], read_yaml(path), where=f"params/{kind}/{path.name}")


CARDS: dict[str, Any] = {
    "methods": Method,
    "models": Model,
    "datasets": Dataset,
    "protocols": Protocol,
    "published": Published,
    "study": StudyCard,
}


def read_yaml(path: Path) -> Any:
    """Return the value of a YAML file.

    Raises:
        UserError: the file is missing or not YAML.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None


class _Loader(yaml.SafeLoader):
    """YAML in which a key given twice is an error, not a silent choice of the last."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    for key in keys:
        if keys.count(key) > 1:
            raise yaml.YAMLError(f"key '{key}' is given twice, line {node.start_mark.line + 1}")
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def check(kind: Any, data: Any, *, where: str) -> Any:
    """Return ``data`` as a value of the type ``kind``.

    Raises:
        UserError: in one line, the first few keys that are wrong, each with its value and why.
    """
    if kind in (Method, Model) and isinstance(data, dict) and "kind" not in data and "repo_id" in data:
        data = {"kind": "hub", **data}
    try:
        return TypeAdapter(kind).validate_python(data)
    except ValidationError as error:
        told = [_one_error(one) for one in error.errors()]
        raise UserError(f"{where}: {'; '.join(told[:3])}") from None


def _one_error(error: Any) -> str:
    tags = ("bottleneck", "peft", "full", "hub", "pretrained", "plain")
    key = ".".join(str(part) for part in error["loc"] if part not in tags)
    if error["type"] == "extra_forbidden":
        return f"{key}: unknown key"
    if error["type"] == "missing":
        return f"{key}: missing"
    value = repr(error["input"])
    shown = value if len(value) < 60 else value[:57] + "..."
    told = " ".join(error["msg"].removeprefix("Value error, ").split())
    return f"{key}: {told} (got {shown})" if key else told


def resolve_training(*layers: tuple[str, dict[str, Any]]) -> Training:
    """Return the training settings of defaults overlaid by ``layers``, each (where it is from, its keys).

    A layer that sets ``max_steps`` without ``epochs`` (or the reverse) switches to that way of counting.
    """
    merged: dict[str, Any] = {}
    for where, layer in layers:
        if layer.get("max_steps") is not None and "epochs" not in layer:
            layer = {**layer, "epochs": None}
        elif layer.get("epochs") is not None and "max_steps" not in layer:
            layer = {**layer, "max_steps": None}
        merged |= layer
        training: Training = check(Training, merged, where=f"{where}: training")
    return training


def resolve_method(entry: Entry, *, architecture: str, where: str) -> dict[str, Any]:
    """Return a method's fields as its study has them, for one architecture; without name, training and source.

    Raises:
        UserError: a field that the method does not have, or modules that the architecture does not have.
    """
    card, own = read_card("methods", entry.method), entry.model_extra or {}
    study, file = f"{where}: methods.{entry.label or entry.method}", f"params/methods/{entry.method}.yaml"
    resolved = check(Method, {**card.model_dump(exclude_unset=True), **own}, where=study).model_dump()
    settings = {
        key: for_architecture(
            value, architecture=architecture, field=f"{study if key in own else file}: {key}"
        )
        for key, value in resolved.items()
        if key not in ("name", "training", "source")
    }
    try:
        check_method(settings, architecture=architecture)
    except UserError as error:
        placed = {"placement", "target_modules"} & set(own)
        raise UserError(f"{study if placed else file}: {error}") from None
    return settings


def answer_form(task: str) -> str:
    """Return the answer form that a task's dataset card states.

    Raises:
        UserError: unknown task, or a dataset that is no task.
    """
    card: Dataset = read_card("datasets", task)
    if card.answer_form is None:
        raise UserError(f"params/datasets/{task}.yaml: answer_form is missing, so '{task}' is no task")
    return card.answer_form


def check_architecture(name: str, *, where: str) -> None:
    """Refuse an architecture that no adapter is known for."""
    if name not in LINEAR_MODULES:
        raise UserError(f"{where}: architecture: unknown '{name}' (choices: {', '.join(LINEAR_MODULES)})")
