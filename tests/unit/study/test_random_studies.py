"""Random studies: what differs in what it computes has an artifact of its own, and each row of the report leads to it."""

import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.io import canonical_json
from pipeline.params.base import TrainingOverlay
from pipeline.params.reading import parse_card, read_card
from pipeline.params.resolve import resolve_method, resolve_training
from pipeline.params.studies import Arm, Entry, StudyCard
from pipeline.study import Study
from pipeline.study.artifacts import Artifact
from pipeline.study.checks import check_study_card, refuse_aliases
from pipeline.study.description import RunDescription
from pipeline.study.description.describe import describe_study
from pipeline.study.run import BARE
from tests.conftest import ROOT
from tests.integration.conftest import enter

STUDIES = 12
MODELS = ("tiny-llama", "tiny-bloom", "tiny-gptj")
PROTOCOLS = ("strict", "paper", "paper-unmasked", "likelihood", "shots-2", "shots-3", "shots-2-seed-1")
SHOTS = "name: {name}\nversion: 1\ntemplate: strict\nparser: strict\nmax_new_tokens: {{number: 8, letter: 8, boolean: 4}}\n"
# few, so that equal settings meet
METHODS: tuple[dict[str, Any], ...] = (
    {"method": "lora"},
    {"method": "lora", "r": 4},
    {"method": "lora", "training": {"max_steps": 9}},
    {"method": "lora", "training": {"dtype": "bfloat16"}},
    {"method": "full"},
    {"method": "series", "bottleneck_size": 8},
    {"method": "adapter-p", "bottleneck_size": 8},
    {"method": "prefix-tuning", "training": {"learning_rate": 0.1}},
)
TRAINING: tuple[dict[str, Any], ...] = (
    {},
    {"max_steps": 9},
    {"max_steps": 3},
    {"learning_rate": 0.1},
    {"dtype": "bfloat16"},
)
EVALUATIONS: tuple[dict[str, Any], ...] = (
    *({}, {}, {"dtype": "float32"}, {"dtype": "bfloat16"}),
    {"dtype": "float32", "weights": "bfloat16"},
)
TASKS = ("world-addsub", "world-svamp", "world-boolq", "world-aqua")

# what a result is computed from, as text
Key = str


def draw_card(draw: random.Random) -> dict[str, Any]:
    """The card of a small study that `check` accepts."""

    def some(values, most):
        return draw.sample(values, draw.randint(1, min(most, len(values))))

    models = some(MODELS, 2)
    methods = [
        {**entry, "label": f"m{number}"}
        for number, entry in enumerate(draw.choices(METHODS, k=draw.randint(1, 3)))
    ]
    arms = [
        {
            "name": name,
            "training_set": draw.choice(("world-math", "world-math", "world-commonsense")),
            "tasks": some(TASKS, 3),
            "limit": draw.choice((None, None, 8)),
            "training": draw.choice(TRAINING),
            "training_by_model": {models[0]: draw.choice(TRAINING)} if draw.random() < 0.3 else {},
        }
        for name in some(("a", "a-b", "few", "x.1"), 3)
    ]
    merge_adapter = draw.random() < 0.3
    return {
        **{"title": "t", "description": "d", "models": models, "methods": methods, "arms": arms},
        "seeds": some((0, 1, 10), 2),
        "protocols": ["strict", *some(PROTOCOLS[1:], 2)],
        "bare": draw.random() < 0.7,
        "template": draw.choice(("strict", "paper-train")),
        "split": draw.choice(("test", "validation")),
        "limit": draw.choice((None, 4, 5)),
        "sample_seed": draw.choice((0, 1)),
        "max_new_tokens": draw.choice((None, 7)),
        "merge_adapter": merge_adapter,
        # merging is refused in 16 bits
        "evaluation": {"dtype": "float32"} if merge_adapter else draw.choice(EVALUATIONS),
        "training": draw.choice(TRAINING),
    }


def list_siblings(card: dict[str, Any], other: dict[str, Any]) -> list[dict[str, Any]]:
    """Return copies of a card that differ from it in one key each: with the value of another card, or another precision."""
    # the two depend on another, and arms may refer to the models
    keys = card.keys() - {"models", "title", "description", "merge_adapter", "evaluation"}
    siblings = [{**card, key: other[key]} for key in sorted(keys)]
    return siblings + [
        {**card, "merge_adapter": False, "evaluation": evaluation} for evaluation in EVALUATIONS[1:]
    ]


def resolve_card(card: dict[str, Any]) -> Study:
    """Return the checked study of a card."""
    study = Study("s", parse_card(StudyCard, card, where="s"))
    check_study_card(study.card, where="s")
    refuse_aliases(study.named(), where="s")
    return study


def list_cards() -> list[dict[str, Any]]:
    """Return random cards, and siblings of some, so that studies meet that differ in one setting."""
    cards = [draw_card(random.Random(seed)) for seed in range(STUDIES)]
    # arms of the first card may refer to its first model
    others = [
        {**draw_card(random.Random(f"other {seed}")), "models": cards[seed]["models"]} for seed in range(3)
    ]
    for other, card in zip(others, cards, strict=False):
        for arm in other["arms"]:
            arm["training_by_model"] = {card["models"][0]: {"max_steps": 3}}
    siblings = [
        sibling for card, other in zip(cards, others, strict=False) for sibling in list_siblings(card, other)
    ]
    return cards + siblings


