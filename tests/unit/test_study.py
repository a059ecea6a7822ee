"""Studies resolve to artifacts; a name that no artifact has is one line."""

import subprocess
import sys

import pytest

from pipeline.errors import UserError
from pipeline.params import PARAMS
from pipeline.study import load_study

STUDIES = sorted(path.stem for path in (PARAMS / "study").glob("*.yaml"))


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_is_well_formed_and_names_each_artifact_once(name):
    study = load_study(name)
    named = study.named()
    assert len({one.path for one in named}) == len(named)
    assert all(one.fingerprint in str(one.path) for one in named)


def test_quickstart_is_the_whole_grid():
    study = load_study("quickstart")
    assert len(study.artifacts["train"]) == 3 * 4 * 2 * 2
    assert len(study.runs) == 48 + 3
    assert {task["answer_form"] for run in study.runs for task in study.tasks(run)} == {
        *("number", "letter", "boolean", "solution", "answer", "ending", "option")
    }


def test_published_settings_of_the_paper_studies():
    study = load_study("paper-math")
    trained = {(run.model, run.method): run.adapter.params for run in study.runs}
    lora = trained["llama-7b", "lora"]
    assert (lora["method"]["r"], lora["method"]["lora_alpha"]) == (32, 64)
    assert lora["method"]["target_modules"] == ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"]
    assert (
        lora["training"]["learning_rate"],
        lora["training"]["epochs"],
        lora["training"]["batch_size"],
    ) == (3e-4, 3, 16)
    prefix = trained["gpt-j-6b", "prefix-tuning"]
    assert prefix["method"]["num_virtual_tokens"] == 10
    assert (
        prefix["training"]["learning_rate"],
        prefix["training"]["epochs"],
        prefix["training"]["batch_size"],
    ) == (3e-2, 5, 8)
    assert trained["bloomz-7b1", "series"]["method"]["placement"] == {"dense_4h_to_h": "after"}


@pytest.mark.parametrize(
    "look", [lambda study: study.find("train", "0" * 12), lambda study: study.run_of("0" * 12)]
)
def test_a_name_that_the_study_does_not_have_is_one_line(look):
    with pytest.raises(UserError, match=r"names no \w+ '000000000000'"):
        look(load_study("quickstart"))


def test_planning_imports_neither_torch_nor_transformers_nor_mlflow():
    code = "import sys; from pipeline.study import load_study; load_study('quickstart'); print(sorted(sys.modules))"
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PARAMS.parent
    ).stdout
    assert not any(
        f"'{name}'" in told for name in ("torch", "transformers", "mlflow", "peft", "datasets", "pandas")
    )
