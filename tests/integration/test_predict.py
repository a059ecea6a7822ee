"""``predict`` prints the answers that the evaluation wrote, whatever name refers to the run."""

import io
import json
import re
import sys

import pytest

from pipeline.commands.app import run_command
from pipeline.core.errors import UserError
from pipeline.core.io import read_jsonl
from pipeline.evaluate.generation import decoding, text_answers
from pipeline.evaluate.generation.predict import predict
from pipeline.evaluate.generation.text_answers import encode_prompts
from pipeline.params.reading import read_card
from pipeline.params.templates import build_prompt
from pipeline.prompts.write import read_prompts
from pipeline.study import load_study

RUNS = ["bare", "lora/world-math/seed0", "series", "prefix", "full"]


def predict_output(capsys, *arguments, ok=True):
    capsys.readouterr()
    status = run_command(["predict", "--device", "cpu", *arguments])
    printed = capsys.readouterr()
    assert status == (0 if ok else 1), printed.err
    return printed.out if ok else printed.err


def evaluated_answers(run_name, protocol, task="world-addsub"):
    """Return the questions, inputs and answers of a run on a task, as the generate stage wrote them."""
    study = load_study()
    run = next(run for run in study.runs if run.label.startswith(f"small-llama/{run_name}"))
    task_run = next(item for item in study.tasks(run) if item.name == f"{task}-{protocol}")
    answers = read_jsonl(study.answers(run).path / f"{task_run.name}.jsonl")
    return [
        (example["instruction"], example["input"], answer["text"].strip())
        for example, answer in zip(read_prompts(task_run.prompts.path), answers, strict=True)
    ]


@pytest.mark.parametrize("run_name", RUNS)
@pytest.mark.parametrize("protocol", ["strict", "paper"])
def test_answers_equal_those_of_the_evaluation(run_name, protocol, project, capsys):
    expected = evaluated_answers(run_name, protocol)
    questions = [instruction for instruction, _, _ in expected]
    name = f"small-llama/{run_name}"
    output = predict_output(capsys, "--run", name, "--protocol", protocol, "--json", *questions)
    answers = [json.loads(line) for line in output.splitlines()]
    assert [answer["question"] for answer in answers] == questions
    assert [answer["answer"] for answer in answers] == [text for _, _, text in expected]
    assert {answer["stop"] for answer in answers} <= {"eos", "length"}


def test_runs_give_different_answers(project, capsys):
    answers = [
        predict_output(
            capsys, "--run", f"small-llama/{run_name}", "Tom has 3 apples.", "--max-new-tokens", "12"
        )
        for run_name in RUNS
    ]
    assert len(set(answers)) > 2


def test_a_single_question_prints_the_answer_alone(project, capsys):
    question, _, text = evaluated_answers("lora", "strict")[0]
    assert predict_output(capsys, "--run", "small-llama/lora", question) == f"{text}\n"


def test_several_questions_and_lines_of_stdin_are_printed_with_their_answers(project, capsys, monkeypatch):
    expected = evaluated_answers("lora", "strict")[:2]
    expected_output = "".join(f"> {question}\n{text}\n\n" for question, _, text in expected)
    questions = [question for question, _, _ in expected]
    assert predict_output(capsys, "--run", "small-llama/lora", *questions) == expected_output
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n\n".join(questions) + "\n"))
    assert predict_output(capsys, "--run", "small-llama/lora", "-") == expected_output


def test_a_conversation_answers_each_line_before_the_next(project, capsys, monkeypatch):
    expected = evaluated_answers("lora", "strict")[:2]
    lines = [question for question, _, _ in expected]
    printed = []

    def type_line(prompt):
        printed.append(capsys.readouterr().out)
        if not lines:
            raise EOFError
        return lines.pop(0)

    monkeypatch.setattr("builtins.input", type_line)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    predict_output(capsys, "--run", "small-llama/lora")
    assert printed == ["", f"{expected[0][2]}\n", f"{expected[1][2]}\n"]


