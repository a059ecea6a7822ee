"""A run beside references: paired tests with answers made elsewhere, plain differences from published figures, and their names."""

from types import SimpleNamespace

import pytest

from pipeline.commands.app import run_command
from pipeline.commands.compare.compare import print_comparison, print_published, read_side
from pipeline.commands.compare.published import compare_published
from pipeline.commands.compare.references import compare_reference, find_reference, find_second_run
from pipeline.core.errors import UserError
from pipeline.core.io import read_json, write_json, write_jsonl
from pipeline.evaluate import stats
from pipeline.params.published.cards import Published
from pipeline.params.reading import parse_card
from pipeline.study import load_study
from pipeline.study.followups.rows import RowReference, TableRow
from tests.unit.commands.test_compare_runs import write_run

MEASUREMENTS = {
    "same": {"measured_by": "them", "prompting": "trained", "parsing": "a rule", "protocol": "strict"},
    "other": {"measured_by": "others", "prompting": "zero-shot", "parsing": "a second request"},
}


def make_study(tmp_path, tasks, *, limit=None):
    """A study with a run whose answers are written, as ``write_run`` marks them."""
    study, run = write_run(tmp_path, "run", tasks)
    study.card = SimpleNamespace(limit=limit)
    study.tasks = lambda run: [SimpleNamespace(task=task) for task in tasks]
    arm = SimpleNamespace(name="arm", tasks=list(tasks), limit=None)
    run.__dict__.update(training_set="s", adapter=SimpleNamespace(), arms=[arm])
    path = tmp_path / "run.json"
    content = read_json(path)
    for score in content["tasks"].values():
        low, high = stats.wilson_interval(
            sum(item["correct"] for item in score["items"]), len(score["items"])
        )
        score.update(n=len(score["items"]), low=low, high=high)
    write_json(path, content)
    return study, run


def make_reference(tmp_path, task, marks, *, without):
    """Answers made elsewhere to a task, scored under strict and as their authors read them."""
    write_run(tmp_path, "big", {task: marks})
    content = read_json(tmp_path / "big.json")
    score = content["tasks"][f"{task}-strict"]
    score["items"] = [item for number, item in enumerate(score["items"]) if number not in without]
    content["tasks"][f"{task}-stored"] = {**score, "protocol": "stored"}
    write_json(tmp_path / "big.json", content)
    rows = [{"id": item["id"], "question": "q", "text": f"big on {item['id']}"} for item in score["items"]]
    write_jsonl(tmp_path / f"big/{task}.jsonl", rows)
    card = SimpleNamespace(name="Big model", source="a repository", prompting="zero-shot.")
    folder, scores = (SimpleNamespace(path=tmp_path / name) for name in ("big", "big.json"))
    return SimpleNamespace(name="big", card=card, answers=folder, scores=scores)


def make_rows(*, tasks, accuracy, average=None, measurement="same", method="lora", training_set="s"):
    row = {"model": "m", "method": method, "accuracy": accuracy, "average": average}
    table = {
        "name": "T",
        "training_set": training_set,
        "source": "README.md#L1",
        "measurement": measurement,
        "tasks": tasks,
        "rows": [row],
    }
    fields = {"title": "A paper", "measurements": MEASUREMENTS, "tables": [table]}
    fields["repository"] = "https://github.com/a/b/blob/" + "0" * 40
    published = parse_card(Published, fields, where="card")
    (part,) = published.tables
    return RowReference(f"card/m/{method}", [TableRow(published, part, part.rows[0])])


def test_a_reference_is_paired_on_the_examples_that_it_answered(tmp_path, capsys):
    study, run = make_study(tmp_path, {"a": "1111100000", "b": "10"})
    reference = make_reference(tmp_path, "a", "1101000011", without={9})
    comparison = compare_reference(read_side(study, run), study, run, reference)
    (row,) = comparison["comparisons"]
    expected = stats.estimate_difference([[1.0] * 5 + [0.0] * 4], [[1.0, 1, 0, 1, 0, 0, 0, 0, 1]])
    assert (row["task"], row["protocol"], row["n"]) == ("a", "strict", 9)
    assert (row["first"], row["second"]) == pytest.approx((5 / 9, 4 / 9))
    assert (row["difference"], row["p_value"]) == (expected["estimate"], expected["p_value"])
    assert {change["id"] for change in comparison["changes"]} == {"a/2", "a/4", "a/8"}
    print_comparison(comparison, limit=1)
    printed = " ".join(capsys.readouterr().out.split())
    assert "The same parser reads both sides, but the prompts differ; theirs: zero-shot." in printed
    assert "no answer to them: 1 of a" in printed
    assert "big on a/2" in printed


