"""The protocol's part of a difference: two protocols, texts that their parsers read differently, and a published row."""

from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import report
from pipeline.core.io import write_json, write_jsonl
from pipeline.evaluate.scoring.rows import ScoringTask
from pipeline.evaluate.scoring.score import score_task
from pipeline.params.reading import CARDS, parse_card, read_card
from pipeline.params.templates import build_prompt
from pipeline.prompts.write import SCHEMA
from pipeline.report.data import Cell, read_report_data
from pipeline.report.followups import build_followup_tables, tables
from pipeline.report.followups.points import measure_points
from pipeline.study.description import StudyDescription, TaskDescription
from pipeline.study.followups.match import FollowupDescription, RowMatch
from tests.answered_study import list_rows
from tests.descriptions import make_arm, make_method, make_model, make_run, make_study
from tests.finished_study import make_small_study

LETTERS = list("ABCDE")
# gold C; under paper 1 of 4 is right, its texts read strictly 3 of 4, under strict 4 of 4
PAPER = ["A: The answer is (C).", "A: The answer is (C).", "The answer is C.", "The answer is D."]
STRICT = ["The answer is C."] * 4


@pytest.fixture
def study(tmp_path) -> StudyDescription:
    answers = tmp_path / "answers"
    answers.mkdir()
    write_json(answers / "run.json", {})
    prompts, scores = {}, {}
    for name, texts in (("strict", STRICT), ("paper", PAPER)):
        card = read_card("protocols", name)
        prompt = build_prompt("Which?", template=card.template)
        examples = [
            {
                "id": f"t/{number}",
                "task": "t",
                "instruction": "Which? Answer Choices: (A) 1 (B) 2 (C) 3 (D) 4 (E) 5",
                "input": "",
                "response": "",
                "answer": "C",
                "choices": LETTERS,
                "answer_form": "letter",
                "prompt": prompt,
            }
            for number in range(len(texts))
        ]
        prompts[name] = tmp_path / f"{name}.parquet"
        pq.write_table(pa.Table.from_pylist(examples, schema=SCHEMA), prompts[name])
        rows = [
            {"id": example["id"], "prompt": prompt, "text": text, "tokens": 3, "stop": "eos"}
            for example, text in zip(examples, texts, strict=True)
        ]
        write_jsonl(answers / f"t-{name}.jsonl", rows)
        task = ScoringTask.under(
            card, name=f"t-{name}", task="t", answer_form="letter", prompts=prompts[name]
        )
        scores[f"t-{name}"] = score_task(answers / f"t-{name}.jsonl", task)
    write_json(tmp_path / "scores.json", {"tasks": scores})
    trained = {"arm": "a", "training_set": "commonsense_170k", "adapter": answers}
    task = TaskDescription("t", "Task t", "letter", ["strict", "paper"], prompts)
    return make_study(
        arms=[replace(make_arm("a", "commonsense_170k", {}), tasks=[task])],
        models=[make_model("llama-7b", "LLaMA-7B")],
        methods=[make_method("dora-r16", "dora-r16", card="dora")],
        runs=[
            make_run("llama-7b", "dora-r16", 0, answers=answers, scores=tmp_path / "scores.json", **trained)
        ],
        seeds=[0],
        protocols=["strict", "paper"],
        protocol_cards={name: read_card("protocols", name) for name in ("strict", "paper")},
    )


def make_followup(
    *, protocol: str | None = "paper", model: str = "llama-7b", matched: bool = True
) -> FollowupDescription:
    measurement = {"measured_by": "them", "prompting": "p", "parsing": "a rule", "protocol": protocol}
    fact = {"value": "beam 4", "source": "eval.py#L50"}
    row = {"model": model, "method": "dora", "label": "DoRA, r 16", "accuracy": [60.0], "average": 60.0}
    part = {
        "name": "T",
        "training_set": "commonsense_170k",
        "source": "S",
        "measurement": "m",
        "tasks": ["t"],
    }
    card = {
        "title": "P",
        "repository": f"https://github.com/o/n/blob/{'a' * 40}",
        "measurements": {"m": measurement | {"procedure": {"decoding": fact}}},
        "tables": [{**part, "rows": [row]}],
    }
    published = parse_card(CARDS["published"], card, where="here")
    matches = [RowMatch(0, 0, "a", ["dora-r16"])] if matched else []
    return FollowupDescription("p", published, {"llama-7b": "LLaMA-7B", "llama-3-8b": "Llama 3 8B"}, matches)


def build(study: StudyDescription, *followups: FollowupDescription):
    return build_followup_tables(read_report_data(replace(study, followups=followups)))


def test_points_are_divided_between_parser_and_text(study):
    data = read_report_data(study)
    points = measure_points(
        data, Cell("llama-7b", "dora-r16", "a"), study.arms[0].tasks, first="paper", second="strict"
    )
    assert (points.first["estimate"], points.second["estimate"]) == (0.25, 1.0)
    assert points.parser["estimate"] == pytest.approx(0.5)
    assert points.text["estimate"] == pytest.approx(0.25)
    assert points.total["estimate"] == pytest.approx(0.75)


