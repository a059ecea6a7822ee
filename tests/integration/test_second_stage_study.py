"""A finished study gains a second stage: only unparsed answers are asked once more, for the bare base and adapters alike."""

import re

import pytest
from pandas import read_csv

from pipeline.commands.app import run_command
from pipeline.commands.run.generate_group import generate_group_command
from pipeline.commands.run.jobs import run_job
from pipeline.commands.run.stages import JobOptions
from pipeline.core.errors import UserError
from pipeline.core.io import read_json, read_jsonl, write_jsonl
from pipeline.evaluate.generation.rows import FirstStage, GenerationTask
from pipeline.params.reading import read_card
from pipeline.results.mlflow import runs
from pipeline.study import load_groups, load_study
from tests.integration.generation_cases import GREEDY, run, write_prompts

SECOND = "second-stage"


def add_protocol(project, name=SECOND):
    """Add a protocol to the study 'small'; return the study."""
    file = project / "params/study/small.yaml"
    file.write_text(file.read_text().replace("[strict, paper]", f"[strict, paper, {name}]"))
    read_card.cache_clear()
    return load_study()


def job(artifact):
    run_job(artifact.stage, artifact.fingerprint, options=JobOptions(device="cpu"))


@pytest.fixture
def second_study(project, monkeypatch):
    """The study 'small' of a bare base and a LoRA, whose second stage is generated and scored."""
    monkeypatch.setattr(runs, "_write", lambda *_: True)
    file = project / "params/study/small.yaml"
    file.write_text(re.sub("methods: .*", "methods: [lora]", file.read_text()))
    study = add_protocol(project)
    for chosen_run in study.runs:
        job(study.results(chosen_run).second_answers)
        job(study.scores(chosen_run))
    return study


def test_the_first_answers_keep_their_names(project):
    before = {artifact.path for artifact in load_study().named()}
    after = {artifact.path for artifact in add_protocol(project).named()}
    assert {path.parts[1] for path in before - after} == {"scores", "small"}


def test_only_unread_answers_are_asked_once_more(second_study):
    study, total = second_study, 0
    for chosen_run in study.runs:
        second = study.results(chosen_run).second_answers
        assert second.path.parent.name == SECOND
        assert study.results(chosen_run).answers in second.inputs.values()
        scores = read_json(study.scores(chosen_run).path)["tasks"]
        for name in ("world-addsub", "world-aqua"):
            first_rows = read_jsonl(study.results(chosen_run).answers_file(f"{name}-strict"))
            rows = read_jsonl(study.results(chosen_run).answers_file(f"{name}-{SECOND}"))
            first_items = scores[f"{name}-strict"]["items"]
            for row, first, item in zip(rows, first_rows, first_items, strict=True):
                if item["parsed"] is None:
                    assert row["first"] == {"text": first["text"], "stop": first["stop"]}
                    assert row["prompt"].startswith(first["prompt"])
                    assert row["prompt"].endswith("is")
                else:
                    assert row == first
            items = scores[f"{name}-{SECOND}"]["items"]
            pairs = list(zip(first_items, items, strict=True))
            assert all(
                item["parsed"] == first["parsed"] for first, item in pairs if first["parsed"] is not None
            )
        answered = [task["answered"] for task in read_json(second.path / "run.json")["tasks"].values()]
        unparsed = [scores[f"{name}-strict"]["unparsable"] for name in ("world-addsub", "world-aqua")]
        assert answered == unparsed
        total += sum(answered)
    # models of four steps leave answers unparsed, so that the test tests
    assert total > 0


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_report_shows_what_a_second_stage_changes(second_study, capsys):
    study = second_study
    assert run_command(["audit-protocol", "small"]) == 0
    assert "strict / second-stage" in capsys.readouterr().out
    job(study.report)
    table = read_csv(study.report.path.parent / "tables/unparsed.csv").set_index(
        ["Task", "Protocol", "Method"]
    )
    for method in ("no adapter", "LoRA"):
        row = table.loc["Macro average", "strict", method]
        as_read, bound, second = (
            float(row[column].split()[0]) for column in ("as scored", "if all unparsed were right", SECOND)
        )
        assert as_read <= second <= bound
    page = (study.report.path.parent / "index.html").read_text()
    assert "Effect of unparsed answers" in page


