"""A change of a stage's code without a decision about its version is reported, with the commands that decide."""

import shutil

import pytest

from pipeline.core.errors import UserError
from pipeline.study import stage_code
from pipeline.study.stages import read_stages
from tests.conftest import ROOT


@pytest.fixture
def package(tmp_path):
    """A copy of the code, recorded as it is."""
    copied = shutil.copytree(
        ROOT / "pipeline", tmp_path / "pipeline", ignore=shutil.ignore_patterns("__pycache__")
    )
    stage_code.keep(["all"], copied)
    return copied


def version_of(package, stage: str) -> int:
    return read_stages(package / "study/stages.yaml")[stage].version


def edit(package, name: str, old: str, new: str):
    path = package / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    stage_code._read_module.cache_clear()


def test_no_change_of_a_stages_code_is_undecided():
    undecided = stage_code.changed_stages()
    assert not undecided, f"\n{stage_code.decisions_needed(undecided)}"


def test_a_changed_function_is_reported_for_the_stages_that_reach_it(package):
    edit(package, "models/train.py", "round(state.grad_norm, 6)", "round(state.grad_norm, 5)")
    assert stage_code.changed_stages(package) == {"train": ["pipeline.models.train"]}
    message = stage_code.decisions_needed(stage_code.changed_stages(package))
    assert "stage-code --keep train" in message
    assert "stage-code --raise train" in message


def test_shared_code_is_reported_for_all_its_stages(package):
    edit(package, "prompts/encode.py", "def encode(", "ADDED = 1\n\n\ndef encode(")
    assert stage_code.changed_stages(package) == {}
    edit(
        package, "core/io.py", "file.write(json.dumps(row, ensure_ascii=False)", "file.write(json.dumps(row)"
    )
    assert {"train", "generate"} <= set(stage_code.changed_stages(package))
    assert "audit" not in stage_code.changed_stages(package)


def test_comments_docstrings_and_annotations_do_not_count(package):
    edit(package, "models/train.py", "def _first_budget(", "# a reason\ndef _first_budget(")
    edit(package, "models/train.py", '"""Train an adapter', '"""Fit an adapter')
    edit(package, "models/train.py", "def _run_steps(job: TrainingJob", "def _run_steps(job: object")
    assert stage_code.changed_stages(package) == {}


def test_a_template_that_a_stage_refers_to_is_part_of_its_code(package):
    edit(package, "report/page/page.html.j2", "<html", "<html id='x'")
    assert set(stage_code.changed_stages(package)) == {"report"}


def test_a_template_that_a_template_includes_is_part_of_the_code_too(package):
    edit(package, "report/page/templates/runs.html.j2", "<h2", "<h2 class='x'")
    assert set(stage_code.changed_stages(package)) == {"report"}


def test_keep_records_and_raise_raises_once(package):
    edit(package, "models/train.py", "round(state.grad_norm, 6)", "round(state.grad_norm, 5)")
    stage_code.keep(["train"], package)
    assert stage_code.changed_stages(package) == {}
    edit(package, "models/train.py", "round(state.grad_norm, 5)", "round(state.grad_norm, 4)")
    before = version_of(package, "train")
    stage_code.raise_version(["train"], package)
    assert stage_code.changed_stages(package) == {}
    assert version_of(package, "train") == before + 1


def test_a_version_raised_by_hand_is_recorded_and_not_raised_again(package):
    recorded = version_of(package, "score")
    edit(package, "study/stages.yaml", f"score: {{version: {recorded},", f"score: {{version: {recorded + 1},")
    assert stage_code.changed_stages(package) == {"score": []}
    stage_code.raise_version(["score"], package)
    assert version_of(package, "score") == recorded + 1
    assert stage_code.changed_stages(package) == {}


def test_an_unknown_stage_is_refused():
    with pytest.raises(UserError, match="'trian'"):
        stage_code.keep(["trian"])
