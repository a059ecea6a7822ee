"""The commands ``methods`` and ``models``, and the run that a name refers to."""

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
from pipeline.commands.look.methods import format_architectures, supported_architectures
from pipeline.commands.look.models import model_rows
from pipeline.core.errors import UserError
from pipeline.models import hub
from pipeline.params.architectures import LINEAR_MODULES
from pipeline.params.reading import PARAMS, read_card
from pipeline.study import Study, default_study, find
from pipeline.study import load_study as load_afresh
from tests.conftest import ROOT

ANSI = re.compile(r"\x1b\[[0-9;]*m")


@cache
def load_once(name):
    return load_afresh(name)


def load_study(name=None):
    return load_once(name or default_study())


@pytest.fixture(autouse=True)
def _studies_are_loaded_once(monkeypatch):
    monkeypatch.setattr(find, "load_study", load_study)


def printed(capsys, *arguments):
    assert run_command(arguments) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("kind", ["methods", "models"])
def test_every_card_is_a_line_of_the_table_and_an_object_of_the_json(kind, capsys):
    names = sorted(path.stem for path in (PARAMS / kind).glob("*.yaml"))
    lines = printed(capsys, kind).splitlines()
    assert [line.split()[0] for line in lines] == ["NAME", *names]
    rows = json.loads(printed(capsys, kind, "--json"))
    assert [row["name"] for row in rows] == names
    for row, line in zip(rows, lines[1:], strict=True):
        assert row["title"] in line
        assert row["source"] in line


def test_methods_list_tuner_settings_and_architectures(capsys):
    rows = {row["name"]: row for row in json.loads(printed(capsys, "methods", "--json"))}
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
    table = printed(capsys, "methods")
    assert f"r={lora['r']}, " in table
    assert "placement=before" in table


def test_models_list_origin_licence_and_gate(capsys):
    rows = {row["name"]: row for row in json.loads(printed(capsys, "models", "--json"))}
    card = read_card("models", "bloomz-7b1")
    told = {key: rows["bloomz-7b1"][key] for key in ("architecture", "repo_id", "licence", "gated", "source")}
    assert told == {key: getattr(card, key) for key in told}
    assert rows["tiny-llama"]["repo_id"] is None
    table = {line.split()[0]: line for line in printed(capsys, "models").splitlines()}
    assert card.repo_id in table["bloomz-7b1"]
    assert card.licence in table["bloomz-7b1"]
    assert "pretrained by the study" in table["tiny-llama"]


def test_models_list_special_tokens_and_the_modules_of_each_method(capsys):
    rows = {row["name"]: row for row in json.loads(printed(capsys, "models", "--json"))}
    assert rows["llama-7b"]["tokens"] == {"bos": "tokenizer", "eos": "tokenizer", "pad": "unk"}
    assert set(rows["gpt-j-6b"]["tokens"].values()) == {"tokenizer"}
    targets = rows["llama-7b"]["target_modules"]
    assert targets["lora"] == read_card("methods", "lora").model_extra["target_modules"]["llama"]
    assert targets["series"] == read_card("methods", "series").placement["llama"]
    assert targets["prefix-tuning"] is None
    page = printed(capsys, "models", "llama-7b")
    assert "tokens.pad: unk " in page
    assert re.search(r"^series +before up_proj, before gate_proj$", page, re.MULTILINE)
    table = {line.split()[0]: line for line in printed(capsys, "models").splitlines()}
    assert "pad=unk" in table["llama-7b"]
    assert run_command(["models", "lama"]) == 1
    assert "llama-7b" in capsys.readouterr().err


def test_a_model_has_the_commit_of_its_first_download(monkeypatch, tmp_path):
    repo_id = read_card("models", "gpt-j-6b").repo_id
    monkeypatch.setattr(hub, "LOCK", tmp_path / "lock.yaml")
    assert next(row for row in model_rows() if row["name"] == "gpt-j-6b")["revision"] is None
    (tmp_path / "lock.yaml").write_text(f"model {repo_id}@main: {{revision: 0123abcd, files: {{}}}}\n")
    assert next(row for row in model_rows() if row["name"] == "gpt-j-6b")["revision"] == "0123abcd"


