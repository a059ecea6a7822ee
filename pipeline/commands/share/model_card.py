"""The model card of an exported adapter, written from the records of its run; the card says which records are missing."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.commands.share.templates import make_environment
from pipeline.core.io import read_json, sha256_file
from pipeline.evaluate.clusters import accuracy_interval
from pipeline.params.reading import read_card
from pipeline.prompts.encode import CHAT_DATE
from pipeline.prompts.rows import question_row
from pipeline.results.scores.clusters import find_clusters
from pipeline.study import Study
from pipeline.study.artifacts import Artifact
from pipeline.study.datasets import TRAIN
from pipeline.study.distillation.resolve import ROWS, YIELD
from pipeline.study.find import choose_decoding, make_command
from pipeline.study.run import Run
from pipeline.study.tuning.choice import resolve_params

_HUB_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]*")

# settings from a card, as they are listed
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class BaseFacts:
    """The base model.

    Attributes:
        files: name of each file -> its sha256; empty if the base is not on disk.
        command: makes the base.
        tokens: the rules for special tokens that its card sets.
    """

    name: str
    title: str
    architecture: str
    source: str
    path: str
    fingerprint: str
    command: str
    tokens: Mapping[str, str]
    files: Mapping[str, str]
    # whether `path` is below models_root, not in a checkout
    is_local: bool
    repo_id: str | None
    revision: str | None
    licence: str | None
    gated: bool | None


@dataclass(frozen=True)
class MethodFacts:
    """The method, with its settings as the adapter was trained with them."""

    name: str
    title: str
    source: str | None
    settings: Settings


@dataclass(frozen=True)
class PromptFacts:
    """The prompts of the training set; ``limit`` and ``sample_seed`` are None if all examples are used."""

    name: str
    template: str
    fingerprint: str
    path: str
    sha256: str | None
    limit: int | None
    sample_seed: int | None
    excluded_tests: list[str]
    excluded_by: str | None


@dataclass(frozen=True)
class DataFacts:
    """A raw dataset of the training set; sha256 is that of the file on disk, else the card's."""

    name: str
    title: str
    version: int
    split: str
    rows: int | None
    sha256: str | None
    licence: str | None
    citation: str | None
    defects: list[str]


@dataclass(frozen=True)
class AuditFacts:
    """Test questions of a task in a training set: what the audit counted, None if its record is missing."""

    title: str
    training_set: str
    command: str
    counts: Mapping[str, Any] | None


@dataclass(frozen=True)
class CardFacts:
    """All facts of the model card of a trained run; a value is None if its record is missing."""

    name: str
    study_name: str
    study_title: str
    split: str
    fingerprint: str
    seed: int | None
    other_seeds: list[int]
    adapter_command: str
    scores_command: str
    base: BaseFacts
    method: MethodFacts
    # of the first training: what decides the precision is the same for all members of a combination
    training: Settings
    # "METHOD, arm ARM" -> settings; several for a combination
    trainings: Mapping[str, Settings]
    counts: Mapping[str, int] | None
    info: Mapping[str, Any] | None
    # of each training set
    prompts: list[PromptFacts]
    data: list[DataFacts]
    scores: list[dict[str, Any]] | None
    audits: list[AuditFacts]
    decoding: Settings


