"""dvc.yaml tells DVC of every step, its folder, its code and every params key that enters a fingerprint; of no other."""

import copy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.utils.serialize import modify_yaml

from pipeline.core.errors import UserError
from pipeline.params import reading
from pipeline.params.reading import PARAMS, read_card, read_yaml
from pipeline.study import load_study
from pipeline.study.stages import STAGES
from tests.conftest import ROOT

STAGE_OF = {row.folder: name for name, row in STAGES.items()}
# A grid that uses every way into a fingerprint: a mixture cleaned of its tests, a corpus, a figure, worked examples.
CARDS = """
study/small:
  title: t
  description: d
  models: [small-llama, llama-7b]
  methods: [lora, {method: series, training: {learning_rate: 0.1}}]
  seeds: [0]
  arms: [{name: a, training_set: cleaned, tasks: [numbers, yes-no], limit: 9, training: {max_steps: 5}}]
  protocols: [strict, shots, chosen, plain]
  bare: true
  template: strict
  split: test
  limit: 5
  sample_seed: 1
  merge_adapter: true
  training: {dtype: bfloat16}
  figure: {title: f, x: {r: R, bottleneck_size: B}}
  published: figures
published/figures: {title: t, tables: [{name: n, training_set: cleaned, source: s, tasks: [numbers],
  rows: [{model: m, accuracy: [1.5]}]}]}
methods/lora: {name: n, kind: peft, peft_type: LORA, r: 4, target_modules: {llama: [q_proj], mistral: [q_proj, k_proj]},
  training: {epochs: 2}, source: s}
methods/series: {name: n, kind: bottleneck, bottleneck_size: 8, placement: {llama: {up_proj: before}, mistral: {down_proj: after}},
  source: s}
models/small-llama: {name: m, kind: pretrained, architecture: llama, config: {hidden_size: 32}, tokenizer: {kind: world},
  pretraining: {steps: 20, batch_tokens: 384, length: 96, learning_rate: 0.1, warmup_steps: 2, weight_decay: 0.5, seed: 0,
  logging_steps: 5}, corpus: [read, numbers], source: s}
models/llama-7b: {name: h, kind: hub, repo_id: a/b, revision: c0, architecture: mistral, licence: l, source: s}
datasets/read: {name: n, title: t, version: 1, answer_form: mixed,
  splits: {train: {rows: 5, sources: [{kind: local, path: a.json, format: json}]}}}
datasets/cleaned: {name: n, title: t, version: 1, answer_form: mixed, parts: [numbers], without: [numbers],
  method: exact, splits: {train: {rows: 9, sources: [{kind: local, path: b.json}]}}}
datasets/numbers: {name: n, title: t, version: 1, answer_form: number, splits: {
  train: {rows: 5, known_malformed: [1], sources: [{kind: world, task: world-math, split: train, n: 5, world_seed: 1, seed: 2}]},
  test: {rows: 5, sha256: aa, known_malformed: [2], sources: [{kind: url, url: "https://u", sha256: bb}]}}}
datasets/yes-no: {name: n, title: t, version: 1, answer_form: boolean, splits: {
  train: {rows: 5, sources: [{kind: local, path: d.json}]}, test: {rows: 5, sources: [{kind: local, path: e.json}]}}}
protocols/strict: {name: p, version: 1, template: strict, parser: strict, num_beams: 2, max_new_tokens: {number: 8, boolean: 4}}
protocols/plain: {name: p, version: 1, template: paper-eval, parser: paper, max_new_tokens: {number: 8, boolean: 4}}
protocols/shots: {name: p, version: 1, template: strict, parser: strict, num_beams: 1, shots: 1, shots_seed: 3,
  shots_split: train, max_new_tokens: {number: 8, boolean: 4}}
protocols/chosen: {name: p, version: 1, template: strict, parser: likelihood, shots_split: test,
  continuation: {boolean: "{label}"}}
"""


@cache
def stages() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def test_there_is_one_stage_for_each_step_with_its_folder():
    outs = {name: next(iter(stage["outs"][0])) for name, stage in stages().items()}
    assert outs == {**{name: row.folder for name, row in STAGES.items()}, "report": "reports/${study}"}


def test_what_is_depended_on_exists():
    for stage in stages().values():
        for path in stage["deps"]:
            assert (ROOT / path).exists() or path in STAGE_OF, path


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every key of a card, as the way to it."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield (*at, key)
        yield from places(one, (*at, key))


def get(value: Any, at: tuple[Any, ...]) -> Any:
    for key in at:
        value = value[key]
    return value


def changed_at(card: Any, at: tuple[Any, ...], new: Any) -> Any:
    """The card with another value at a place; ``GONE``: without it."""
    card = copy.deepcopy(card)
    holder = get(card, at[:-1])
    if new is GONE:
        del holder[at[-1]]
    else:
        holder[at[-1]] = new
    return card


GONE = object()