def test_a_terminal_gets_a_table_of_its_width(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "190")
    for kind in ("methods", "models"):
        lines = ANSI.sub("", printed(capsys, kind)).splitlines()
        assert 100 < max(map(len, lines)) <= 190


def test_a_method_for_some_architectures_lists_them():
    given = {"placement": {"llama": "before", "bloom": "after"}, "target_modules": {"llama": ["q_proj"]}}
    assert supported_architectures(given) == ["llama"]
    assert format_architectures(["llama", "opt"]) == "llama, opt"
    assert format_architectures(list(LINEAR_MODULES)) == "all known"
    assert format_architectures(None) == "any"


def test_listing_imports_no_torch():
    code = "import sys; from pipeline.commands.app import run_command; run_command(['methods']); run_command(['models']); "
    code += "sys.exit(' '.join(sorted({'torch', 'transformers', 'peft', 'mlflow', 'pandas'} & set(sys.modules))) or 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def some_run(study):
    return next(run for run in study.runs if run.adapter)


@pytest.mark.parametrize("study", ["quickstart", "paper-math"])
def test_runs_are_found_by_folders_and_fingerprints(study):
    loaded = load_study(study)
    run = some_run(loaded)
    label = run.label.strip("/")
    for name in (
        label,
        run.adapter.fingerprint,
        run.adapter.fingerprint[:9],
        str(run.adapter.path),
        f"/elsewhere/{loaded.scores(run).path}",
        loaded.answers(run).fingerprint,
    ):
        where, found = find.find_run(name, study)
        assert (where.name, found.label) == (study, run.label)


def test_a_run_of_any_study_is_found_without_its_study():
    run = some_run(load_study("paper-math"))
    study, found = find.find_run(run.adapter.fingerprint, None)
    assert found.adapter.fingerprint == run.adapter.fingerprint
    assert study.name != "quickstart"
    with pytest.raises(UserError, match=r"^study 'quickstart' has no run"):
        find.find_run(run.adapter.fingerprint, "quickstart")


def test_the_default_study_comes_first():
    study, _ = find.find_run("tiny-llama/lora/world-math/seed0", None)
    assert study.name == "quickstart"


def test_an_ambiguous_name_lists_the_choices():
    with pytest.raises(UserError) as caught:
        find.find_run("tiny-llama/lora", "quickstart")
    told = str(caught.value)
    study = load_study("quickstart")
    for run in study.runs:
        if run.label.startswith("tiny-llama/lora/"):
            assert f"{run.label.strip('/')} ({run.adapter.fingerprint})" in told
    assert "\n" not in told


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(UserError, match=r"nearest: .*tiny-llama/lora/world-math/seed0"):
        find.find_run("tiny-llama/lora/world-math/seed9", "quickstart")


def test_a_misspelt_beginning_suggests_the_nearest_beginning():
    with pytest.raises(UserError, match=r"nearest: tiny-llama/lora[,)]"):
        find.find_run("tiny-lama/lora", "quickstart")


@pytest.mark.parametrize(
    "asked", [["models", "--json"], ["models", "llama-7b"]]
)  # more, and less, than a buffer
def test_a_closed_pipe_is_no_error(asked):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "pipeline", *asked]
    done = subprocess.run(command, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert done.stderr == ""


def test_the_command_for_a_missing_run_names_its_study_unless_it_is_the_default():
    study = load_study("paper-math")
    run = some_run(study)
    with pytest.raises(UserError, match=r"not trained yet; run: snakemake \S+ --config study=paper-math$"):
        find.require_model(study, run)
    study = load_study("quickstart")
    assert (
        find.make_command(study, some_run(study).adapter.path) == f"snakemake {some_run(study).adapter.path}"
    )


def test_the_decoding_is_the_protocols_with_the_longest_answer():
    study = load_study("paper-math")
    tasks = ["boolq", "gsm8k", "piqa"]  # short, long, short answers
    arm = study.card.arms[0].model_copy(update={"tasks": tasks})
    study = Study("mixed", study.card.model_copy(update={"arms": [arm]}))
    run = some_run(study)
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