def collect_facts(study: Study, run: Run, adapter: Artifact) -> CardFacts:
    """Return the facts of a trained run's card, from its study's params and the files that it left."""
    # a combination has the data of its members
    trained = [member for member in run.members or (run,) if member.adapter]
    adapters = run.trainings if run.members else [adapter]
    trainings = {
        f"{member.method}, arm {member.arms[0].name}": resolve_params(training)["training"]
        for member, training in zip(trained, adapters, strict=True)
    }
    sources = {
        training.inputs["prompts"].path: (training.inputs["prompts"], member.arms[0].training_set)
        for member, training in zip(trained, adapters, strict=True)
    }
    raw = {
        name: prompts.inputs[name]
        for prompts, _ in sources.values()
        for name in prompts.params["answer_forms"]
    }
    return CardFacts(
        name=run.name.replace("/", "-"),
        study_name=study.name,
        study_title=study.card.title,
        split=study.card.split,
        fingerprint=adapter.fingerprint,
        seed=run.seed,
        other_seeds=[seed for seed in study.card.seeds if seed != run.seed],
        adapter_command=make_command(study, adapter.path),
        scores_command=make_command(study, study.scores(run).path),
        base=_base_facts(study, run),
        method=_method_facts(run, adapter),
        training=next(iter(trainings.values())),
        trainings=trainings,
        counts=_read_if_exists(adapter.path / "manifest.json"),
        info=_read_if_exists(adapter.path / "run.json"),
        prompts=[_prompt_facts(*source) for source in sources.values()],
        data=[_data_facts(source) for source in raw.values()],
        scores=_score_rows(study, run),
        audits=_audit_facts(study, run),
        decoding=choose_decoding(study, run, None),
    )


def _read_if_exists(path: Path) -> Any:
    return read_json(path) if path.exists() else None


def _sha256_if_exists(path: Path) -> str | None:
    return sha256_file(path) if path.is_file() else None


def _base_facts(study: Study, run: Run) -> BaseFacts:
    card, path = read_card("models", run.model), run.base.path
    manifest = _read_if_exists(path / "manifest.json") or {}
    is_hub, is_pretrained = card.kind == "hub", card.kind == "pretrained"
    if "files" in manifest:
        files = manifest["files"]
    else:
        files = {file.name: sha256_file(file) for file in sorted(path.glob("*.safetensors"))}
    return BaseFacts(
        name=run.model,
        title=card.name,
        architecture=card.architecture,
        source=card.source,
        path=card.path if card.kind == "local" else str(path),
        fingerprint=run.base.fingerprint,
        command=make_command(study, path),
        tokens=run.base.params.get("tokens", {}),
        files=files,
        is_local=card.kind == "local",
        repo_id=card.repo_id if is_hub else None,
        revision=manifest.get("revision", card.revision) if is_hub else None,
        licence=None if is_pretrained else card.licence,
        gated=card.gated if is_hub else None,
    )


def _method_facts(run: Run, adapter: Artifact) -> MethodFacts:
    settings = adapter.params["method"]
    if run.entry is None:
        return MethodFacts(run.method, run.method, None, settings)
    card = read_card("methods", run.entry.method)
    return MethodFacts(run.entry.method, card.name, card.source, settings)


def _prompt_facts(prompts: Artifact, training_set: str) -> PromptFacts:
    cleaning = prompts.params.get("without")
    return PromptFacts(
        name=training_set,
        template=prompts.params["template"],
        fingerprint=prompts.fingerprint,
        path=str(prompts.path),
        sha256=_sha256_if_exists(prompts.path),
        limit=prompts.params.get("limit"),
        sample_seed=prompts.params.get("sample_seed"),
        excluded_tests=list(cleaning["answer_forms"]) if cleaning else [],
        excluded_by=cleaning["method"] if cleaning else None,
    )


def _distilled_facts(raw: Artifact) -> DataFacts:
    name = raw.path.parent.name
    card = read_card("datasets", name)
    rows = raw.path / ROWS
    return DataFacts(
        name=name,
        title=card.title,
        version=card.version,
        split=TRAIN,
        rows=sum(source["fates"]["row"] for source in read_json(raw.path / YIELD)["sources"].values())
        if rows.is_file()
        else None,
        sha256=_sha256_if_exists(rows),
        licence=card.licence,
        citation=card.citation,
        defects=card.defects,
    )


def _data_facts(raw: Artifact) -> DataFacts:
    if raw.stage == "distill":
        return _distilled_facts(raw)
    card = read_card("datasets", raw.params["dataset"])
    split = card.splits[raw.params["split"]]
    return DataFacts(
        name=raw.params["dataset"],
        title=card.title,
        version=card.version,
        split=raw.params["split"],
        rows=split.rows,
        sha256=_sha256_if_exists(raw.path) or split.sha256,
        licence=card.licence,
        citation=card.citation,
        defects=card.defects,
    )