def test_ctrl_c_prints_no_stack_trace(project, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(decoding, "decode", interrupt)
    assert run_command(["predict", "--device", "cpu", "--run", "small-llama/bare", "x"]) == 130
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(("protocol", "template"), [("strict", "strict"), ("paper", "paper-eval")])
@pytest.mark.parametrize("input_text", ["", "Tom has 3."])
def test_the_prompt_has_the_template_of_the_protocol_and_the_input(
    protocol, template, input_text, project, capsys, monkeypatch
):
    prompts = []

    def record_and_encode(model, tokenizer, examples, max_new_tokens):
        prompts.extend(example["prompt"] for example in examples)
        return encode_prompts(model, tokenizer, examples, max_new_tokens)

    monkeypatch.setattr(text_answers, "encode_prompts", record_and_encode)
    options = ["--protocol", protocol, "--input", input_text, "--json"]
    output = predict_output(capsys, "--run", "small-llama/lora", *options, "How many?")
    assert prompts == [build_prompt("How many?", input_text, template=template)]
    assert json.loads(output)["input"] == input_text


def test_length_and_beams_can_be_set(project, capsys):
    short = json.loads(
        predict_output(capsys, "--run", "small-llama/bare", "x", "--max-new-tokens", "2", "--json")
    )
    assert (short["tokens"], short["stop"]) == (2, "length")
    # this protocol has four beams
    expected = evaluated_answers("prefix", "paper")
    greedy = ["--run", "small-llama/prefix", "--protocol", "paper", "--json"]
    beams = json.loads(predict_output(capsys, *greedy, "--num-beams", "4", expected[0][0]))
    assert beams["answer"] == expected[0][2]


def test_cut_prompts_and_answers_are_reported(project, capsys):
    run_command(
        ["predict", "--device", "cpu", "--run", "small-llama/bare", "--max-new-tokens", "2", "w " * 400]
    )
    output = capsys.readouterr().err
    assert "stopped after 2 tokens" in output
    assert "its beginning was cut" in output


def test_words_unknown_to_the_tokenizer_are_reported(project, capsys):
    run_command(["predict", "--device", "cpu", "--run", "small-llama/bare", "how many stamps"])
    assert "does not know" not in capsys.readouterr().err
    run_command(["predict", "--device", "cpu", "--run", "small-llama/bare", "how many Quarks"])
    assert "note: the tokenizer does not know " in capsys.readouterr().err


def test_stale_results_are_distinguished_from_unknown_names(project, capsys):
    _, fingerprint = (path := next((project / "results/adapters/small-llama/lora").glob("*/*/*"))).parts[-2:]
    card = project / "params/study/small.yaml"
    card.write_text(card.read_text().replace("warmup_steps: 1", "warmup_steps: 2"))
    (project / "params/study/more.yaml").unlink()
    read_card.cache_clear()
    for name in (fingerprint, str(path)):
        output = predict_output(capsys, "--run", name, "x", ok=False)
        assert f"{fingerprint} is stale: the params or code that it was made from have changed" in output
        assert "a run has a name like small-llama/" in output or "nearest: small-llama/" in output


def test_all_names_of_a_run_are_accepted(project, capsys):
    study = load_study()
    run = next(run for run in study.runs if run.method == "series")
    adapter, scores = run.adapter, study.scores(run)
    expected = predict_output(capsys, "--run", "small-llama/series/world-math/seed0", "x")
    for name in (
        adapter.fingerprint,
        adapter.fingerprint[:7],
        str(adapter.path),
        f"{adapter.path.resolve()}/",
        str(study.answers(run).path),
        str(scores.path),
        scores.fingerprint,
        "results/adapters/small-llama/series",
    ):
        assert predict_output(capsys, "--run", name, "x") == expected


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        (["--run", "small-llama", "x"], r"is ambiguous: small-llama/bare \("),
        (["--run", "small-llama/loar/world-math/seed0", "x"], "nearest: small-llama/lora/world-math/seed0"),
        (["--run", "000000000000", "x"], "no study has a run '000000000000'"),
        (["--run", "", "x"], "'' is not the name of a run; use MODEL/METHOD"),
        (["--run", "small-llama/lora", "--study", "more", "x"], "seed5 .*, .*seed6"),
        (["--run", "small-llama/lora", "--study", "none", "x"], "no 'none' .choices: more, small"),
        (["--run", "small-llama/lora", "--protocol", "loose", "x"], r"no 'loose' \(choices: strict, paper\)"),
        (["--run", "small-llama/lora"], "no question; pass questions in quotes"),
        (["--run", "small-llama/lora", " "], "a question is empty"),
        (["--run", "small-llama/lora", "x", "--num-beams", "0"], r"num_beams: must be at least 1 \(got 0\)"),
        (
            ["--run", "small-llama/lora", "x", "--max-new-tokens", "-3"],
            r"max_new_tokens: must be at least 1 \(got -3\)",
        ),
        (["--run", "small-llama/lora", "x", "--max-new-tokens", "9999"], "leaves no room for a prompt"),
    ],
)
def test_mistakes_are_reported_in_one_line(arguments, output, project, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    printed = predict_output(capsys, *arguments, ok=False)
    assert printed.startswith("error: ")
    assert printed.count("\n") == 1
    assert re.search(output, printed), printed


def test_an_untrained_run_of_another_study_is_an_error_with_the_command_that_trains_it(project, capsys):
    study = load_study("more")
    run = next(run for run in study.runs if run.method == "lora" and run.seed == 6)
    output = predict_output(capsys, "--run", "small-llama/lora/world-math/seed6", "x", ok=False)
    assert output.endswith(f"not trained yet; run: snakemake {run.adapter.path} --config study=more\n")


def test_decoding_options_are_checked_before_a_model_is_loaded(tmp_path):
    decoding_options = {"template": "strict", "num_beams": 0, "max_new_tokens": 4}
    with pytest.raises(UserError, match="num_beams: must be at least 1"):
        list(predict(tmp_path, None, [["x"]], input="", decoding=decoding_options, device="cpu"))