def test_a_first_stage_that_was_read_in_full_needs_no_model(tmp_path):
    prompts = write_prompts(tmp_path / "prompts.parquet", n=3)
    rows = [
        {"id": f"t/test/{n}", "prompt": "", "text": f"The answer is {n}", "tokens": 1, "stop": "eos"}
        for n in range(3)
    ]
    write_jsonl(tmp_path / "first.jsonl", rows)
    first = FirstStage(tmp_path / "first.jsonl", "number", 0)
    decoding = {**GREEDY, "answer_trigger": "w1", "first_parser": "strict", "first_version": 3}
    task = GenerationTask("t-second", prompts, decoding, "f", first)
    assert run(tmp_path / "no base", None, [task], tmp_path / "answers") == {"t-second": rows}


def test_the_batch_size_changes_no_second_answer(bases, tmp_path):
    prompts = write_prompts(tmp_path / "prompts.parquet", n=12)
    texts = ["w3 w4", "The answer is 4", "", "w5 w6 w7 w8 w9"] * 3
    rows = [
        {"id": f"t/test/{n}", "prompt": "", "text": text, "tokens": 1, "stop": "eos"}
        for n, text in enumerate(texts)
    ]
    write_jsonl(tmp_path / "first.jsonl", rows)
    first = FirstStage(tmp_path / "first.jsonl", "number", 0)
    answers = {}
    for budget in (1, 100_000):
        decoding = {**GREEDY, "answer_trigger": "w1 w2", "first_parser": "strict", "batch_tokens": budget}
        task = GenerationTask("t-second", prompts, decoding, f"f{budget}", first)
        answers[budget] = run(bases["llama"], None, [task], tmp_path / f"answers{budget}")["t-second"]
    assert answers[1] == answers[100_000]
    assert [row.get("first", {}).get("text") for row in answers[1]] == [
        None if text.startswith("The") else text for text in texts
    ]
    assert len({row["text"] for row in answers[1] if "first" in row}) > 2


def test_second_stages_of_a_base_share_a_load_apart_from_the_first_answers(project, capsys):
    study = add_protocol(project)
    groups = load_groups.group_answers(study, "all")
    # the first answers are finished
    (members,) = groups.values()
    assert members == [study.results(run).second_answers for run in study.evaluated_runs]
    chosen = [
        study.results(run).second_answers for run in study.evaluated_runs if run.method in ("bare", "lora")
    ]
    generate_group_command([artifact.fingerprint for artifact in chosen], device="cpu")
    assert "2 models evaluated; their base was loaded 1 times" in capsys.readouterr().out
    for artifact in chosen:
        job(artifact)
        assert artifact.path.is_dir()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("first_stage: strict", "first_stage: likelihood"),
            "'likelihood' compares likelihoods; name a protocol",
        ),
        (("first_stage: strict", "first_stage: strct"), "first_stage: .*'strct'"),
        (("first_stage: strict", "first_stage: second"), "'second' is a second stage itself"),
        (
            ("first_stage: strict", "first_stage: paper"),
            "'paper' has template paper-eval, and this card has strict",
        ),
        (("first_stage: strict", ""), "answer_trigger: only with first_stage"),
        (("  option: 32\n", ""), "need the same answer forms"),
        (("numerals) is", "{numerals}) is"), "answer_trigger.number: may contain"),
    ],
)
def test_a_second_stage_without_its_first_is_refused_in_one_line(change, message, project):
    text = (
        (project / f"params/protocols/{SECOND}.yaml").read_text().replace(f"name: {SECOND}", "name: second")
    )
    assert change[0] in text
    (project / "params/protocols/second.yaml").write_text(text.replace(*change))
    with pytest.raises(UserError, match=message) as error:
        add_protocol(project, "second")
    assert "\n" not in str(error.value)


def test_a_study_lists_both_stages(project, capsys):
    file = project / "params/study/small.yaml"
    file.write_text(file.read_text().replace("[strict, paper]", f"[paper, {SECOND}]"))
    read_card.cache_clear()
    assert run_command(["check"]) == 1
    assert f"'{SECOND}' completes the answers of 'strict'; list 'strict' too" in capsys.readouterr().err
