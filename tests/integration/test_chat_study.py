"""A study in a model's own chat template, on a model in the hub's cache: trained, evaluated, scored and exported."""

import re

import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants

from pipeline.commands.app import run_command
from pipeline.core.io import read_json, read_jsonl
from pipeline.params.reading import read_card
from pipeline.study import load_study
from tests.integration.conftest import enter, run_study, write_project
from tests.tiny import CHAT, put_in_hub_cache, save_base

MODEL = """
name: Chat (tiny)
repo_id: org/chat
revision: null
architecture: llama
licence: mit
tokens: {eos: w12, pad: unk}
source: test
"""
STUDY = """
title: Chat
description: in the model's own template
models: [chat]
methods: [lora]
seeds: [0]
arms:
  - {name: arithmetic, training_set: world-math, tasks: [world-addsub, world-aqua], limit: 8}
protocols: [chat, chat-likelihood]
template: chat
limit: 3
max_new_tokens: 4
training: {max_steps: 2, batch_size: 4, warmup_steps: 1, train_on_inputs: false, epochs: null}
"""
TEXT_PROTOCOL = (
    "name: chat\nversion: 1\ntemplate: chat\nparser: strict\nmax_new_tokens: {number: 8, letter: 8}\n"
)
LIKELIHOOD_PROTOCOL = "name: chat-likelihood\nversion: 1\ntemplate: chat\nparser: likelihood\ncontinuation: {letter: 'w{label}'}\n"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = tmp_path_factory.mktemp("chat") / "project"
    save_base("llama", root / "plain", chat_template=CHAT, max_position_embeddings=256)
    put_in_hub_cache(root / "hub", "org/chat", root / "plain")
    cards = {"models/chat": MODEL, "study/chat": STUDY, "params": "study: chat\n"}
    write_project(
        root, {**cards, "protocols/chat": TEXT_PROTOCOL, "protocols/chat-likelihood": LIKELIHOOD_PROTOCOL}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_CACHE", str(root / "hub"))
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        enter(patch, root)
        run_study(patch)
        yield load_study()
    read_card.cache_clear()


def test_prompts_files_belong_to_no_model_and_answers_use_its_template(project):
    prompts = project.task_prompts("world-addsub", "chat").path
    rows = pq.read_table(prompts).to_pylist()
    assert {row["prompt"] for row in rows} == {None}
    for run in project.runs:
        answers = read_jsonl(project.answers(run).path / "world-addsub-chat.jsonl")
        expected = [f"w10 {row['instruction']} </s> w12\nw11 " for row in rows]
        assert [row["prompt"] for row in answers] == expected
        likely = read_jsonl(project.answers(run).path / "world-aqua-chat-likelihood.jsonl")
        assert all(row["prompt"].startswith("w10 ") and row["prompt"].endswith("w11 ") for row in likely)
        assert set(read_json(project.scores(run).path)["tasks"]) >= {"world-addsub-chat", "world-aqua-chat"}


def test_the_card_of_its_adapter_answers_as_predict_does(project, tmp_path, capsys):
    (run,) = (run for run in project.runs if run.adapter)
    name = run.adapter.fingerprint
    assert run_command(["export", "--run", name, "--output", str(tmp_path / "out")]) == 0
    code = re.search(r"```python\n(.*?)```", (tmp_path / "out/README.md").read_text(), re.S).group(1)
    assert "apply_chat_template" in code
    capsys.readouterr()
    exec(compile(code.replace('this = "."', f'this = "{tmp_path}/out"'), "README.md", "exec"), {})
    printed = capsys.readouterr().out.strip()
    assert run_command(["predict", "--run", name, "--protocol", "chat", "What is 2 + 3?"]) == 0
    assert printed == capsys.readouterr().out.strip() != ""


def test_show_prints_an_example_as_it_is_trained_on(project, capsys):
    command = ["show", "world-addsub", "--template", "chat", "--model", "chat"]
    assert run_command([*command, "--tokens", "--no-train-on-inputs"]) == 0
    tokens = capsys.readouterr().out
    assert re.search(r"no loss, \d+ tokens:\nw10\|", tokens)
    # the end of the question's turn and of the answer's, whose w12 is the end token too
    assert tokens.count("w12") == 2
    assert run_command(command) == 0
    assert "w10 " in capsys.readouterr().out
