"""dvc.yaml lists every stage with its folder and with the folders of params/ that enter its fingerprints, and no other folder."""

import configparser
import copy
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from dvc.utils.serialize import modify_yaml
from dvc_render.html import HTML

from pipeline.core.errors import UserError
from pipeline.params import reading
from pipeline.params.reading import PARAMS, read_card, read_yaml
from pipeline.study import load_study
from pipeline.study.stages import STAGES
from tests.conftest import ROOT

STAGE_OF = {row.folder: name for name, row in STAGES.items()}
# A study in which every kind of key enters a fingerprint: a mixture without its tests, a corpus, a figure, worked
# examples, a combination.
CARDS = """
study/small:
  title: t
  description: d
  models: [small-llama, llama-7b]
  methods: [lora, {method: series, training: {learning_rate: 0.1}}, {method: lora, label: more, r: 8},
    {method: both, weights: [1.0, 0.5], members: [{method: lora, arm: a}, {method: more, arm: a}]}]
  seeds: [0]
  arms: [{name: a, training_set: cleaned, tasks: [numbers, yes-no], limit: 9, training: {max_steps: 5}},
    {name: b, training_set: taught, tasks: [numbers, yes-no]}]
  protocols: [strict, worked, chosen, plain]
  bare: true
  template: strict
  split: test
  limit: 5
  sample_seed: 1
  merge_adapter: true
  training: {dtype: bfloat16}
  evaluation: {dtype: float32, weights: bfloat16}
  figure: {title: f, x: {r: R, bottleneck_size: B}}
  published: figures
  references: [elsewhere]
references/elsewhere: {name: e, model: m, size: big, prompting: p, source: s, licence: l, format: {question: q, text: t, gold: g,
  gold_mark: "#", reading: r}, answers: {numbers: {rows: 5, sources: [{kind: local, path: r.json}]}}}
published/figures: {title: t, measurements: {theirs: {measured_by: m, prompting: p, parsing: q, protocol: plain}},
  tables: [{name: n, training_set: cleaned, source: s, tasks: [numbers], measurement: theirs,
  rows: [{model: m, accuracy: [1.5]}]}]}
methods/lora: {name: n, kind: peft, peft_type: LORA, r: 4, target_modules: {llama: [q_proj], mistral: [q_proj, k_proj]},
  training: {epochs: 2}, source: s}
methods/series: {name: s, kind: bottleneck, bottleneck_size: 8, placement: {llama: {up_proj: before}, mistral: {down_proj: after}},
  source: s}
methods/both: {name: b, kind: combined, combination_type: svd, svd_rank: 3, source: s}
models/small-llama: {name: m, kind: pretrained, architecture: llama, config: {hidden_size: 32}, tokenizer: {kind: world},
  pretraining: {steps: 20, batch_tokens: 384, length: 96, learning_rate: 0.1, warmup_steps: 2, weight_decay: 0.5, seed: 0,
  logging_steps: 5}, corpus: [read, numbers], source: s}
models/llama-7b: {name: h, kind: hub, repo_id: a/b, revision: c0, architecture: mistral, licence: l, source: s}
datasets/read: {name: n, title: t, version: 1, answer_form: mixed,
  splits: {train: {rows: 5, sources: [{kind: local, path: a.json, format: json}]}}}
datasets/cleaned: {name: n, title: t, version: 1, parts: [numbers], without: [numbers],
  method: exact, splits: {train: {rows: 9, sources: [{kind: local, path: b.json}]}}}
datasets/taught: {name: t, title: k, version: 1, answer_form: number, without: [numbers], method: exact,
  distilled: {teacher: {model: small-llama, arm: a, method: lora}, sources: [{dataset: numbers, limit: 3}], prompt: strict,
  temperature: 0.5, top_p: 0.5, samples: 2, seed: 3, max_new_tokens: 9, dtype: bfloat16, protocol: plain, filter: right}}
datasets/numbers: {name: n, title: t, version: 1, answer_form: number, splits: {
  train: {rows: 5, known_malformed: [1], sources: [{kind: world, task: world-math, split: train, n: 5, world_seed: 1, seed: 2}]},
  test: {rows: 5, sha256: aa, known_malformed: [2], sources: [{kind: url, url: "https://u", sha256: bb}]},
  validation: {rows: 5, sources: [{kind: local, path: c.json}]}}}
datasets/yes-no: {name: n, title: y, version: 1, answer_form: boolean, splits: {
  train: {rows: 5, sources: [{kind: local, path: d.json}]}, test: {rows: 5, sources: [{kind: local, path: e.json}]},
  validation: {rows: 5, sources: [{kind: local, path: f.json}]}}}
protocols/strict: {name: strict, version: 1, template: strict, parser: strict, num_beams: 2, max_new_tokens: {number: 8, boolean: 4}}
protocols/plain: {name: plain, version: 1, template: paper-eval, parser: paper, max_new_tokens: {number: 8, boolean: 4}}
protocols/worked: {name: worked, version: 1, template: strict, parser: strict, num_beams: 1, shots: 1, shots_seed: 3,
  shots_split: train, max_new_tokens: {number: 8, boolean: 4}}
protocols/chosen: {name: chosen, version: 1, template: strict, parser: likelihood, shots_split: test,
  continuation: {boolean: "{label}"}}
"""
# The same study with trials: its trainings depend on scores.
TUNE = {
    **{"fields": {"warmup_steps": [1, 2]}, "trials": 2, "max_steps": 3, "rule": "accuracy", "seed": 7},
    "validation": {"split": "validation", "limit": 3},
}