def _score_rows(study: Study, run: Run) -> list[dict[str, Any]] | None:
    record = _read_if_exists(study.scores(run).path)
    if record is None:
        return None
    protocols = {task.name: task.protocol.name for task in study.tasks(run)}
    clusters = find_clusters(study, run)
    rows = []
    for name, score in record["tasks"].items():
        title = read_card("datasets", score["task"]).title
        summary = {key: value for key, value in score.items() if key != "items"}
        low, high = accuracy_interval(score, clusters[name])
        rows.append({**summary, "low": low, "high": high, "protocol": protocols[name], "title": title})
    return rows


def _audit_facts(study: Study, run: Run) -> list[AuditFacts]:
    facts = []
    arms = [arm for member in run.members or (run,) for arm in member.arms]
    # members may share an arm
    for path, arm in {study.audit(arm).path: arm for arm in arms}.items():
        record = _read_if_exists(path)
        facts += [
            AuditFacts(
                title=read_card("datasets", task).title,
                training_set=arm.training_set,
                command=make_command(study, path),
                counts=record["tests"][task] if record else None,
            )
            for task in dict.fromkeys(task.task for task in study.tasks(run))
        ]
    return facts


def render_card(facts: CardFacts, *, form: str) -> str:
    """Return README.md: the hub's YAML header and the card.

    Args:
        facts: of the run.
        form: "peft" (adapter files), "bottleneck" (the same, of this project's tuner), "merged" or "full" (a whole model).
    """
    environment = make_environment()
    environment.filters["value"] = _format_value
    prompt = question_row("QUESTION", template=facts.decoding["template"])["prompt"]
    body = environment.get_template("model_card.md.j2").render(
        **asdict(facts),
        form=form,
        # A merged or fully trained model is a folder of float32 weights. An adapter was evaluated beside rounded ones.
        weights="float32" if form in ("merged", "full") else facts.decoding.get("weights", "float32"),
        computed_in=facts.decoding.get("dtype", "float32"),
        prompt=prompt,
        chat_date=CHAT_DATE,
    )
    return f"---\n{card_header(facts, form=form)}\n---\n\n{body}"


def _format_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_format_value(part)}" for key, part in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(value)


def card_header(facts: CardFacts, *, form: str) -> str:
    """Return the YAML that the hub reads; a base that is no hub repository is named in the text only."""
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=score["task"],
            dataset_name=score["title"],
            dataset_split=facts.split,
            metric_type="accuracy",
            metric_name=f"accuracy ({score['protocol']} protocol, version {score['protocol_version']})",
            metric_value=score["accuracy"],
            metric_args={key: score[key] for key in ("n", "correct", "low", "high", "chance", "unparsable")},
        )
        for score in facts.scores or []
    ]
    settings = facts.method.settings
    tuner_type = settings.get("peft_type", settings["kind"]).lower()
    licence, licence_name = _hub_licence(facts.base.licence)
    data = ModelCardData(
        base_model=facts.base.repo_id,
        library_name="peft" if form in ("peft", "bottleneck") else "transformers",
        pipeline_tag="text-generation",
        datasets=[raw.name for raw in facts.data],
        tags=list(dict.fromkeys([tuner_type, facts.method.name, facts.base.architecture])),
        # huggingface_hub needs a name for results; without results it would write a key that the hub ignores.
        model_name=facts.name if results else None,
        eval_results=results or None,
        license=licence,
        license_name=licence_name,
    )
    return str(data.to_yaml())


def _hub_licence(licence: str | None) -> tuple[str | None, str | None]:
    """Return the header's licence: the hub's identifier if the model's card has one, else "other" and a name."""
    if not licence or _HUB_LICENCE.fullmatch(licence):
        return licence or None, None
    return "other", re.sub(r"[^a-z0-9.]+", "-", licence.lower()).strip("-")
