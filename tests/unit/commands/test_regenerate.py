"""Files generated from code and cards are up to date, and one command regenerates them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.commands.maintain import deviations, followups_page, gpu_page, house, regenerate
from pipeline.params.reading import CARDS
from tests.conftest import ROOT


def test_no_generated_file_is_stale():
    regenerate.check_generated_files()


@pytest.fixture
def project(tmp_path) -> Path:
    """A copy of the generated files and of their sources."""
    for folder in ("pipeline", "params"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (*regenerate.generated_files(), "pyproject.toml", "constraints.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def run_regenerate(project: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "pipeline", "regenerate", *arguments]
    process = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert "Traceback" not in process.stderr
    return process.stdout + process.stderr


@pytest.mark.parametrize(
    ("name", "old", "new", "stale"),
    [
        (
            "pipeline/params/base.py",
            "logging_steps: int = Field(10",
            "logging_steps: int = Field(11",
            "docs/params.md, params/schema/methods.json, params/schema/study.json",
        ),
        (
            "pipeline/params/methods.py",
            "width of the adapter",
            "breadth",
            "docs/params.md, params/schema/methods.json",
        ),
        (
            "pipeline/params/protocols.py",
            "beams of beam search",
            "width of the search",
            "docs/params.md, params/schema/protocols.json",
        ),
        ("params/datasets/boolq.yaml", "title: ", "title: New ", "data/README.md"),
        ("constraints.txt", "peft==0.21.2", "peft==0.21.3", "workflow/envs/pipeline.yaml"),
        ("docs/params.md", "cutoff_len", "cutof_len", "docs/params.md"),
        ("params/study/paper-math.yaml", "dtype: bfloat16", "dtype: float16", "docs/deviations.md"),
        ("params/schema/study.json", "seeds", "sedes", "params/schema/study.json"),
    ],
)
def test_stale_files_are_an_error_with_the_files_and_the_command(project, name, old, new, stale):
    text = (project / name).read_text() if (project / name).exists() else ""
    assert old in text
    (project / name).write_text(text.replace(old, new) if old else new)
    assert (
        run_regenerate(project, "--check") == f"error: stale: {stale}; run: python -m pipeline regenerate\n"
    )


def test_one_command_writes_all_stale_files(project):
    for name in regenerate.generated_files():
        # of these pages only a section is generated
        words = {
            house.PAGE: "flowchart TD",
            deviations.PAGE: "What differs",
            gpu_page.PAGE: "least GPU (GB)",
            followups_page.PAGE: "### Procedures",
        }.get(name)
        if words:
            page = (project / name).read_text()
            assert words in page
            (project / name).write_text(page.replace(words, ""))
        else:
            (project / name).unlink()
    assert run_regenerate(project).splitlines() == [
        f"written: {name}" for name in regenerate.generated_files()
    ]
    assert run_regenerate(project, "--check") == "nothing was stale\n"


def test_a_study_that_departs_from_its_published_command_is_an_error(project):
    path = project / "params/methods/lora.yaml"
    path.write_text(path.read_text().replace("lora_alpha: 64", "lora_alpha: 32"))
    assert run_regenerate(project, "--check") == (
        "error: params/commands/llm-adapters.yaml: reasons: no reason for lora_alpha of A1 (published 64, here 32); "
        "no reason for lora_alpha of A5 (published 64, here 32); no reason for lora_alpha of A8 (published 64, here 32)\n"
    )


def test_every_kind_of_card_has_a_schema_and_a_section():
    page = (ROOT / regenerate.PARAMS_PAGE).read_text()
    for kind in CARDS:
        assert json.loads((ROOT / f"params/schema/{kind}.json").read_text())
        assert f"params/{kind}/NAME.yaml" in page


def test_the_page_lists_type_bound_default_and_description():
    page = (ROOT / regenerate.PARAMS_PAGE).read_text()
    assert "| `batch_size` | integer > 0 | `16` | examples in an optimizer step |" in page
    assert '| `lr_scheduler` | `linear`, `cosine`, `constant` | `"linear"` |' in page