@cache
def dvc_stages() -> dict[str, Any]:
    """Return the stages of dvc.yaml by name."""
    return yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def test_the_stages_and_their_folders_are_those_of_the_stage_table():
    folders = {name: next(iter(stage["outs"][0])) for name, stage in dvc_stages().items()}
    assert folders == {**{name: row.folder for name, row in STAGES.items()}, "report": "reports/${study}"}


def test_every_dependency_exists():
    for stage in dvc_stages().values():
        for path in stage["deps"]:
            assert (ROOT / path).exists() or path in STAGE_OF, path


# the keys and list indices that lead to a value of a card
KeyPath = tuple[Any, ...]
# a value that stands for a key without a value
MISSING = object()


def key_paths(value: Any, parent: KeyPath = ()) -> Iterator[KeyPath]:
    """Yield the path of every key and list element of a card."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in inner:
        yield (*parent, key)
        yield from key_paths(child, (*parent, key))


def get_value(value: Any, key_path: KeyPath) -> Any:
    """Return the value at a path of a card."""
    for key in key_path:
        value = value[key]
    return value


def replace_value(card: Any, key_path: KeyPath, value: Any) -> Any:
    """Return a copy of a card with another value at a path; ``MISSING``: without the key."""
    card = copy.deepcopy(card)
    parent = get_value(card, key_path[:-1])
    if value is MISSING:
        del parent[key_path[-1]]
    else:
        parent[key_path[-1]] = value
    return card


class KeyChange(NamedTuple):
    """What a change of a key of a card does.

    Attributes:
        folder: of the card, such as "params/methods".
        key: the card's name and the path of the key.
        stages: the stages of which an artifact gets another path.
    """

    folder: str
    key: str
    stages: set[str]


class Cards:
    """The cards of the study above, instead of those in params/."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, tuned: bool = False) -> None:
        self.cards = {PARAMS / f"{name}.yaml": card for name, card in yaml.safe_load(CARDS).items()}
        if tuned:
            study = self.cards[PARAMS / "study/small.yaml"]
            # without the arm of a taught set: its teacher is tuned too, so that its prompts would change with the trials
            self.cards[PARAMS / "study/small.yaml"] = {**study, "arms": study["arms"][:1], "tune": TUNE}
        monkeypatch.setattr(reading, "read_yaml", lambda path: self.cards[path])
        monkeypatch.setattr(reading.Path, "is_file", lambda path: path in self.cards)

    def artifact_paths(self) -> dict[str, set[str]]:
        """Return the paths of the study's artifacts by stage."""
        read_card.cache_clear()
        artifacts = load_study("small").artifacts
        return {stage: {str(artifact.path) for artifact in artifacts[stage]} for stage in artifacts}

    def alternatives(self, path: Path, key_path: KeyPath) -> Iterator[Any]:
        """Yield replacements of a value: near values, values of the same key in like cards, a new order, none."""
        value = get_value(self.cards[path], key_path)
        if isinstance(value, bool):
            yield not value
        elif isinstance(value, int | float):
            yield from (value + 1, value / 2)
        elif isinstance(value, str):
            yield f"{value}x"
            cards = [card for card_path, card in self.cards.items() if card_path.parent == path.parent]
            values = [
                get_value(card, candidate)
                for card in cards
                for candidate in key_paths(card)
                if candidate[-1] == key_path[-1]
            ]
            yield from dict.fromkeys(text for text in values if isinstance(text, str) and text != value)
        elif isinstance(value, list) and len(value) > 1:
            yield value[::-1]
        yield MISSING

    def changes(self, starts: Collection[str] = ("",)) -> Iterator[KeyChange]:
        """Change every key to its first alternative that is valid; yield what that does.

        Only keys whose "FOLDER/CARD: KEY" begins with one of ``starts``.
        """
        before = self.artifact_paths()
        for path, card in list(self.cards.items()):
            for key_path in key_paths(card):
                if not f"{path.parent.name}/{path.stem}: {key_path[0]}".startswith(tuple(starts)):
                    continue
                for value in self.alternatives(path, key_path):
                    self.cards[path] = replace_value(card, key_path, value)
                    try:
                        after = self.artifact_paths()
                    except UserError:
                        # the key cannot have this value
                        continue
                    finally:
                        self.cards[path] = card
                    key = f"{path.stem}: {'.'.join(map(str, key_path))}"
                    stages = {stage for stage in before if before[stage] != after[stage]}
                    yield KeyChange(str(path.parent.relative_to(ROOT)), key, stages)
                    break