def training_key(card: StudyCard, model: str, entry: Entry, arm: Arm, seed: int) -> Key:
    """What an adapter is computed from, read from the study's card."""
    training = resolve_training(
        ("", read_card("methods", entry.method).training),
        ("", card.training),
        ("", arm.training),
        ("", arm.training_by_model.get(model, TrainingOverlay())),
        ("", entry.training),
    )
    method = resolve_method(entry, architecture=read_card("models", model).architecture, where="")
    draws = card.sample_seed if arm.limit else None
    data = [arm.training_set, card.template, arm.limit, draws]
    return canonical_json([model, method, training.model_dump(), data, seed])


def task_key(card: StudyCard, model_key: Key, task: str, protocol: str, *, adapter: Artifact | None) -> Key:
    """What the answers of a model to a task are computed from."""
    protocol_card, form = read_card("protocols", protocol), read_card("datasets", task).answer_form
    decoding = protocol_card.decoding(form, max_new_tokens=card.max_new_tokens)
    draws = card.sample_seed if card.limit else None
    shots = [protocol_card.shots, protocol_card.shots_seed] if protocol_card.shots else None
    data = [task, card.split, protocol_card.template, card.limit, draws, shots]
    dtype = card.evaluation.dtype or (
        adapter.params["training"] if adapter else card.training.model_dump()
    ).get("dtype", "float32")
    is_full = adapter is not None and adapter.params["method"]["kind"] == "full"
    precision = [dtype, dtype if is_full else card.evaluation.weights or dtype]
    return canonical_json([model_key, data, decoding, card.merge_adapter and adapter is not None, precision])


def covered_tasks(card: StudyCard, arms: list[Arm]) -> set[tuple[str, str]]:
    return {
        (task, protocol)
        for arm in arms
        for task in arm.tasks
        for protocol in card.protocols
        if read_card("datasets", task).answer_form in read_card("protocols", protocol).forms
    }


class Ledger:
    """Which fingerprint each computation has, over all studies."""

    def __init__(self) -> None:
        self.fingerprint_of: dict[Key, str] = {}
        self.key_of: dict[str, Key] = {}

    def enter(self, key: Key, fingerprint: str) -> None:
        assert self.fingerprint_of.setdefault(key, fingerprint) == fingerprint, "computed twice"
        assert self.key_of.setdefault(fingerprint, key) == key, "one name for two results"


def expected_rows(card: StudyCard) -> dict[tuple[str, str, str | None, int | None], tuple[Key, list[Arm]]]:
    """The rows of the report by model, method, arm and seed: what their model is computed from, and their arms."""
    rows: dict[tuple[str, str, str | None, int | None], tuple[Key, list[Arm]]] = {}
    for model in card.models:
        if card.bare:
            rows[model, BARE, None, None] = (model, card.arms)
        for entry in card.methods:
            for arm in card.arms:
                for seed in card.seeds:
                    key = training_key(card, model, entry, arm, seed)
                    rows[model, entry.name, arm.name, seed] = (key, [arm])
    return rows


def check_row(
    study: Study,
    artifacts: dict[Path, Artifact],
    run: RunDescription,
    key: Key,
    arms: list[Arm],
    ledger: Ledger,
) -> None:
    """Check that a row of the report leads to the scores of its own model on its own tasks."""
    scores = artifacts[run.scores]
    answers = scores.inputs["answers"]
    assert answers.path == run.answers
    model = answers.inputs.get("adapter", answers.inputs["base"])
    if run.adapter:
        assert model.path == run.adapter
        assert run.fingerprint == model.fingerprint
    ledger.enter(key, model.fingerprint)
    tasks = {(task.task, task.protocol.name): task for task in study.tasks(study.run_of(scores.fingerprint))}
    for task, protocol in covered_tasks(study.card, arms):
        name = f"{task}-{protocol}"
        assert scores.params[name]["parser"] == read_card("protocols", protocol).parser
        assert answers.inputs[name].inputs[task].params["dataset"] == task
        answer_key = task_key(study.card, key, task, protocol, adapter=answers.inputs.get("adapter"))
        ledger.enter(answer_key, tasks[task, protocol].fingerprint)


@pytest.fixture
def _shots(tmp_path, monkeypatch):
    """The shipped cards, and protocols with worked examples."""
    shutil.copytree(ROOT / "params", tmp_path / "params")
    for name, shots in {"shots-2": (2, 0), "shots-3": (3, 0), "shots-2-seed-1": (2, 1)}.items():
        text = (
            SHOTS.format(name=name) + f"shots: {shots[0]}\nshots_split: validation\nshots_seed: {shots[1]}\n"
        )
        (tmp_path / f"params/protocols/{name}.yaml").write_text(text)
    enter(monkeypatch, tmp_path)
    yield
    read_card.cache_clear()


@pytest.mark.usefixtures("_shots")
def test_what_differs_has_a_name_of_its_own_and_each_row_leads_to_it():
    ledger, shared = Ledger(), 0
    for card in list_cards():
        study = resolve_card(card)
        rows = expected_rows(study.card)
        runs = {(run.model, run.method, run.arm, run.seed): run for run in describe_study(study).runs}
        assert runs.keys() == rows.keys()
        by_path = {artifact.path: artifact for artifact in study.named()}
        for place, run in runs.items():
            check_row(study, by_path, run, *rows[place], ledger)
        keys = {key for key, _ in rows.values()}
        assert len(study.artifacts["score"]) == len(study.artifacts["generate"]) == len(keys)
        shared += len(rows) - len(keys)
        artifacts = study.named()
        assert len({str(artifact.path).casefold() for artifact in artifacts}) == len(artifacts)
        assert len({(artifact.stage, artifact.fingerprint) for artifact in artifacts}) == len(artifacts)
        names = [run.name for run in study.runs]
        assert len(set(names)) == len(names)
    # the draws must reach what the test is about
    assert shared > STUDIES / 2
