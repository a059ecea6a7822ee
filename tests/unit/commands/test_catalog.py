"""What ``methods`` and ``models`` list, and which run a name refers to."""

import json
import os
import re
import shlex
import subprocess
import sys
from functools import cache

import pytest
import yaml
from typer.main import get_command

from pipeline.commands.app import build_app, run_command
from pipeline.commands.compare.audit_protocol import audit_protocols
from pipeline.commands.look.methods import format_architectures, supported_architectures
from pipeline.commands.look.models import model_rows
from pipeline.core.errors import UserError
from pipeline.models.bases import hub
from pipeline.params.architectures import LINEAR_MODULES
from pipeline.params.reading import PARAMS, read_card
from pipeline.study import Study, default_study, find
from pipeline.study import load_study as load_study_uncached
from tests.conftest import ROOT

ANSI = re.compile(r"\x1b\[[0-9;]*m")


@cache
def load_once(name):
    return load_study_uncached(name)


def load_study(name=None):
    return load_once(name or default_study())


@pytest.fixture(autouse=True)
def _load_each_study_once(monkeypatch):
    monkeypatch.setattr(find, "load_study", load_study)


def read_output(capsys, *arguments):
    assert run_command(arguments) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("kind", ["methods", "models"])
def test_every_card_is_a_line_of_the_table_and_an_object_of_the_json(kind, capsys):
    names = sorted(path.stem for path in (PARAMS / kind).glob("*.yaml"))
    lines = read_output(capsys, kind).splitlines()
    assert [line.split()[0] for line in lines] == ["NAME", *names]
    rows = json.loads(read_output(capsys, kind, "--json"))
    assert [row["name"] for row in rows] == names
    for row, line in zip(rows, lines[1:], strict=True):
        assert row["title"] in line
        assert row["source"] in line


def test_methods_lists_type_settings_and_architectures(capsys):
    rows = {row["name"]: row for row in json.loads(read_output(capsys, "methods", "--json"))}
    lora, series = (
        yaml.safe_load((PARAMS / f"methods/{name}.yaml").read_text()) for name in ("lora", "series")
    )
    assert rows["lora"]["type"] == lora["peft_type"]
    assert rows["lora"]["settings"]["r"] == lora["r"]
    assert rows["lora"]["settings"]["target_modules"] == lora["target_modules"]
    assert set(rows["lora"]["architectures"]) == set(lora["target_modules"])
    assert rows["series"]["type"] == "bottleneck"
    assert rows["series"]["settings"]["bottleneck_size"] == series["bottleneck_size"]
    assert rows["prefix-tuning"]["architectures"] is None
    table = read_output(capsys, "methods")
    assert f"r={lora['r']}, " in table
    assert "placement=before" in table


def test_models_lists_origin_licence_and_gate(capsys):
    rows = {row["name"]: row for row in json.loads(read_output(capsys, "models", "--json"))}
    card = read_card("models", "bloomz-7b1")
    row = {key: rows["bloomz-7b1"][key] for key in ("architecture", "repo_id", "licence", "gated", "source")}
    assert row == {key: getattr(card, key) for key in row}
    assert rows["tiny-llama"]["repo_id"] is None
    table = {line.split()[0]: line for line in read_output(capsys, "models").splitlines()}
    assert card.repo_id in table["bloomz-7b1"]
    assert card.licence in table["bloomz-7b1"]
    assert "pretrained by the study" in table["tiny-llama"]


def test_models_lists_special_tokens_and_the_modules_of_each_method(capsys):
    rows = {row["name"]: row for row in json.loads(read_output(capsys, "models", "--json"))}
    assert rows["llama-7b"]["tokens"] == {"bos": "tokenizer", "eos": "tokenizer", "pad": "unk"}
    assert set(rows["gpt-j-6b"]["tokens"].values()) == {"tokenizer"}
    targets = rows["llama-7b"]["target_modules"]
    assert targets["lora"] == read_card("methods", "lora").model_extra["target_modules"]["llama"]
    assert targets["series"] == read_card("methods", "series").placement["llama"]
    assert targets["prefix-tuning"] is None
    page = read_output(capsys, "models", "llama-7b")
    assert "tokens.pad: unk " in page
    assert re.search(r"^series +before up_proj, before gate_proj$", page, re.MULTILINE)
    table = {line.split()[0]: line for line in read_output(capsys, "models").splitlines()}
    assert "pad=unk" in table["llama-7b"]
    assert run_command(["models", "lama"]) == 1
    assert "llama-7b" in capsys.readouterr().err


def test_a_model_has_the_commit_of_its_first_download(monkeypatch, tmp_path):
    repo_id = read_card("models", "gpt-j-6b").repo_id
    monkeypatch.setattr(hub, "LOCK", tmp_path / "lock.yaml")
    assert next(row for row in model_rows() if row["name"] == "gpt-j-6b")["revision"] is None
    (tmp_path / "lock.yaml").write_text(f"model {repo_id}@main: {{revision: 0123abcd, files: {{}}}}\n")
    assert next(row for row in model_rows() if row["name"] == "gpt-j-6b")["revision"] == "0123abcd"


def test_a_table_fits_the_width_of_the_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "190")
    for kind in ("methods", "models"):
        lines = ANSI.sub("", read_output(capsys, kind)).splitlines()
        assert 100 < max(map(len, lines)) <= 190