@pytest.fixture(scope="module")
def changes() -> list[KeyChange]:
    """Return what a change of each key of the study's cards does."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        changes = list(Cards(monkeypatch).changes())
        changes += Cards(monkeypatch, tuned=True).changes(("study/small: tune", "protocols/strict"))
    read_card.cache_clear()
    return changes


def reruns(stage: str, change: KeyChange, *, ignored_folder: str = "") -> bool:
    """Return whether DVC reruns a stage: it depends on the folder of the changed card, or on a changed stage."""
    dependencies = set(dvc_stages()[stage]["deps"]) - {ignored_folder}
    return change.folder in dependencies or any(STAGE_OF.get(path) in change.stages for path in dependencies)


def missed_changes(changes: list[KeyChange]) -> list[str]:
    """Return the keys that enter a fingerprint of a stage that DVC would not rerun."""
    return [
        f"{stage} does not see {change.folder}/{change.key}"
        for change in changes
        for stage in change.stages
        if not reruns(stage, change)
    ]


def test_a_key_that_dvc_would_not_see_is_reported(changes, monkeypatch):
    edited = {**dvc_stages(), "train": {"deps": ["params/models", "params/study"]}}
    monkeypatch.setattr(sys.modules[__name__], "dvc_stages", lambda: edited)
    assert "train does not see params/methods/lora: r" in missed_changes(changes)


def test_dvc_sees_every_key_that_enters_a_fingerprint(changes):
    assert missed_changes(changes) == []
    effective = {change.key.partition(": ")[2] for change in changes if change.stages}
    assert effective >= {"r", "architecture", "answer_form", "corpus.0", "shots_split", "version"}


def test_every_params_folder_that_a_stage_lists_can_change_it(changes):
    for stage, row in STAGES.items():
        for folder in (f"params/{name}" for name in row.reads):
            assert any(
                stage in change.stages and not reruns(stage, change, ignored_folder=folder)
                for change in changes
                if change.folder == folder
            ), f"{stage} lists {folder}, but no key of its cards changes only this stage"


def test_each_stage_depends_on_the_params_folders_of_the_stage_table():
    for name, stage in dvc_stages().items():
        folders = [path for path in stage["deps"] if path.startswith("params/")]
        assert folders == ["params/params.yaml", *(f"params/{folder}" for folder in STAGES[name].reads)]
        assert "pipeline/study/stages.yaml" in stage["deps"]


@pytest.mark.parametrize("folder", sorted(path.name for path in PARAMS.iterdir() if path.is_dir()))
def test_a_card_keeps_its_values_after_dvc_has_set_a_key(tmp_path, folder):
    """`dvc exp run -S` rewrites the whole file in its own layout."""
    for path in (PARAMS / folder).glob("*.yaml"):
        card_copy = shutil.copy(path, tmp_path)
        with modify_yaml(card_copy) as card:
            card["added"] = 1
        assert read_yaml(Path(card_copy)) == {**read_yaml(path), "added": 1}, path


def test_files_of_python_and_of_downloads_are_no_dependency():
    ignored = (
        subprocess.run(
            [
                "dvc",
                "check-ignore",
                "params/lock.yaml",
                "pipeline/data/__pycache__/fetch.cpython-311.pyc",
                "params/methods/lora.yaml",
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        .stdout.strip()
        .splitlines()
    )
    assert ignored == ["params/lock.yaml", "pipeline/data/__pycache__/fetch.cpython-311.pyc"]


def test_the_page_of_the_plots_loads_nothing_from_the_network(tmp_path):
    config = configparser.ConfigParser()
    config.read(ROOT / ".dvc/config")
    page = HTML((ROOT / ".dvc" / config["plots"]["html_template"]).read_text(encoding="utf-8"))
    page.with_scripts('<script src="https://cdn.example.org/vega"></script>').with_element("<p>a plot</p>")
    text = page.embed()
    assert 'src="http' not in text
    assert "<p>a plot</p>" in text
    assert "vegaEmbed" in text
