"""``export``: a folder that loads as its card says, and a card that agrees with the records of the run."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.adapters import add_adapter
from pipeline.adapters.methods import fill_schedule
from pipeline.commands.app import run_command
from pipeline.commands.share import export as export_command
from pipeline.commands.share import model_card
from pipeline.commands.share.model_card import card_header, collect_facts, render_card
from pipeline.core.errors import UserError
from pipeline.core.io import read_json, sha256_file, write_json
from pipeline.evaluate.generation.loading import load_model
from pipeline.evaluate.generation.predict import predict
from pipeline.params.reading import read_card
from pipeline.params.resolve import resolve_method
from pipeline.params.studies import Entry
from pipeline.study import load_study
from pipeline.study.find import list_trained_methods
from tests.conftest import ROOT
from tests.tiny import model_of, save_base

IDS = torch.tensor([[1, 9, 30, 12, 7]])


def export(*arguments, ok=True, capsys=None):
    status = run_command(["export", *map(str, arguments)])
    assert status == (0 if ok else 1)
    return capsys.readouterr().err if capsys else ""


def find_run(method):
    study = load_study()
    return study, next(run for run in study.runs if run.method == method)


def load_adapter(run):
    base = AutoModelForCausalLM.from_pretrained(run.base.path, dtype="float32")
    return PeftModel.from_pretrained(base, str(run.adapter.path)).eval()


def section(text, title):
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.S | re.M).group(1)


@pytest.mark.parametrize("method", ["lora", "series", "prefix"])
def test_the_folder_holds_the_adapter_alone_and_loads(method, project, tmp_path):
    _, run = find_run(method)
    export("--run", f"small-llama/{method}", "--output", tmp_path / "out")
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    weights = "adapter_model.safetensors"
    assert (tmp_path / "out" / weights).read_bytes() == (run.adapter.path / weights).read_bytes()
    base = AutoModelForCausalLM.from_pretrained(run.base.path, dtype="float32")
    loaded = PeftModel.from_pretrained(base, str(tmp_path / "out")).eval()
    assert torch.equal(loaded(IDS).logits, load_adapter(run)(IDS).logits)


@pytest.mark.parametrize(
    ("method", "options"), [("lora", []), ("lora", ["--merge"]), ("series", []), ("prefix", []), ("full", [])]
)
def test_the_code_on_the_card_answers_as_predict_does(method, options, project, tmp_path, capsys):
    export("--run", f"small-llama/{method}", "--output", tmp_path / "out", *options)
    text = (tmp_path / "out/README.md").read_text()
    code = re.search(r"```python\n(.*?)```", text, re.S).group(1)
    assert ("import pipeline.adapters" in code) == (method == "series")
    assert 'this = "."' in code
    capsys.readouterr()
    exec(compile(code.replace('this = "."', f'this = "{tmp_path}/out"'), "README.md", "exec"), {})
    printed = capsys.readouterr().out.strip()
    run_command(["predict", "--run", f"small-llama/{method}", "What is 2 + 3?"])
    assert printed == capsys.readouterr().out.strip() != ""


@pytest.mark.parametrize(
    "precision",
    [{}, {"dtype": "bfloat16", "weights": "bfloat16"}, {"weights": "bfloat16"}],
    ids=["float32", "bfloat16", "bfloat16 weights in float32"],
)
def test_the_code_for_a_hub_base_answers_as_predict_does(precision, project, capsys):
    study, run = find_run("series")
    facts = collect_facts(study, run, run.adapter)
    decoding = {**facts.decoding, **precision}
    facts = replace(
        facts, base=replace(facts.base, repo_id=str(run.base.path), revision="main"), decoding=decoding
    )
    card = render_card(facts, form="bottleneck")
    code = re.search(r"```python\n(.*?)```", card, re.S).group(1)
    capsys.readouterr()
    exec(compile(code.replace('this = "."', f'this = "{run.adapter.path}"'), "README.md", "exec"), {})
    printed = capsys.readouterr().out.strip()
    (prediction,) = predict(
        run.base.path, run.adapter.path, [["What is 2 + 3?"]], input="", decoding=decoding, device="cpu"
    )
    assert printed == prediction["answer"] != ""


def test_a_merged_model_loads_alone_and_computes_the_same(project, tmp_path):
    _, run = find_run("lora")
    export("--run", "small-llama/lora", "--output", tmp_path / "out", "--merge")
    assert not (tmp_path / "out/adapter_config.json").exists()
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    expected = load_adapter(run)(IDS).logits
    torch.testing.assert_close(merged(IDS).logits, expected, atol=1e-4, rtol=1e-4)
    bare = AutoModelForCausalLM.from_pretrained(run.base.path, dtype="float32")(IDS).logits
    assert (bare - expected).abs().max() > 1e-2
    tokens = [
        AutoTokenizer.from_pretrained(directory)("Tom has 3.")["input_ids"]
        for directory in (tmp_path / "out", run.base.path)
    ]
    assert tokens[0] == tokens[1]
    card = ModelCard.load(tmp_path / "out/README.md")
    assert card.data.library_name == "transformers"
    assert "before it was merged" in card.text


SMALL = {
    "bottleneck_size": 4,
    "r": 4,
    "init_r": 6,
    "target_r": 3,
    "oft_block_size": 8,
    "num_virtual_tokens": 3,
}
METHODS = {
    name: resolve_method(Entry(method=name), architecture="llama", where="test")
    for name in list_trained_methods()
}
FULL = [name for name, card in METHODS.items() if card["kind"] == "full"]
UNMERGEABLE = [
    name for name, card in METHODS.items() if {"bottleneck_size", "num_virtual_tokens"} & set(card)
]


def save_random_adapter(method, directory):
    """Write a small base and an adapter with random weights, of a method card; return the adapted model."""
    card = METHODS[method] | {key: value for key, value in SMALL.items() if key in METHODS[method]}
    if card.get("init_lora_weights") == "pissa":
        # PiSSA adapters are saved as plain LoRA
        card["init_lora_weights"] = True
    save_base("llama", directory / "base")
    model = add_adapter(model_of("llama"), fill_schedule(card, steps=10), architecture="llama", seed=1).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(directory / "adapter")
    return model


@pytest.mark.parametrize("method", [name for name in METHODS if name not in UNMERGEABLE + FULL])
def test_a_method_that_changes_weights_is_merged_exactly(method, tmp_path):
    expected = save_random_adapter(method, tmp_path)(IDS).logits
    export_command._check_mergeable(tmp_path / "adapter", export_command._card_form(tmp_path / "adapter"))
    export_command._write_merged(
        tmp_path / "base", tmp_path / "adapter", weights="float32", output=tmp_path / "out"
    )
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert (model_of("llama")(IDS).logits - expected).abs().max() > 0.02
    torch.testing.assert_close(merged(IDS).logits, expected, atol=1e-3, rtol=1e-3)


def test_a_merged_folder_has_float32_weights_of_which_the_adapter_is_not_rounded(tmp_path):
    save_random_adapter("lora", tmp_path)
    folders = tmp_path / "base", tmp_path / "adapter"
    export_command._write_merged(*folders, weights="bfloat16", output=tmp_path / "out")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert merged.dtype == torch.float32
    expected, _ = load_model(*folders, "float32", "cpu", weights="bfloat16")
    torch.testing.assert_close(merged(IDS).logits, expected(IDS).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", UNMERGEABLE)
def test_a_method_that_cannot_be_merged_says_why(method, tmp_path):
    save_random_adapter(method, tmp_path)
    with pytest.raises(UserError, match="cannot be merged into its base: it"):
        export_command._check_mergeable(tmp_path / "adapter", export_command._card_form(tmp_path / "adapter"))


def test_a_base_with_refused_sampling_settings_is_merged(project, tmp_path):
    _, run = find_run("lora")
    settings = run.base.path / "generation_config.json"
    sampling = {"do_sample": False, "temperature": 0.9, "top_p": 0.6}
    write_json(settings, {**read_json(settings), **sampling})
    export("--run", "small-llama/lora", "--output", tmp_path / "out", "--merge")
    written = read_json(tmp_path / "out/generation_config.json")
    assert "temperature" not in written
    assert written["eos_token_id"] == read_json(settings)["eos_token_id"]


def test_the_card_has_the_scores_of_the_record(project, tmp_path):
    study, run = find_run("series")
    path = study.scores(run).path
    record = read_json(path)
    record["tasks"]["world-aqua-strict"].update(
        correct=4, accuracy=2 / 3, low=0.3, high=0.9034, n=6, truncated=3
    )
    path.write_text(json.dumps(record))
    export("--run", "small-llama/series", "--output", tmp_path / "out")
    card = ModelCard.load(tmp_path / "out/README.md")
    table = section(card.text, "Scores")
    version = read_card("protocols", "strict").version
    assert f"| strict v{version} | 6 | 4 | 66.7 | 30.0 to 90.3 | 20.0 |" in table
    assert table.count("\n| ") == 1 + len(record["tasks"])
    results = {(result.dataset_type, result.metric_name): result for result in card.data.eval_results}
    assert len(results) == len(record["tasks"]) == 4
    result = results["world-aqua", f"accuracy (strict protocol, version {version})"]
    assert (result.metric_value, result.metric_args["n"], result.metric_args["high"]) == (2 / 3, 6, 0.9034)
    assert (result.metric_type, result.dataset_split) == ("accuracy", "test")
    assert (card.data.library_name, card.data.datasets) == ("peft", ["world-math"])
    assert card.data.tags == ["bottleneck", "series", "llama"]


def test_the_card_has_base_data_settings_contamination_and_environment(project, tmp_path):
    study, run = find_run("lora")
    audit = study.audit(run.arms[0]).path
    content = read_json(audit)
    task = content["tests"]["world-aqua"]
    task["methods"]["number-masked"]["n"] = 5
    write_json(audit, content)
    info = run.adapter.path / "run.json"
    write_json(info, {**read_json(info), "git_commit": "c" * 40, "git_dirty": True})
    export("--run", "small-llama/lora", "--output", tmp_path / "out")
    text = (tmp_path / "out/README.md").read_text()
    assert f"| {task['n_test']} | 0 | 5 | 0 |" in section(text, "Contamination")
    assert sha256_file(run.base.path / "model.safetensors") in section(text, "Base")
    prompts = run.adapter.inputs["prompts"]
    data = section(text, "Data")
    assert sha256_file(prompts.path) in data
    assert sha256_file(next(iter(prompts.inputs.values())).path) in data
    assert "40 examples drawn with seed 0" in data
    settings = section(text, "Settings")
    assert "- r: 32\n" in settings
    assert "- learning_rate: 0.01\n" in settings
    manifest = read_json(run.adapter.path / "manifest.json")
    assert f"- trainable_parameters: {manifest['trainable_parameters']}\n" in settings
    reproduction = section(text, "Reproduction")
    assert f"{'c' * 40}, with uncommitted changes" in reproduction
    assert f"torch: {torch.__version__}" in reproduction
    assert f"snakemake {run.adapter.path}" in reproduction
    assert read_json(info)["host"] not in text.split()
    assert "missing" not in reproduction + data + section(text, "Scores") + section(text, "Contamination")


def test_tests_excluded_from_a_cleaned_set_are_not_listed_as_training_data(project):
    study, run = find_run("lora")
    prompts = run.adapter.inputs["prompts"]
    without = {"method": "8-gram", "answer_forms": {"world-addsub": "number"}}
    test = study.raw("world-addsub", "test")
    cleaned = replace(
        prompts,
        params={**prompts.params, "without": without},
        inputs={**prompts.inputs, "without world-addsub": test},
    )
    facts = collect_facts(study, run, replace(run.adapter, inputs={**run.adapter.inputs, "prompts": cleaned}))
    card = ModelCard(render_card(facts, form="peft"))
    assert card.data.datasets == ["world-math"]
    assert 'give away a test question of world-addsub, by the rule "8-gram"' in section(card.text, "Data")


def test_the_card_says_which_records_are_missing(project, tmp_path):
    study, run = find_run("lora")
    paths = [study.scores(run).path, run.adapter.path / "run.json", run.adapter.inputs["prompts"].path]
    paths += [study.audit(run.arms[0]).path, run.adapter.path / "manifest.json"]
    paths += [raw.path for raw in run.adapter.inputs["prompts"].inputs.values()]
    for path in paths:
        path.unlink()
    export("--run", "small-llama/lora", "--output", tmp_path / "out")
    card = ModelCard.load(tmp_path / "out/README.md")
    assert card.data.eval_results is None
    assert "model_name" not in card.data.to_dict()
    assert f"Missing: this run has not been scored. `snakemake {study.scores(run).path}`" in card.text
    assert "the run left no run.json" in section(card.text, "Reproduction")
    assert f"| missing: `snakemake {paths[3]}` |" in section(card.text, "Contamination")
    assert "sha256 missing" in section(card.text, "Data")
    assert "Counts are missing" in section(card.text, "Settings")


def test_the_header_has_the_hub_base_and_its_licence(monkeypatch):
    monkeypatch.chdir(ROOT)
    study = load_study("paper-math")
    for model, licence, name in (
        ("llama-7b", "other", "llama-licence-non-commercial"),
        ("bloomz-7b1", "bigscience-bloom-rail-1.0", None),
    ):
        run = next((run for run in study.runs if run.model == model and run.adapter), None)
        facts = collect_facts(study, run, run.adapter)
        facts = replace(facts, base=replace(facts.base, revision="f" * 40))
        card = ModelCard(render_card(facts, form="bottleneck"))
        assert card.data.base_model == facts.base.repo_id
        assert (card.data.license, getattr(card.data, "license_name", None)) == (licence, name)
        assert f'"revision": "{"f" * 40}"' in card.text
        assert 'dtype="bfloat16"' in card.text


def test_the_header_has_no_base_that_is_not_on_the_hub(project):
    study, run = find_run("lora")
    assert "base_model" not in card_header(collect_facts(study, run, run.adapter), form="peft")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--run", "small-llama/series", "--merge"], "bottleneck adapter cannot be merged"),
        (["--run", "small-llama/prefix", "--merge"], "PREFIX_TUNING cannot be merged .* virtual tokens"),
        (["--run", "small-llama/full", "--merge"], "complete already"),
        (["--run", "small-llama/bare"], "is a bare base, so there is no adapter"),
        (
            ["--run", "small-llama/lora/world-math/seed5"],
            "not trained yet; run: snakemake .* --config study=more",
        ),
    ],
)
def test_a_refused_export_is_one_line_and_leaves_nothing(arguments, expected, project, tmp_path, capsys):
    message = export(*arguments, "--output", tmp_path / "folder/out", ok=False, capsys=capsys)
    assert re.fullmatch(rf"error: .*{expected}.*\n", message), message
    assert not (tmp_path / "folder").exists()


def test_a_folder_that_is_not_empty_is_left_as_it_is(project, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    export("--run", "small-llama/lora", "--output", tmp_path / "out")
    before = (tmp_path / "out/README.md").read_bytes()
    message = export("--run", "small-llama/series", "--output", tmp_path / "out", ok=False, capsys=capsys)
    assert "is not empty; choose a new folder" in message
    assert (tmp_path / "out/README.md").read_bytes() == before
    (tmp_path / "file").touch()
    message = export("--run", "small-llama/series", "--output", tmp_path / "file", ok=False, capsys=capsys)
    assert "is a file; choose a folder" in message


def test_an_export_that_fails_leaves_no_folder(project, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("stopped")

    monkeypatch.setattr(model_card, "render_card", fail)
    with pytest.raises(RuntimeError):
        export("--run", "small-llama/lora", "--output", tmp_path / "place/out")
    assert list((tmp_path / "place").iterdir()) == []


def test_a_relative_path_starts_at_the_callers_folder(project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    export("--run", "small-llama/lora", "--output", "mine")
    assert Path(tmp_path / "mine/README.md").exists()
