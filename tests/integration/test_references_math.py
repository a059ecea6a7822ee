"""`study: references-math` on the real answers of text-davinci-003 and GPT-3, without a model."""

import shutil
import subprocess
import sys

import pytest

from pipeline.commands.run.jobs import run_job
from pipeline.commands.run.stages import JobOptions
from pipeline.core.errors import UserError
from pipeline.core.io import read_json
from pipeline.params import reading
from pipeline.study import find
from tests.conftest import ROOT
from tests.integration.conftest import enter

STUDY = "references-math"
STAGES = ("fetch", "prompts", "generate", "score")
DAVINCI = "text-davinci-003-plan-and-solve"


@pytest.fixture(scope="module")
def data_root(shared, tmp_path_factory):
    """The folder that a user makes: the files of the datasets, and the answers below answers/."""
    if not (shared / "answers").is_dir():
        pytest.skip("skipped: ../shared/answers (answers of large models) is not there")
    folder = tmp_path_factory.mktemp("data")
    for path in (shared / "data/real").iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "answers").symlink_to(shared / "answers")
    return folder


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project with this repository's params, which is the current project."""
    root = tmp_path_factory.mktemp("references") / "project"
    shutil.copytree(ROOT / "params", root / "params")
    with pytest.MonkeyPatch.context() as patch:
        enter(patch, root)
        yield root
    reading.read_card.cache_clear()


@pytest.fixture(scope="module")
def scores(project, data_root):
    """The score files of the study by reference."""
    study = find.load_study(STUDY)
    for stage in STAGES:
        for artifact in study.artifacts[stage]:
            run_job(stage, artifact.fingerprint, study_name=STUDY, options=JobOptions(data_root=data_root))
    return {reference.name: read_json(reference.scores.path)["tasks"] for reference in study.references}


@pytest.mark.slow
def test_three_readings_of_the_answers(scores):
    davinci = scores[DAVINCI]
    # what the authors count as right in their own files
    assert [davinci[f"{task}-stored"]["correct"] for task in ("multiarith", "aqua", "svamp")] == [
        548,
        118,
        763,
    ]
    assert [davinci[f"{task}-paper"]["correct"] for task in ("multiarith", "aqua", "svamp")] == [491, 58, 735]
    assert [davinci[f"{task}-strict"]["n"] for task in ("multiarith", "aqua", "svamp")] == [600, 254, 999]
    for name, right in (
        ("gpt-3-175b-gsm8k", 458),
        ("gpt-3-175b-gsm8k-verified", 742),
        ("gpt-3-6b-gsm8k", 286),
    ):
        # their judgement and the last number agree
        assert scores[name]["gsm8k-stored"]["correct"] == right
        assert scores[name]["gsm8k-paper"]["correct"] == right


def test_a_wrong_reference_is_refused_before_any_job(project):
    card = project / "params/study/wrong.yaml"
    text = (project / f"params/study/{STUDY}.yaml").read_text()
    for old, new, message in (
        (DAVINCI, "davinci", "references: params/references: no 'davinci'"),
        ("[multiarith, aqua, svamp]", "[mawps]", f"references.{DAVINCI}: tasks: 'mawps': no arm has it"),
        ("tasks: [multiarith, gsm8k, aqua, svamp]", "tasks: [boolq]", "'multiarith': no arm has it"),
        ("  - gpt-3-6b-gsm8k\n", "  - gpt-3-175b-gsm8k\n", "references: 'gpt-3-175b-gsm8k' is repeated"),
        (
            "[paper, strict]",
            "[likelihood-text]",
            "protocols: none of likelihood-text covers answers of the form",
        ),
        ("models: []", "models: [tiny-llama]\nbare: false", "methods: needs at least one"),
        ("models: []", "models: []\ntexts: {datasets: [wikitext-2]}", "texts: needs models; leave it out"),
    ):
        assert old in text
        card.write_text(text.replace(old, new))
        reading.read_card.cache_clear()
        with pytest.raises(UserError) as error:
            find.load_study("wrong")
        assert message in str(error.value)
        assert "\n" not in str(error.value)
    card.unlink()
    reading.read_card.cache_clear()


@pytest.mark.slow
def test_a_job_of_a_reference_imports_no_torch(scores, project, data_root):
    """It would cost seconds and a machine that has it."""
    code = (
        "import sys; from pathlib import Path; from pipeline.params import reading; "
        "from pipeline.study import grid, find; root = Path(sys.argv[1])\n"
        "for module in (reading, grid, find): module.PARAMS = root / 'params'\n"
        "from pipeline.commands.run import stages; study = find.load_study('references-math')\n"
        "options = stages.JobOptions(); reference = study.references[0]\n"
        "stages.run_generate(study, reference.answers, options); stages.run_score(study, reference.scores, options)\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, str(project)]
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