def test_the_architectures_of_a_method_are_listed():
    method = {"placement": {"llama": "before", "bloom": "after"}, "target_modules": {"llama": ["q_proj"]}}
    assert supported_architectures(method) == ["llama"]
    assert format_architectures(["llama", "opt"]) == "llama, opt"
    assert format_architectures(list(LINEAR_MODULES)) == "all known"
    assert format_architectures(None) == "any"


def test_listing_imports_no_torch():
    code = "import sys; from pipeline.commands.app import run_command; run_command(['methods']); run_command(['models']); "
    code += "sys.exit(' '.join(sorted({'torch', 'transformers', 'peft', 'mlflow', 'pandas'} & set(sys.modules))) or 0)"
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (process.returncode, process.stderr) == (0, "")


def first_adapter_run(study):
    return next(run for run in study.runs if run.adapter)


@pytest.mark.parametrize("study", ["quickstart", "paper-math"])
def test_runs_are_found_by_folders_and_fingerprints(study):
    loaded = load_study(study)
    run = first_adapter_run(loaded)
    label = run.label.strip("/")
    for name in (
        label,
        run.adapter.fingerprint,
        run.adapter.fingerprint[:9],
        str(run.adapter.path),
        f"/elsewhere/{loaded.scores(run).path}",
        loaded.answers(run).fingerprint,
    ):
        found_study, found_run = find.find_run(name, study)
        assert (found_study.name, found_run.label) == (study, run.label)


def test_a_run_of_any_study_is_found_without_the_name_of_the_study():
    run = first_adapter_run(load_study("paper-math"))
    study, found_run = find.find_run(run.adapter.fingerprint, None)
    assert found_run.adapter.fingerprint == run.adapter.fingerprint
    assert study.name != "quickstart"
    with pytest.raises(UserError, match=r"^study 'quickstart' has no run"):
        find.find_run(run.adapter.fingerprint, "quickstart")


def test_the_default_study_comes_first():
    study, _ = find.find_run("tiny-llama/lora/world-math/seed0", None)
    assert study.name == "quickstart"


def test_an_ambiguous_name_lists_the_choices():
    with pytest.raises(UserError) as error:
        find.find_run("tiny-llama/lora", "quickstart")
    message = str(error.value)
    study = load_study("quickstart")
    for run in study.runs:
        if run.label.startswith("tiny-llama/lora/"):
            assert f"{run.label.strip('/')} ({run.adapter.fingerprint})" in message
    assert "\n" not in message


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(UserError, match=r"nearest: .*tiny-llama/lora/world-math/seed0"):
        find.find_run("tiny-llama/lora/world-math/seed9", "quickstart")


def test_a_study_without_models_has_no_run_to_name():
    with pytest.raises(UserError, match=r"^study 'references-math' has no run 'a': it evaluates no model$"):
        find.find_run("a", "references-math")
    with pytest.raises(UserError, match=r"^audit-protocol: study 'references-math' evaluates no model"):
        audit_protocols(load_study("references-math"))


def test_a_misspelt_prefix_suggests_the_nearest_prefix():
    with pytest.raises(UserError, match=r"nearest: tiny-llama/lora[,)]"):
        find.find_run("tiny-lama/lora", "quickstart")


# output larger and smaller than the buffer of a pipe
@pytest.mark.parametrize("arguments", [["models", "--json"], ["models", "llama-7b"]])
def test_a_closed_output_pipe_is_not_an_error(arguments):
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-m", "pipeline", *arguments]
    process = subprocess.run(
        command, cwd=ROOT, stdout=write_end, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(write_end)
    assert process.stderr == ""


def test_the_command_that_trains_a_run_has_its_study_unless_it_is_the_default():
    study = load_study("paper-math")
    run = first_adapter_run(study)
    with pytest.raises(UserError, match=r"not trained yet; run: snakemake \S+ --config study=paper-math$"):
        find.require_model(study, run)
    study = load_study("quickstart")
    assert (
        find.make_command(study, first_adapter_run(study).adapter.path)
        == f"snakemake {first_adapter_run(study).adapter.path}"
    )


def test_decoding_follows_the_protocol_with_the_longest_answer_of_the_tasks():
    study = load_study("paper-math")
    # short, long, short answers
    tasks = ["boolq", "gsm8k", "piqa"]
    arm = study.card.arms[0].model_copy(update={"tasks": tasks})
    study = Study("mixed", study.card.model_copy(update={"arms": [arm]}))
    run = first_adapter_run(study)
    strict, paper = find.choose_decoding(study, run, "strict"), find.choose_decoding(study, run, None)
    assert paper["num_beams"] == read_card("protocols", "paper").num_beams
    assert paper["template"] == "paper-eval"
    longest = read_card("protocols", "strict").max_new_tokens
    assert strict["max_new_tokens"] == longest["number"] > longest["boolean"]
    assert strict["template"] == "strict"
    with pytest.raises(UserError, match=r"has no 'loose' \(choices: paper, strict\)"):
        find.choose_decoding(study, run, "loose")


def test_the_commands_of_the_docs_parse_and_refer_to_runs_of_the_default_study():
    lines = (ROOT / "docs/commands.md").read_text().splitlines()
    commands = [line.partition("#")[0].partition("<")[0] for line in lines if line.startswith("python -m")]
    assert len(commands) > 6
    group = get_command(build_app())
    for command in commands:
        name, *arguments = shlex.split(command)[3:]
        context = group.commands[name].make_context(name, arguments)
        if "run" in context.params:
            assert find.find_run(context.params["run"], "quickstart")