def test_points_to_likelihoods_have_no_part_of_the_parser(study):
    card = read_card("protocols", "paper").model_copy(update={"parser": "likelihood"})
    data = read_report_data(replace(study, protocol_cards={**study.protocol_cards, "paper": card}))
    points = measure_points(
        data, Cell("llama-7b", "dora-r16", "a"), study.arms[0].tasks, first="paper", second="strict"
    )
    assert points.parser is points.text is None
    assert points.total["estimate"] == pytest.approx(0.75)


def test_the_parts_of_a_difference_add_up_to_it(study):
    (row,) = list_rows(build(study, make_followup())["followups-a"])
    assert (row["Model"], row["Method"], row["Publication"]) == ("LLaMA-7B", "DoRA, r 16", "P")
    assert (row["Published"], row["Their protocol"]) == ("60.0", "paper")
    points = {
        name: float(row[name].split()[0]) for name in ("Difference", "Rest", "Parser", "Prompt and decoding")
    }
    assert points == {"Difference": 40.0, "Rest": -35.0, "Parser": 50.0, "Prompt and decoding": 25.0}
    assert row["Both"].startswith("+75.0 [")
    assert points["Difference"] == points["Rest"] + points["Parser"] + points["Prompt and decoding"]


def test_a_procedure_without_a_protocol_here_has_a_difference_alone(study):
    (row,) = list_rows(build(study, make_followup(protocol=None))["followups-a"])
    assert row["Their protocol"] == "none"
    assert row["Difference"].startswith("+40.0 [")
    assert set(row) & {"Rest", "Parser", "Both"} == set()


def test_a_figure_that_was_measured_by_our_protocol_leaves_a_rest_alone(study):
    (row,) = list_rows(build(study, make_followup(protocol="strict"))["followups-a"])
    assert row["Rest"] == row["Difference"]
    assert "Parser" not in row


@pytest.mark.parametrize("model", ["llama-7b", "llama-3-8b"])
def test_a_row_that_no_run_repeats_is_shown_alone(study, model):
    (row,) = list_rows(build(study, make_followup(model=model, matched=False))["followups-a"])
    assert row["Model"] in ("LLaMA-7B", "Llama 3 8B")
    assert (row["Published"], row["Ours"]) == ("60.0", "not trained")
    assert "Difference" not in row


def test_procedures_have_the_address_of_each_step(study):
    rows = list_rows(build(study, make_followup())["followup-procedures"])
    assert [row["Step"] for row in rows] == ["protocol here", "decoding"]
    assert rows[1]["Source"] == f"https://github.com/o/n/blob/{'a' * 40}/eval.py#L50"


def test_a_study_of_two_protocols_has_the_points_between_them(study):
    tables = build(study)
    assert list(tables) == ["protocol-points-a"]
    (row,) = list_rows(tables["protocol-points-a"])
    assert (row["Protocol"], row["tasks"]) == ("paper", "1")
    assert row["Both"].startswith("+75.0 [")
    assert row["Ours (strict)"].startswith("100.0 [")


def test_a_study_of_one_protocol_has_none(study):
    one = replace(study, protocols=["strict"], headline=["strict"])
    assert build(one) == {}


def test_points_are_computed_once_for_all_rows(study, monkeypatch):
    computed = []

    def measure(data, cell, tasks, *, first, second):
        computed.append((cell, first, second))
        return measure_points(data, cell, tasks, first=first, second=second)

    monkeypatch.setattr(tables, "measure_points", measure)
    built = build(study, make_followup(), replace(make_followup(), name="q"))
    assert len(built["followups-a"].frame) == 2
    assert computed == [(Cell("llama-7b", "dora-r16", "a"), "paper", "strict")]


def test_several_runs_of_a_published_row_are_told_apart_by_their_methods(study):
    again = make_method("dora-again", "DoRA again", card="dora")
    run = replace(study.runs[0], method="dora-again")
    study = replace(study, methods=[*study.methods, again], runs=[*study.runs, run])
    followup = replace(make_followup(), matches=[RowMatch(0, 0, "a", ["dora-r16", "dora-again"])])
    rows = list_rows(build(study, followup)["followups-a"])
    assert [row["Method"] for row in rows] == ["DoRA, r 16 (ours: dora-r16)", "DoRA, r 16 (ours: DoRA again)"]


@pytest.mark.slow
def test_the_page_has_a_section_of_followups(tmp_path):
    small = make_small_study(tmp_path)
    followup = make_followup(protocol="strict", matched=False)
    table = followup.published.tables[0].model_copy(update={"training_set": "s"})
    card = followup.published.model_copy(update={"tables": [table]})
    matches = [RowMatch(0, 0, "arithmetic", ["lora"])]
    row = table.rows[0].model_copy(update={"model": "m"})
    card = card.model_copy(update={"tables": [table.model_copy(update={"rows": [row]})]})
    shown = replace(small, followups=[replace(followup, published=card, matches=matches)])
    report.build(shown, output=tmp_path / "report", fingerprint="abc")
    page = (tmp_path / "report/index.html").read_text()
    assert '<h2 id="section-followups">' in page
    assert '<a href="#section-followups">' in page
    assert 'id="followups-arithmetic"' in page
    assert 'id="followup-procedures"' in page