class Cards:
    """The params as they are, but for one file that says something else."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.known = {PARAMS / f"{name}.yaml": card for name, card in yaml.safe_load(CARDS).items()}
        monkeypatch.setattr(reading, "read_yaml", lambda path: self.known[path])
        monkeypatch.setattr(reading.Path, "is_file", lambda path: path in self.known)

    def paths(self) -> dict[str, set[str]]:
        """What the study names now: stage -> paths."""
        read_card.cache_clear()
        named = load_study("small").artifacts
        return {stage: {str(artifact.path) for artifact in made} for stage, made in named.items()}

    def others(self, path: Path, at: tuple[Any, ...]) -> Iterator[Any]:
        """What the key might say instead: near values, those of the same key elsewhere, another order, nothing."""
        value = get(self.known[path], at)
        if isinstance(value, bool):
            yield not value
        elif isinstance(value, int | float):
            yield from (value + 1, value / 2)
        elif isinstance(value, str):
            yield f"{value}x"
            alike = [card for other, card in self.known.items() if other.parent == path.parent]
            same = [get(card, place) for card in alike for place in places(card) if place[-1] == at[-1]]
            yield from dict.fromkeys(one for one in same if isinstance(one, str) and one != value)
        elif isinstance(value, list) and len(value) > 1:
            yield value[::-1]
        yield GONE

    def changes(self) -> Iterator[tuple[Path, str, set[str]]]:
        """File, key, and the stages of which the study names something else when that key changes."""
        before = self.paths()
        for path, card in list(self.known.items()):
            for at in places(card):
                for other in self.others(path, at):
                    self.known[path] = changed_at(card, at, other)
                    try:
                        after = self.paths()
                    except UserError:
                        continue  # no value that this key may have
                    finally:
                        self.known[path] = card
                    key = f"{path.stem}: {'.'.join(map(str, at))}"
                    yield path, key, {stage for stage in before if before[stage] != after[stage]}
                    break


@pytest.fixture(scope="module")
def changes() -> list[tuple[str, str, set[str]]]:
    """(params folder, key, stages that it changes), for every key of every card of the grid."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        found = list(Cards(monkeypatch).changes())
    read_card.cache_clear()
    return [(str(path.parent.relative_to(ROOT)), key, changed) for path, key, changed in found]


def seen_by(stage: str, folder: str, changed: set[str], *, without: str = "") -> bool:
    """Does DVC run the stage: a params file that it lists has changed, or the folder of a stage above it."""
    dependencies = set(stages()[stage]["deps"]) - {without}
    return folder in dependencies or any(STAGE_OF.get(path) in changed for path in dependencies)


def missed(changes: list[tuple[str, str, set[str]]]) -> list[str]:
    """The keys that enter a fingerprint of a stage that DVC would not run for them."""
    return [
        f"{stage} does not see {folder}/{key}"
        for folder, key, changed in changes
        for stage in changed
        if not seen_by(stage, folder, changed)
    ]


def test_a_key_that_dvc_would_not_see_is_named(changes, monkeypatch):
    without = {**stages(), "train": {"deps": ["params/models", "params/study"]}}
    monkeypatch.setattr(sys.modules[__name__], "stages", lambda: without)
    assert "train does not see params/methods/lora: r" in missed(changes)


def test_dvc_sees_every_key_that_enters_a_fingerprint(changes):
    assert missed(changes) == []
    at_work = {key.partition(": ")[2] for _, key, changed in changes if changed}
    assert at_work >= {"r", "architecture", "answer_form", "corpus.0", "shots_split", "version"}


def test_every_params_folder_that_a_stage_lists_can_change_it(changes):
    for stage, row in STAGES.items():
        for folder in (f"params/{name}" for name in row.reads):
            assert any(
                stage in changed and not seen_by(stage, folder, changed, without=folder)
                for where, _, changed in changes
                if where == folder
            ), f"{stage} lists {folder} for nothing"


def test_each_stage_depends_on_the_params_folders_of_the_stage_table():
    for name, stage in stages().items():
        folders = [path for path in stage["deps"] if path.startswith("params/")]
        assert folders == ["params/params.yaml", *(f"params/{folder}" for folder in STAGES[name].reads)]
        assert "pipeline/study/stages.yaml" in stage["deps"]


@pytest.mark.parametrize("folder", sorted(path.name for path in PARAMS.iterdir() if path.is_dir()))
def test_a_card_means_the_same_after_dvc_has_set_a_key_of_it(tmp_path, folder):
    """`dvc exp run -S` writes the whole file anew, in its own layout."""
    for path in (PARAMS / folder).glob("*.yaml"):
        copy_of_it = shutil.copy(path, tmp_path)
        with modify_yaml(copy_of_it) as card:
            card["added"] = 1
        assert read_yaml(Path(copy_of_it)) == {**read_yaml(path), "added": 1}, path


def test_what_python_and_downloads_leave_is_no_dependency(tmp_path):
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