def test_published_figures_are_subtracted_without_a_test(tmp_path, capsys):
    study, run = make_study(tmp_path, {"a": "1111100000", "b": "10"})
    rows = make_rows(tasks=["b", "a"], accuracy=[40.0, 60.0], average=50.1)
    comparison = compare_published(study, run, rows)
    assert [(row["task"], row["n"], row["first"], row["second"]) for row in comparison["comparisons"]] == [
        ("b", 2, 0.5, pytest.approx(0.4)),
        ("a", 10, 0.5, pytest.approx(0.6)),
        ("macro average", 12, pytest.approx(0.5), pytest.approx(0.501)),
    ]
    assert comparison["comparisons"][1]["difference"] == pytest.approx(-0.1)
    assert comparison["source"] == "https://github.com/a/b/blob/" + "0" * 40 + "/README.md#L1"
    print_published(comparison)
    printed = " ".join(capsys.readouterr().out.split())
    assert "There is no paired test" in printed
    assert "Measured differently" not in printed


def test_another_way_of_measuring_is_named(tmp_path):
    study, run = make_study(tmp_path, {"a": "1100"}, limit=4)
    rows = make_rows(tasks=["a"], accuracy=[40.0], measurement="other", method=None)
    notes = compare_published(study, run, rows)["notes"]
    assert notes[2] == (
        "Measured differently from strict: measured by: others; prompting: zero-shot; parsing: a second request."
    )
    assert "4 examples of each task" in notes[3]


def test_an_average_over_other_tasks_does_not_stand_beside_the_run(tmp_path):
    study, run = make_study(tmp_path, {"a": "1100", "b": "10"})
    rows = make_rows(tasks=["a", "c"], accuracy=[40.0, 60.0], average=50.0)
    assert [row["task"] for row in compare_published(study, run, rows)["comparisons"]] == ["a"]


def test_figures_of_something_else_are_refused(tmp_path):
    study, run = make_study(tmp_path, {"a": "1100"})
    other_set = make_rows(tasks=["a"], accuracy=[40.0], training_set="t")
    with pytest.raises(UserError, match=r"card/m/lora was trained on t, m/run on s"):
        compare_published(study, run, other_set)
    with pytest.raises(UserError, match="no task is the same"):
        compare_published(study, run, make_rows(tasks=["c"], accuracy=[40.0]))
    with pytest.raises(UserError, match="have no figure of task 'b'"):
        compare_published(study, run, make_rows(tasks=["a"], accuracy=[40.0]), task="b")


def test_references_have_the_names_of_their_cards():
    study = load_study("paper-math")
    assert find_reference("llm-adapters/GPT-3.5", study).rows[0].row.average == 70.4
    assert len(find_reference("llm-adapters/llama-7b/lora", study).rows) == 3
    assert find_reference("llama-7b/lora", study) is None
    with pytest.raises(UserError, match=r"no row 'llm-adapters/GPT-3' \(choices: .*\); did you mean"):
        find_reference("llm-adapters/GPT-3", study)
    placement = load_study("placement")
    assert find_reference("llm-adapters-placement/llama-7b/lora, setting both", placement)
    references = load_study("references-math")
    assert find_reference("gpt-3-175b-gsm8k", references).card.size == "175B"


@pytest.mark.parametrize(
    ("study", "name", "listed"),
    [
        # the nearest names of references stand beside the nearest runs
        ("paper-math", "llm-adapter/GPT-3.5", "references of study 'paper-math': llm-adapters/GPT-3.5"),
        ("paper-math", "GPT-3.5", "references of study 'paper-math': llm-adapters/GPT-3.5"),
        # the name of several runs, and part of the name of a reference
        ("paper-math", "llama-7b/lora", "references of study 'paper-math': llm-adapters/llama-7b/lora, "),
        # none is near
        (
            "paper-math",
            "x",
            "references of study 'paper-math': llm-adapters/GPT-3.5, llm-adapters/bloomz-7b1/",
        ),
        (
            "references-math",
            "gpt-4",
            "references of study 'references-math': text-davinci-003-plan-and-solve, gpt-3",
        ),
        ("quickstart", "x", "study 'quickstart' has no references"),
    ],
)
def test_an_unknown_second_name_lists_the_references(study, name, listed):
    with pytest.raises(UserError) as error:
        find_second_run(name, study, load_study(study))
    assert listed in str(error.value)


