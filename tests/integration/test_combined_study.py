"""A study that combines its adapters, from its data to its report, its exports and its records."""

import csv
import shutil

import pytest
from peft import LoraConfig, PeftConfig

from pipeline.commands.run.jobs import run_job
from pipeline.commands.run.stages import JobOptions
from pipeline.commands.share.export import export_adapter
from pipeline.core.io import read_json
from pipeline.params import reading
from pipeline.results.reproduction.recorded_machine import recorded_settings
from pipeline.results.status import plan_artifacts
from pipeline.results.verify import verify
from pipeline.study import load_study
from tests.integration.conftest import STUDY, enter, extend_project

METHODS = (
    "methods: [lora, {method: series, bottleneck_size: 8}, {method: prefix-tuning, label: prefix}, full]"
)
MEMBERS = "members: [{{method: {0}, arm: arithmetic}}, {{method: {0}, arm: commonsense}}]"
COMBINED = (
    STUDY.replace(
        METHODS,
        f"""methods:
  - lora
  - {{method: combined-lora, label: both, weights: [0.5, 1.0], {MEMBERS.format("lora")}}}
  - {{method: series, bottleneck_size: 8}}
  - {{method: combined-bottleneck, label: stacked, combination_type: stack, {MEMBERS.format("series")}}}""",
    )
    .replace("protocols: [strict, paper]", "protocols: [strict]")
    .replace(
        "protocols:",
        """  - {name: commonsense, training_set: world-commonsense, tasks: [world-boolq], limit: 40}
protocols:""",
    )
)


@pytest.fixture(scope="module")
def combined_project(finished_study, tmp_path_factory):
    """A project whose combined study is finished; its base and one of its adapters are those of the small study."""
    root = tmp_path_factory.mktemp("combined") / "project"
    extend_project(finished_study, root, {"combined": COMBINED})
    return root


@pytest.fixture
def combined(combined_project, monkeypatch):
    """The finished project as the current one."""
    enter(monkeypatch, combined_project)
    yield combined_project
    reading.read_card.cache_clear()


def table(root, name):
    with (root / f"reports/combined/tables/{name}.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_report_has_the_combinations_beside_their_members(combined):
    rows = table(combined, "transfer-strict")
    assert [(row["Method"], row["Trained on"]) for row in rows] == [
        ("no adapter", ""),
        ("LoRA", "world-math"),
        ("LoRA", "world-commonsense"),
        ("both", "world-math + world-commonsense"),
        ("Series", "world-math"),
        ("Series", "world-commonsense"),
        ("stacked", "world-math + world-commonsense"),
    ]
    # a combination is evaluated on the tasks of both arms, and a member on those of its own
    assert [bool(row["arithmetic"]) and bool(row["commonsense"]) for row in rows] == [
        method in ("no adapter", "both", "stacked") for method in (row["Method"] for row in rows)
    ]
    costs = {row["Method"]: row for row in table(combined, "cost")}
    assert costs["both"]["Trainable parameters"]
    assert not costs["both"]["Training (s)"]
    settings = {row["Method"]: row for row in table(combined, "settings")}
    own = settings["both"]["The method's own"]
    assert "combination_type: cat" in own
    assert "weights: [0.5, 1.0]" in own
    assert "members trained on: [world-math, world-commonsense]" in own
    page = (combined / "reports/combined/index.html").read_text()
    assert 'id="section-transfer"' in page


@pytest.mark.slow
@pytest.mark.exhaustive
def test_combinations_are_made_again_byte_for_byte_and_match_their_records(combined):
    study = load_study("combined")
    assert plan_artifacts(study) == []
    combinations = study.artifacts["combine"]
    for artifact in combinations:
        files = {path.name: path.read_bytes() for path in artifact.path.iterdir() if path.name != "run.json"}
        shutil.rmtree(artifact.path)
        run_job("combine", artifact.fingerprint, study_name="combined", options=JobOptions(device="cpu"))
        assert {name: (artifact.path / name).read_bytes() for name in files} == files
    outcome = verify(artifacts=[*study.artifacts["train"], *combinations])
    assert (outcome.passed, outcome.artifacts) == (True, 6)
    assert recorded_settings(study.named()) == ({}, [])
    # a member that was changed is refused
    weights = combinations[0].inputs["member 1"].path / "adapter_model.safetensors"
    weights.chmod(0o644)
    original = weights.read_bytes()
    weights.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    assert not verify(artifacts=study.artifacts["train"]).passed
    weights.write_bytes(original)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_an_exported_combination_is_a_peft_adapter_whose_card_names_both_training_sets(combined, tmp_path):
    study = load_study("combined")
    lora, stacked = (next(run for run in study.runs if run.method == name) for name in ("both", "stacked"))
    for run in (lora, stacked):
        export_adapter(study, run, output=tmp_path / run.method, merge=False)
    config = PeftConfig.from_pretrained(str(tmp_path / "both"))
    assert isinstance(config, LoraConfig)
    assert config.r == 64
    assert read_json(tmp_path / "stacked/adapter_config.json")["stack_sizes"] == [8, 8]
    text = (tmp_path / "both/README.md").read_text()
    assert "combined from adapters that were trained on world-math and world-commonsense" in text
    assert "Training of lora, arm commonsense, seed 0:" in text
    assert "Training set world-math, template" in text
    assert "Training set world-commonsense, template" in text
    export_adapter(study, lora, output=tmp_path / "merged", merge=True)
    assert (tmp_path / "merged/model.safetensors").is_file()
