"""The combinations of a study: which adapters each consists of, and whether they can be combined.

Nothing is trained for a combination. It is an artifact like an adapter, built from the members with the same seed, and it is
evaluated on the tasks of every arm, like a bare base.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import UserError, list_choices
from pipeline.params.methods import BOTTLENECK_COMBINATIONS, LORA_COMBINATIONS, Combined, Member, Method
from pipeline.params.peft.values import TAKEN_FROM_THE_BASE
from pipeline.params.reading import parse_card, read_card
from pipeline.params.studies import Arm, Entry, StudyCard
from pipeline.study.artifacts import Artifact
from pipeline.study.run import Run

if TYPE_CHECKING:
    from pipeline.study.grid import Study

# Settings in which members may differ: those of the initial weights and of the training alone, and those that a combination
# takes into account.
MAY_DIFFER = {
    "LoRA": {
        *("r", "lora_alpha", "lora_dropout", "use_rslora", "target_modules", "rank_pattern", "alpha_pattern"),
        *("init_lora_weights", "init_batches", "eva_config", "corda_config", "lora_ga_config"),
    },
    "bottleneck": {"bottleneck_size", "adapter_dropout", "scaling", "init_weights"},
}
COMBINATIONS = {"LoRA": LORA_COMBINATIONS, "bottleneck": BOTTLENECK_COMBINATIONS}
# These add the factors of LoRA adapters elementwise; the others add their products, of any rank.
EQUAL_RANKS = ("linear", "ties", "dare_linear", "dare_ties", "magnitude_prune")
# Training settings that decide in which precision a run is evaluated: all members need the same.
PRECISION = ("dtype", "quantization")
# Fields that a combination cannot take over, each with the values that leave it unused.
UNCOMBINED = {"bias": (None, "none"), "modules_to_save": (None,), "use_dora": (None, False)}


def is_combined(entry: Entry) -> bool:
    """Return whether a method of a study is a combination of adapters."""
    return bool(read_card("methods", entry.method).kind == "combined")


def resolve_combined(study: "Study", model: str, base: Artifact, entry: Entry, arm: Arm, seed: int) -> Run:
    """Return the run of a combination on the tasks of an arm.

    Raises:
        UserError: the study does not train a member, or the members cannot be combined in this way.
    """
    where = f"{study.where}: methods.{entry.name}"
    combination = _read_combination(entry, where=study.where)
    members = _require_members(combination, where)
    entries = [_find_member(study.card, model, member, where=where) for member in members]
    runs = tuple(study.resolve_adapter(model, base, own, member_arm, seed) for own, member_arm in entries)
    adapters = [run.adapter for run in runs if run.adapter]
    _check_members(combination, adapters, [own.name for own, _ in entries], where=where)
    settings = combination.model_dump(exclude={"name", "members", "source"}, exclude_none=True)
    settings["weights"] = combination.weights or [1.0] * len(members)
    sets = "+".join(dict.fromkeys(member_arm.training_set for _, member_arm in entries))
    inputs = {f"member {number}": adapter for number, adapter in enumerate(adapters, start=1)}
    adapter = study.share_adapter(
        f"{model}/{entry.name}/{sets}/seed{seed}/",
        {"method": settings, "seed": seed},
        {"base": base, **inputs},
        stage="combine",
    )
    name = f"{model}/{entry.name}/{sets}@{arm.name}/seed{seed}"
    return Run(name, model, base, (arm,), entry, seed, adapter, runs)


def _read_combination(entry: Entry, *, where: str) -> Combined:
    """Return the card of a combination with the changes of a study."""
    if entry.training.model_fields_set:
        raise UserError(
            f"{where}: methods.{entry.name}: training: a combination trains nothing; set it for its members"
        )
    card = read_card("methods", entry.method)
    merged = {**card.model_dump(exclude_unset=True), **(entry.model_extra or {})}
    combination: Combined = parse_card(Method, merged, where=f"{where}: methods.{entry.name}")
    return combination


def _require_members(combination: Combined, where: str) -> list[Member]:
    if combination.members is None:
        raise UserError(
            f"{where}: members: missing; name at least two adapters of the study, each as {{method: METHOD, arm: ARM}}"
        )
    return combination.members


def _find_member(card: StudyCard, model: str, member: Member, *, where: str) -> tuple[Entry, Arm]:
    """Return the method and the arm of a member."""
    where = f"{where}: members"
    entries = {entry.name: entry for entry in card.methods}
    if member.method not in entries:
        raise UserError(
            f"{where}: '{member.method}' is not a method of the study {list_choices(member.method, entries)}"
        )
    entry = entries[member.method]
    if is_combined(entry):
        raise UserError(f"{where}: '{member.method}' is a combination itself; name its members instead")
    if entry not in card.methods_of(model):
        raise UserError(
            f"{where}: '{member.method}' is not trained on '{model}', and all members need the same base; add '{model}' to "
            "its models, or give the combination the key models"
        )
    arms = {arm.name: arm for arm in card.arms}
    if member.arm not in arms:
        raise UserError(
            f"{where}: '{member.arm}' is not an arm of the study, so it has no training set "
            f"{list_choices(member.arm, arms)}"
        )
    return entry, arms[member.arm]


def _check_members(
    combination: Combined, adapters: Sequence[Artifact], names: Sequence[str], *, where: str
) -> None:
    """Refuse members that cannot be combined, or not in this way."""
    families = [
        _find_family(adapter.params["method"], name, where)
        for adapter, name in zip(adapters, names, strict=True)
    ]
    kind = combination.combination_type
    if len({adapter.path for adapter in adapters}) < len(adapters):
        raise UserError(
            f"{where}: members: two of them are the same adapter; to count an adapter twice, double its weight"
        )
    for family, name in zip(families, names, strict=True):
        if family != families[0]:
            raise UserError(
                f"{where}: members: '{names[0]}' is a {families[0]} adapter and '{name}' a {family} adapter; members need the "
                "same kind"
            )
    if kind not in COMBINATIONS[families[0]]:
        raise UserError(
            f"{where}: combination_type: {kind} is not for {families[0]} adapters "
            f"{list_choices(kind, COMBINATIONS[families[0]])}"
        )
    if combination.weights and len(combination.weights) != len(adapters):
        raise UserError(
            f"{where}: weights: {len(combination.weights)} for {len(adapters)} members; give each member one weight"
        )
    for adapter, name in zip(adapters, names, strict=True):
        _refuse_difference(adapters[0].params, adapter.params, (names[0], name), families[0], where=where)
        if kind in EQUAL_RANKS:
            _refuse_other_rank(adapters[0].params, adapter.params, (names[0], name), kind, where=where)
    if kind == "stack":
        _refuse_parallel(adapters[0].params["method"], names[0], where=where)


def _find_family(method: Mapping[str, Any], name: str, where: str) -> str:
    """Return "LoRA" or "bottleneck"; refuse what no combination can take over."""
    if method["kind"] != "bottleneck" and method.get("peft_type") != "LORA":
        kind = method.get("peft_type", method["kind"])
        raise UserError(
            f"{where}: members: '{name}' is of type {kind}, which cannot be combined; only LoRA and bottleneck adapters can"
        )
    for field, neutral in UNCOMBINED.items():
        if method.get(field) not in neutral:
            raise UserError(
                f"{where}: members: '{name}' has {field}: {method[field]}, which cannot be combined; remove it from '{name}'"
            )
    return "bottleneck" if method["kind"] == "bottleneck" else "LoRA"


def _refuse_difference(
    first: Mapping[str, Any], other: Mapping[str, Any], names: tuple[str, str], family: str, *, where: str
) -> None:
    """Refuse members that differ in a setting which they must share."""
    methods = first["method"], other["method"]
    fields = dict.fromkeys([*methods[0], *methods[1]])
    pairs = {
        field: (methods[0].get(field), methods[1].get(field))
        for field in fields
        if field not in MAY_DIFFER[family]
    }
    pairs |= {key: (first["training"].get(key), other["training"].get(key)) for key in PRECISION}
    for field, (own, others) in pairs.items():
        if own != others:
            raise UserError(
                f"{where}: members: '{names[0]}' has {field}: {own}, and '{names[1]}' has {others}; members need the same"
            )


def _refuse_other_rank(
    first: Mapping[str, Any], other: Mapping[str, Any], names: tuple[str, str], kind: str, *, where: str
) -> None:
    ranks = [params["method"].get("r", 8) for params in (first, other)]
    if ranks[0] != ranks[1]:
        raise UserError(
            f"{where}: members: '{names[0]}' has r: {ranks[0]}, and '{names[1]}' has {ranks[1]}; combination_type {kind} needs "
            "equal ranks, cat and svd do not"
        )
    for params, name in zip((first, other), names, strict=True):
        start = params["method"].get("init_lora_weights")
        if start == "eva":
            raise UserError(
                f"{where}: members: '{name}' has init_lora_weights: eva, whose ranks are known only after training; "
                f"combination_type {kind} needs equal ranks, cat and svd do not"
            )
    doubled = [
        str(params["method"].get("init_lora_weights")).startswith(TAKEN_FROM_THE_BASE)
        for params in (first, other)
    ]
    if doubled[0] != doubled[1]:
        raise UserError(
            f"{where}: members: '{names[doubled.index(True)]}' is saved with twice its r, since its initial weights are taken from "
            f"the base, and '{names[doubled.index(False)]}' is not; combination_type {kind} needs equal ranks, cat and svd do not"
        )
    if other["method"].get("rank_pattern"):
        raise UserError(
            f"{where}: members: '{names[1]}' has a rank_pattern; combination_type {kind} needs equal ranks, cat and svd do not"
        )


def _refuse_parallel(method: Mapping[str, Any], name: str, *, where: str) -> None:
    placement = method["placement"]
    if "parallel" in ([placement] if isinstance(placement, str) else placement.values()):
        raise UserError(
            f"{where}: combination_type: stack needs series adapters, and '{name}' is parallel to its module; use sum"
        )