def test_a_long_list_of_references_is_cut():
    with pytest.raises(UserError, match=r"references of study 'paper-math': ([^,]+, ){7}[^,]+ and 12 more$"):
        find_second_run("x", "paper-math", load_study("paper-math"))


def test_a_reference_of_another_study_is_no_misspelt_run():
    study = load_study("quickstart")
    message = "study 'quickstart' does not list the reference 'gpt-3-175b-gsm8k'; add it to `references` in params/study/"
    with pytest.raises(UserError, match=message):
        find_second_run("gpt-3-175b-gsm8k", None, study)
    message = "study 'quickstart' does not name the publication 'llm-adapters'; add it to `followups` in params/study/"
    with pytest.raises(UserError, match=message):
        find_second_run("llm-adapters/GPT-3.5", None, study)


def test_a_wrong_reference_is_one_line(capsys):
    wrong = ["compare", "llama-7b/bare", "GPT-3.5", "--study", "paper-math"]
    assert run_command(wrong) == 1
    printed = capsys.readouterr().err
    assert "references of study 'paper-math': llm-adapters/GPT-3.5" in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("study", "first", "second", "message"),
    [
        (
            "references-math",
            "gpt-3-175b-gsm8k",
            "llama-7b/bare",
            "error: 'gpt-3-175b-gsm8k' is a reference, which comes second: python -m pipeline compare llama-7b/bare "
            "gpt-3-175b-gsm8k --study references-math\n",
        ),
        (
            "placement",
            "llm-adapters-placement/llama-7b/lora, setting both",
            "llama-7b/bare",
            "error: 'llm-adapters-placement/llama-7b/lora, setting both' is a reference, which comes second: python -m pipeline "
            "compare llama-7b/bare 'llm-adapters-placement/llama-7b/lora, setting both' --study placement\n",
        ),
        (
            "references-math",
            "gpt-3-175b-gsm8k",
            "gpt-3-6b-gsm8k",
            "error: 'gpt-3-175b-gsm8k' and 'gpt-3-6b-gsm8k' are references; compare a run with one of them: "
            "python -m pipeline compare RUN gpt-3-175b-gsm8k --study references-math\n",
        ),
    ],
)
def test_a_reference_before_a_run_is_answered_with_the_right_order(capsys, study, first, second, message):
    assert run_command(["compare", first, second, "--study", study]) == 1
    assert capsys.readouterr().err == message


def test_a_reference_before_a_run_of_an_unknown_study_is_answered_with_the_studies(capsys):
    assert run_command(["compare", "gpt-3-175b-gsm8k", "llama-7b/bare", "--study", "paper-mth"]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert "'paper-mth'" in printed
    assert "paper-math" in printed
    assert "comes second" not in printed


@pytest.mark.parametrize("name", ["", " ", "/", "results/answers/"])
def test_a_name_without_a_part_is_answered_with_the_forms_of_names(capsys, name):
    assert run_command(["compare", "tiny-llama/bare", name]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(
        f"error: '{name}' is not the name of a run; use MODEL/METHOD/TRAINSET/seedN, MODEL/bare, a fingerprint, or the path of a "
        "result; study 'quickstart' "
    )
    assert printed.count("\n") == 1
    assert run_command(["compare", name, "tiny-llama/bare"]) == 1
    assert capsys.readouterr().err.startswith(f"error: '{name}' is not the name of a run; use MODEL/")


@pytest.mark.parametrize(
    "command", [["compare", "tiny-llama/bare", "tiny-llama/lora"], ["audit-protocol", "quickstart-protocols"]]
)
def test_a_negative_limit_is_refused_with_the_allowed_values(capsys, command):
    assert run_command([*command, "--limit", "-1"]) == 2
    printed = capsys.readouterr().err
    assert "--limit" in printed
    assert "greater than or equal to 0" in printed
    assert printed.count("\n") == 1
