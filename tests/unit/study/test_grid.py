"""Studies resolve to artifacts; mistakes in their cards are reported in one line."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.core.errors import UserError
from pipeline.params import reading
from pipeline.params.reading import PARAMS, parse_card, read_card
from pipeline.params.studies import StudyCard
from pipeline.results.causes import find_param_file
from pipeline.study import Study, find, grid, load_study


def fingerprints(study: Study, stage: str) -> set[str]:
    return {artifact.fingerprint for artifact in study.artifacts[stage]}


STUDIES = sorted(path.stem for path in (PARAMS / "study").glob("*.yaml"))


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_resolves_to_distinct_paths(name):
    study = load_study(name)
    artifacts = study.named()
    assert len({artifact.path for artifact in artifacts}) == len(artifacts)
    assert all(artifact.fingerprint in str(artifact.path) for artifact in artifacts)


def test_quickstart_has_the_whole_grid():
    study = load_study("quickstart")
    assert len(study.artifacts["train"]) == 3 * 4 * 2 * 2
    assert len(study.runs) == 48 + 3
    assert {task.answer_form for run in study.runs for task in study.tasks(run)} == {
        *("number", "letter", "boolean", "solution", "answer", "ending", "option")
    }


@pytest.mark.parametrize("name", ["paper-math", "paper-commonsense"])
def test_the_papers_studies_have_three_seeds(name):
    assert {run.seed for run in load_study(name).runs if run.seed is not None} == {42, 43, 44}


def test_the_first_seeds_of_a_study_have_the_artifacts_of_the_whole_study_but_for_the_report():
    whole, first = load_study("quickstart"), load_study("quickstart", seeds=1)
    assert {run.seed for run in first.runs if run.seed is not None} == {0}
    for stage in ("train", "generate", "score"):
        assert fingerprints(first, stage) < fingerprints(whole, stage)
    assert first.report.fingerprint != whole.report.fingerprint
    assert first.report.path.parent == whole.report.path.parent
    assert load_study("quickstart", seeds=2).report == whole.report


@pytest.mark.parametrize("seeds", [0, -1, 3])
def test_a_number_of_seeds_that_a_study_does_not_have_is_refused_in_one_line(seeds):
    with pytest.raises(UserError, match=rf"quickstart.yaml: seeds: .*first {seeds} of 2 \(0, 1\); .* 1 to 2"):
        load_study("quickstart", seeds=seeds)


def test_a_study_that_trains_nothing_has_no_seeds_to_choose_from():
    with pytest.raises(UserError, match=r"references-math.yaml: seeds: the study trains nothing.*\(got 1\)$"):
        load_study("references-math", seeds=1)


def test_commands_that_are_printed_select_the_study_and_its_seeds():
    study = load_study("quickstart", seeds=1)
    assert find.snakemake_options(study) == " --config seeds=1"
    assert find.command_options(study) == " --seeds 1"
    study = load_study("tiny-placement", seeds=1)
    assert find.make_command(study, Path("x")) == "snakemake x --config study=tiny-placement seeds=1"
    assert find.command_options(study) == " --study tiny-placement --seeds 1"
    assert find.snakemake_options(load_study()) == find.command_options(load_study()) == ""


def test_published_settings_of_the_paper_studies():
    study = load_study("paper-math")
    trained = {(run.model, run.method): run.adapter.params for run in study.runs if run.adapter}
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
    "find", [lambda study: study.find_artifact("train", "0" * 12), lambda study: study.run_of("0" * 12)]
)
def test_an_unknown_fingerprint_is_an_error_in_one_line(find):
    with pytest.raises(UserError, match=r"has no \w+ '000000000000'"):
        find(load_study("quickstart"))


def test_planning_imports_neither_torch_nor_transformers_nor_mlflow():
    code = "import sys; from pipeline.study import load_study; load_study('quickstart'); print(sorted(sys.modules))"
    modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PARAMS.parent
    ).stdout
    assert not any(
        f"'{name}'" in modules for name in ("torch", "transformers", "mlflow", "peft", "datasets", "pandas")
    )


def study_with_protocols(protocols, **changes) -> Study:
    """The default study with these protocols."""
    card = read_card("study", "quickstart").model_dump() | {"protocols": protocols, **changes}
    return Study("s", parse_card(StudyCard, card, where="s"))


def test_a_protocol_skips_tasks_whose_answer_form_it_does_not_cover():
    study = study_with_protocols(["strict", "likelihood"])
    assert study.protocols_of("world-svamp") == ["strict"]
    assert study.protocols_of("world-aqua") == ["strict", "likelihood"]
    assert study.skipped_tasks == [
        (task, "likelihood") for task in ("world-addsub", "world-multiarith", "world-svamp")
    ]
    names = {task.name for task in study.tasks(study.runs[0])}
    assert {"world-svamp-strict", "world-aqua-likelihood"} <= names
    assert "world-svamp-likelihood" not in names


def test_a_task_that_no_protocol_covers_is_refused():
    with pytest.raises(
        UserError, match=r"none of likelihood covers answers of the form 'number', which 'world-addsub' has"
    ):
        study_with_protocols(["likelihood"]).named()


def test_another_protocol_does_not_change_the_fingerprints_of_tasks():
    def task_fingerprints(study):
        return {task.name: task.fingerprint for task in study.tasks(study.runs[0])}

    strict = task_fingerprints(study_with_protocols(["strict"]))
    all_protocols = task_fingerprints(study_with_protocols(["paper-unmasked", "strict", "likelihood"]))
    assert strict.items() <= all_protocols.items()
    assert len(set(all_protocols.values())) == len(all_protocols) == 11 + 11 + 8


def test_merging_changes_the_answers_of_adapters_only():
    plain, merged = study_with_protocols(["strict"]), study_with_protocols(["strict"], merge_adapter=True)
    for plain_run, merged_run in zip(plain.runs, merged.runs, strict=True):
        pairs = zip(plain.tasks(plain_run), merged.tasks(merged_run), strict=True)
        equal = {task.fingerprint == merged_task.fingerprint for task, merged_task in pairs}
        assert equal == {plain_run.adapter is None}
    assert [run.adapter for run in plain.runs] == [run.adapter for run in merged.runs]


def test_unmasked_padding_is_in_the_headline_tables_only_if_listed():
    assert study_with_protocols(["strict", "paper-unmasked"]).headline == ["strict"]
    assert study_with_protocols(["strict", "paper-unmasked"], headline=["paper-unmasked"]).headline == [
        "paper-unmasked"
    ]


def test_the_study_of_protocols_reuses_adapters_of_the_default_study():
    study = load_study("quickstart-protocols")
    assert fingerprints(study, "train") < fingerprints(load_study("quickstart"), "train")
    assert study.card.protocols == ["strict", "paper", "paper-unmasked", "likelihood"]


def load_changed_study(monkeypatch, tmp_path, study, **changes):
    """Load a study with changed cards, from a copy of params/."""
    shutil.copytree(PARAMS, tmp_path / "params")
    for name, fields in changes.items():
        path = tmp_path / "params" / f"{name.replace('__', '/').replace('_', '-')}.yaml"
        path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **fields}))
    for module in (reading, grid):
        monkeypatch.setattr(module, "PARAMS", tmp_path / "params")
    read_card.cache_clear()
    try:
        return load_study(study)
    finally:
        read_card.cache_clear()


def study_with_training_by_model(monkeypatch, tmp_path, by_model):
    arms = yaml.safe_load((PARAMS / "study" / "paper-math.yaml").read_text())["arms"]
    arms = [{**arm, "training": {"warmup_steps": 7}, "training_by_model": by_model} for arm in arms]
    return load_changed_study(monkeypatch, tmp_path, "paper-math", study__paper_math={"arms": arms})


def test_training_by_model_changes_only_the_trainings_of_that_model(monkeypatch, tmp_path):
    plain = study_with_training_by_model(monkeypatch, tmp_path / "plain", {})
    set_apart = {"gpt-j-6b": {"batch_size": 2, "warmup_steps": 9, "adam_beta1": 0.8}}
    study = study_with_training_by_model(monkeypatch, tmp_path / "apart", set_apart)
    before = {run.label: run.adapter for run in plain.runs if run.adapter}
    after = {run.label: run.adapter for run in study.runs if run.adapter}
    changed_labels = {label for label in before if before[label].fingerprint != after[label].fingerprint}
    assert changed_labels == {label for label in before if label.startswith("gpt-j-6b/")}
    trained = {
        run.method: run.adapter.params["training"]
        for run in study.runs
        if run.adapter and run.model == "gpt-j-6b"
    }
    assert {settings["warmup_steps"] for settings in trained.values()} == {9}
    assert {settings["batch_size"] for settings in trained.values()} == {2}
    files = {
        label: find_param_file(study, adapter, ("training", "adam_beta1")) for label, adapter in after.items()
    }
    assert {label for label, file in files.items() if file == study.where} == changed_labels


def test_the_training_of_a_method_overrides_training_by_model(monkeypatch, tmp_path):
    methods = [{"method": "lora", "training": {"learning_rate": 0.25}}]
    arms = yaml.safe_load((PARAMS / "study" / "paper-math.yaml").read_text())["arms"]
    arms = [{**arm, "training_by_model": {"gpt-j-6b": {"learning_rate": 0.5}}} for arm in arms]
    study = load_changed_study(
        monkeypatch, tmp_path, "paper-math", study__paper_math={"arms": arms, "methods": methods}
    )
    assert {run.adapter.params["training"]["learning_rate"] for run in study.runs if run.adapter} == {0.25}


def test_training_by_model_of_an_unknown_model_is_refused(monkeypatch, tmp_path):
    with pytest.raises(
        UserError,
        match=r"arms\.\w+: training_by_model: 'gpt-j' is not a model of the study \(choices: llama-7b, ",
    ):
        study_with_training_by_model(monkeypatch, tmp_path, {"gpt-j": {"batch_size": 2}})


def test_an_unknown_key_of_training_by_model_is_refused(monkeypatch, tmp_path):
    with pytest.raises(
        UserError,
        match=r"paper-math.yaml: arms\.0\.training_by_model\.gpt-j-6b\.batchsize: unknown key \(choices: learning_rate",
    ):
        study_with_training_by_model(monkeypatch, tmp_path, {"gpt-j-6b": {"batchsize": 2}})


def load_study_with_methods(monkeypatch, tmp_path, methods, **changes):
    changes = {"methods": methods, **changes}
    return load_changed_study(monkeypatch, tmp_path, "paper-math", study__paper_math=changes)


def test_a_method_limited_to_models_is_trained_on_these_alone(monkeypatch, tmp_path):
    methods = ["lora", {"method": "series", "models": ["bloomz-7b1", "gpt-j-6b"]}]
    plain = load_study_with_methods(monkeypatch, tmp_path / "plain", ["lora", "series"])
    study = load_study_with_methods(monkeypatch, tmp_path / "limited", methods)
    assert {run.model for run in study.runs if run.method == "series"} == {"bloomz-7b1", "gpt-j-6b"}
    assert {run.model for run in study.runs if run.method == "lora"} == set(study.card.models)
    # the limit is no setting of the method
    assert set(study.paths("train")) < set(plain.paths("train"))


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (["llama"], r"methods\.series: models: 'llama' is not a model of the study \(choices: llama-7b, "),
        (["gpt-j-6b", "gpt-j-6b"], r"methods\.series: models: 'gpt-j-6b' is repeated"),
        ([], r"methods\.1\.models: .*at least 1 item"),
    ],
)
def test_a_method_of_models_that_the_study_does_not_have_is_refused(models, message, monkeypatch, tmp_path):
    with pytest.raises(UserError, match=message):
        load_study_with_methods(monkeypatch, tmp_path, ["lora", {"method": "series", "models": models}])


def test_a_model_without_any_run_is_refused(monkeypatch, tmp_path):
    methods = [{"method": "series", "models": ["gpt-j-6b"]}]
    with pytest.raises(UserError, match=r"models: 'llama-7b' has no method"):
        load_study_with_methods(monkeypatch, tmp_path / "adapters", methods, bare=False)
    study = load_study_with_methods(monkeypatch, tmp_path / "bare", methods)
    assert len(study.runs) == len(study.card.models) + len(study.card.seeds)


MEASUREMENT = {"measured_by": "a", "prompting": "b", "parsing": "c"}


@pytest.mark.parametrize(
    ("row", "table", "card", "message"),
    [
        ({"method": "serie"}, {}, {}, r"arithmetic: params/methods: no 'serie' \(choices: "),
        ({}, {"training_set": "math10k"}, {}, r"arithmetic: params/datasets: no 'math10k' \(choices: "),
        ({}, {"tasks": ["gsm"]}, {}, r"arithmetic: params/datasets: no 'gsm' \(choices: "),
        (
            {},
            {},
            {"measurements": {"authors": MEASUREMENT | {"protocol": "papper"}}},
            r"measurements: params/protocols: no 'papper' \(choices: ",
        ),
    ],
)
def test_published_figures_of_nothing_are_refused(row, table, card, message, monkeypatch, tmp_path):
    """A misspelt reference used to be compared with nothing, silently."""
    table = {
        "name": "arithmetic",
        "training_set": "math_10k",
        "source": "s",
        "measurement": "authors",
        "tasks": ["gsm8k"],
        "rows": [{"model": "llama-7b", "accuracy": [50.0], **row}],
        **table,
    }
    card = {"measurements": {"authors": MEASUREMENT}, "tables": [table], **card}
    with pytest.raises(UserError, match=r"params/published/llm-adapters\.yaml: " + message):
        load_changed_study(monkeypatch, tmp_path, "paper-math", published__llm_adapters=card)


def test_a_published_point_of_an_unknown_model_is_refused(monkeypatch, tmp_path):
    card = read_card("published", "llm-adapters-sizes").model_dump()
    card["figures"][0]["points"][0]["model"] = "lama-7b"
    with pytest.raises(UserError, match=r"params/models: no 'lama-7b' \(choices: "):
        load_changed_study(monkeypatch, tmp_path, "hyperparameters", published__llm_adapters_sizes=card)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"study__quickstart": {"template": "papper"}},
            r"study/quickstart.yaml: template: unknown .*strict, .*chat\)",
        ),
        ({"protocols__strict": {"template": "papper"}}, r"protocols/strict.yaml: template: unknown template"),
        ({"protocols__strict": {"template": "chat", "shots": 2}}, "shots: not with the template 'chat'"),
        (
            {"study__quickstart": {"template": "chat"}},
            "training has the template 'chat', but 'tiny-llama' is pretr",
        ),
        (
            {"protocols__strict": {"template": "chat"}},
            "protocol strict has the template 'chat', but 'tiny-llama'",
        ),
    ],
)
def test_an_impossible_template_is_refused_before_any_job_runs(changes, message, monkeypatch, tmp_path):
    with pytest.raises(UserError, match=message):
        load_changed_study(monkeypatch, tmp_path, "quickstart", **changes)


def test_a_chat_template_changes_trainings_but_not_bases(monkeypatch, tmp_path):
    plain = load_study("paper-math")
    chat = load_changed_study(monkeypatch, tmp_path, "paper-math", study__paper_math={"template": "chat"})
    assert fingerprints(plain, "train").isdisjoint(fingerprints(chat, "train"))
    assert fingerprints(plain, "base") == fingerprints(chat, "base")


def study_of_method(method, **changes):
    card = {
        "title": "t",
        "description": "d",
        "models": ["tiny-llama"],
        "methods": [{"method": method, "training": {"gradient_checkpointing": True}, **changes}],
        "seeds": [0],
        "arms": [{"name": "math", "training_set": "world-math", "tasks": ["world-addsub"]}],
        "protocols": ["strict"],
    }
    return Study("s", parse_card(StudyCard, card, where="s"))


def test_a_prefix_with_gradient_checkpointing_is_refused_before_the_dag():
    with pytest.raises(
        UserError, match="gradient_checkpointing: true does not work with PREFIX_TUNING"
    ) as error:
        study_of_method("prefix-tuning").named()
    assert str(error.value).startswith("params/study/s.yaml: methods.prefix-tuning: training: ")
    assert "\n" not in str(error.value)
    assert study_of_method("lora").artifacts["train"]
    assert study_of_method("prompt-tuning").artifacts["train"]


def test_lora_ga_in_float16_is_refused_before_the_dag():
    rule = {"init_lora_weights": "lora_ga", "init_batches": 2}
    with pytest.raises(UserError, match=r"training: dtype: float16 does not work with .*lora_ga") as error:
        study_of_method("lora", **rule, training={"dtype": "float16"}).named()
    assert "\n" not in str(error.value)
    assert study_of_method("lora", **rule, training={"dtype": "bfloat16"}).artifacts["train"]


def test_init_batches_are_in_the_identity_of_an_adapter_that_reads_them():
    rule = {"init_lora_weights": "eva"}
    four, five = (study_of_method("lora", init_batches=number, **rule) for number in (4, 5))
    assert fingerprints(four, "train") != fingerprints(five, "train")
