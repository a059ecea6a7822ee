"""A study with ``quantization``: its stages run, run.json says so, and the exported adapter loads as its card says."""

import re

import pytest

from pipeline.commands.app import run_command
from pipeline.core.io import read_json
from pipeline.evaluate.generation.predict import predict
from pipeline.params import reading
from pipeline.study import find, load_study
from tests.e2e.conftest import MODEL
from tests.integration.conftest import STUDY, enter, run_study, write_project

pytest.importorskip(
    "bitsandbytes",
    reason="bitsandbytes, an optional package, is not installed: pip install '.[quantization]'",
)
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::FutureWarning")]

METHODS = "[lora, {method: series, bottleneck_size: 8}]"


@pytest.fixture(scope="module", params=["nf4", "int8"])
def quantized_project(request, tmp_path_factory):
    """The folder of a finished study on a quantized base, and the quantization."""
    root = tmp_path_factory.mktemp("quantized")
    study = re.sub(r"methods: .*", f"methods: {METHODS}", STUDY)
    study = study.replace("training: {", f"training: {{quantization: {request.param}, ")
    write_project(root, {"models/small-llama": MODEL, "study/small": study, "params": "study: small\n"})
    with pytest.MonkeyPatch.context() as patch:
        enter(patch, root)
        run_study(patch)
        yield root, request.param
    reading.read_card.cache_clear()


def test_all_answers_are_computed_on_the_quantized_base(quantized_project):
    root, quantization = quantized_project
    study = load_study()
    for run in study.runs:
        costs = read_json(root / study.answers(run).path / "run.json")["tasks"]
        assert {cost["quantization"] for cost in costs.values()} == {quantization}
    (lora,) = (run for run in study.runs if run.method == "lora")
    assert "bitsandbytes" in read_json(root / lora.adapter.path / "run.json")["packages"]


@pytest.mark.parametrize("method", ["lora", "series"])
def test_the_code_on_the_card_answers_as_predict_does(
    method, quantized_project, tmp_path, capsys, monkeypatch
):
    _, quantization = quantized_project
    # the kernel that bitsandbytes has for CPUs with bfloat16 instructions fails for the short rows of a tiny base
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)
    assert run_command(["export", "--run", f"small-llama/{method}", "--output", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out/README.md").read_text()
    assert f"trained and evaluated on the base quantized to {quantization}" in text
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    capsys.readouterr()
    exec(code.replace('this = "."', f'this = "{tmp_path / "out"}"'), {})
    printed = capsys.readouterr().out.strip()
    study, run = find.find_run(f"small-llama/{method}", None)
    base, adapter = find.require_model(study, run)
    decoding = find.choose_decoding(study, run, None)
    (answer,) = predict(base, adapter, [["What is 2 + 3?"]], input="", decoding=decoding, device="cpu")
    assert printed == answer["answer"] != ""


def test_merging_is_refused(quantized_project, tmp_path, capsys):
    _, quantization = quantized_project
    arguments = ["export", "--run", "small-llama/lora", "--merge", "--output", str(tmp_path / "out")]
    assert run_command(arguments) == 1
    assert f"a base quantized to {quantization}, and rounding" in capsys.readouterr().err
