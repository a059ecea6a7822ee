"""Parsers: the published rules against the published code's results, and ours against stated answers."""

import importlib.util
import json
import math
import subprocess
import sys

import pytest

from pipeline.core.errors import UserError
from pipeline.evaluate import parse_answer
from pipeline.evaluate.parsing.extract import LABELS, is_correct, parse, published_response
from pipeline.evaluate.parsing.turns import is_complete

NUMBERS = [
    ("The answer is 5.", 5),
    ("The answer is $1,234.50.", 1234.5),
    ("He has 3 apples, so 3 + 4 = 7. The answer is 7</s>", 7),
    ("The answer is 12,345,678", 12345678),
    ("The answer is 1 000", 1000),
    ("The answer is 1\u202f000\u202f000", 1000000),
    ("The answer is 1{,}000", 1000),
    ("The answer is .5", 0.5),
    ("The answer is 0.125.", 0.125),
    ("The answer is 1/2", 0.5),
    ("The answer is 3 1/2 hours.", 3.5),
    (r"The answer is \frac{3}{4}.", 0.75),
    (r"The answer is $2\frac{1}{4}$", 2.25),
    ("The answer is 25%.", 25),
    ("The answer is 25 %", 25),
    (r"The answer is $25\%$", 25),
    ("The answer is €30", 30),
    ("The answer is 5kg.", 5),
    ("The answer is 5 km/h", 5),
    ("The answer is 25 cm^2", 25),
    ("The answer is 1e3", 1000),
    ("The answer is 2.5E-3.", 0.0025),
    ("The answer is 1.5 × 10^3", 1500),
    (r"The answer is 2 \times 10^{-2}.", 0.02),
    ("The answer is -5", -5),
    ("The answer is - 5", -5),
    ("The answer is \u22125.", -5),
    ("The answer is -$5", -5),
    ("The answer is $-5$", -5),
    ("The answer is (-5)", -5),
    ("- 5", -5),
    ("-5", -5),
    ("x = -12", -12),
    ("Yardage lost on the second pass = -21 yards", -21),
    ("- 5 apples\n- 6 pears", None),
    ("10-3", None),
    ("there are 10 -3", None),
    ("pages 10–12", None),
    ("COVID-19", None),
    ("The answer is 10-3=7", 7),
    ("The answer is 18 eggs * $2 = $36.", 36),
    ("The answer is 5 (since 2 + 3 = 5)", 5),
    ("The answer is 7 because 3 + 4 = 7, not 8", 7),
    ("The answer is 5.\n### Instruction:\n 9", 5),
    ("The answer is 5.\n\nQ: There are 9 ...", 5),
    ("### Response: The answer is 5", 5),
    (r"So \boxed{42}.", 42),
    (r"The answer is 3. No: \boxed{\frac{1}{2}}", 0.5),
    (r"\boxed{3}. So the answer is 4.", 4),
    (r"The answer is $\boxed{1,200\text{ dollars}}$", 1200),
    (r"\boxed{\$5}", 5),
    ("The answer is **8**.", 8),
    ("Answer: 12 apples.\nExplanation: 3 * 4", 12),
    ("Answer:\n12", 12),
    ("The final answer is: 12", 12),
    ("The final result: 12", 12),
    ("The correct choice is 12", 12),
    ("Here's the correct solution:\n3 + 4 = 7\nTherefore, she has 7.", 7),
    ("The correct answer is 12.", 12),
    ("the answer to the question is 12", 12),
    ("The answer in Arabic numerals is 1260.", 1260),
    ("The answer would be 1260.", 1260),
    ("3 * 4 = 12\n#### 12", 12),
    ("The answer is 4. Wait, so the answer is 5.", 5),
    ("The answer is 5. I hope the answer is clear.", 5),
    ("So she has 3 + 4 = 7 apples.", 7),
    ("x=5y", None),
    ("The answer is 5 hours.\nIt took 30 minutes.", 5),
    ("The answer is ٥", 5),
    ("The answer is 3/4 or 0.75", 0.75),
    ("Answer: The total cost of two tubs and 10 cans is $24.", 24),
    ("Answer: Ms. Warren ran 3 miles.", 3),
    ("which shows that our answer is correct. Carol did 15 chores.", None),
    ("Answer: John makes 160 throws in 16 games and 112 of them count", None),
    ("The answer is 4 blue shoeboxes and 3 red ones", None),
    ("The answer is:\n1. Set up x = 8\n2. Solve it", None),
    ("The answer is seven.", 7),
    ("The answer is seven. He has 3 apples.", 7),
    ("The answer is 5 or 6", None),
    ("The answer is 3-5", None),
    ("The answer is 3 + 4", None),
    ("The answer is 2^3", None),
    ("The answer is not 5", None),
    ("The answer is 3,4", None),
    ("The answer is 5..6", None),
    ("version1.2.3", None),
    ("The answer is 1.2.3", None),
    ("The answer is 5:30", None),
    ("The answer is 1/0", None),
    ("The answer is 1e400", None),
    ("no number", None),
    ("", None),
]

LABELLED = [
    ("letter", "A: The answer is (C).", "C"),
    ("letter", "Answer: B", "B"),
    ("letter", "the answer is b", "B"),
    ("letter", "The answer is (a)", "A"),
    ("letter", "The answer is a number", None),
    ("letter", "The answer is A.", "A"),
    ("letter", "The answer is A because it is", "A"),
    ("letter", "The answer is A train", None),
    ("letter", "The answer is C) 26", "C"),
    ("letter", "The answer is option C.", "C"),
    ("letter", "the correct answer is the letter D", "D"),
    ("letter", "The answer is **E**", "E"),
    ("letter", r"The answer is \boxed{C}", "C"),
    ("letter", r"so \boxed{\text{B}}", "B"),
    ("letter", "C", "C"),
    ("letter", "(C)", "C"),
    ("letter", "C.", "C"),
    ("letter", "C ) 870", "C"),
    ("letter", "It is 870, so (C) holds", "C"),
    ("letter", "He pays $5. B", "B"),
    ("letter", "Each item is 3. The answer is C", "C"),
    ("letter", "The answer is 26 (C).", "C"),
    ("letter", "The correct option is B.", "B"),
    ("letter", "The best choice is (d) 12", "D"),
    ("letter", "B is the correct answer.", "B"),
    ("letter", "So C is correct", "C"),
    ("letter", "B is not correct", None),
    ("letter", "B is correctly drawn", None),
    ("letter", "B is correct. No, C is right", None),
    ("letter", "They add up. Option B", "B"),
    ("letter", "The correct option is not B", None),
    ("letter", "(A) is too small, (B) too large", None),
    ("letter", "The answer is (A) or (B)", None),
    ("letter", "The answer is A. Wait, the answer is B.", "B"),
    ("letter", "The AnswerD", None),
    ("letter", "A man has 3 apples", None),
    ("letter", "A: Each man pays", None),
    ("letter", "Because Each And Does", None),
    ("letter", "</s>", None),
    ("letter", "", None),
    ("boolean", "the correct answer is true", "true"),
    ("boolean", "The correct answer is True.", "true"),
    ("boolean", "the correct answer is not true, it is false", "false"),
    ("boolean", "the correct answer is not true", None),
    ("boolean", "true", "true"),
    ("boolean", "so this is false.", "false"),
    ("boolean", "not true", None),
    ("boolean", "it is a true story of long ago", None),
    ("boolean", "true or false", None),
    ("boolean", "the correct answer is true/false", None),
    ("boolean", "falsehood", None),
    ("solution", "the correct answer is solution1", "solution1"),
    ("solution", "solution12", None),
    ("solution", "solution1 or solution2", None),
    ("solution", "the correct answer is solution1 or solution2", None),
    ("solution", "the correct answer is solution1 and not solution2", "solution1"),
    ("answer", "answer5", "answer5"),
    ("answer", "the correct answer is answer 2", "answer2"),
    ("answer", "answer10", None),
    ("answer", "answer4answer2", None),
    ("answer", "the correct answer is answer2 because answer1 is wrong", "answer2"),
    ("answer", "a hammer is made of metal. the correct answer is answer2", "answer2"),
    ("answer", "the correct answer is answer1 the correct answer is answer", "answer1"),
    ("answer", "the correct answer is answer2\n\n### Instruction:\nanswer1", "answer2"),
    ("answer", "the correct answer is 2", None),
    ("answer", "Answer1: lions Answer2: humans", None),
    ("ending", "the correct ending is Ending3", "ending3"),
    ("option", "Option2", "option2"),
    ("option", "the correct answer is: option2.", "option2"),
]


@pytest.fixture(scope="module")
def golden(shared):
    return json.loads((shared / "golden/extraction_cases.json").read_text())


def test_the_published_rules_give_the_published_results(golden):
    for case in golden["cases"]:
        expected = {"inf": None, "": None}.get(case["extracted"], case["extracted"])
        if case["rule"] == "number" and expected is not None:
            expected = float(expected)
        assert parse_answer(case["output"], task=case["dataset"], protocol="paper") == expected, case


def test_the_published_tolerance(golden):
    for case in golden["scoring"]:
        parsed = parse(case["output"], form="number", parser="paper")
        if math.isfinite(float(case["label"])):
            assert is_correct(parsed, case["label"], form="number", parser="paper") == case["flag"], case


def test_the_published_cut_at_the_response_mark(golden):
    prompt = "### Instruction:\n{}\n\n### Response:\n"
    for case in golden["cut"][:3]:
        assert published_response(prompt.format("Add."), case["decoded_tail"]) == case["result"]
    full_prompt = prompt.format('Write "### Response:" 3')
    assert published_response(full_prompt, "5").startswith(golden["cut"][3]["result"])


@pytest.mark.parametrize(("text", "expected"), NUMBERS)
def test_strict_numbers(text, expected):
    parsed = parse(text, form="number", parser="strict")
    assert parsed is None if expected is None else parsed == pytest.approx(expected)


@pytest.mark.parametrize(("form", "text", "expected"), LABELLED)
def test_strict_labels(form, text, expected):
    assert parse(text, form=form, parser="strict") == expected


@pytest.mark.parametrize(
    ("form", "label"), [(form, label) for form, labels in LABELS.items() for label in labels]
)
@pytest.mark.parametrize("protocol", ["paper", "strict"])
def test_every_label_is_parsed_from_the_sentence_of_the_training_sets(form, label, protocol):
    assert parse(f"the correct {form} is {label}", form=form, parser=protocol) == label or form == "letter"
    text = f"the correct answer is {label}"
    assert parse(text, form=form, parser=protocol) == label


def test_a_label_outside_the_choices_is_not_an_answer():
    text, offered = "the correct answer is answer5", ["answer1", "answer2", "answer3"]
    assert parse(text, form="answer", parser="strict", choices=offered) is None
    assert parse(text, form="answer", parser="strict", choices=[*offered, "answer4", "answer5"]) == "answer5"


def test_the_strict_tolerance_is_relative_for_small_answers():
    assert is_correct(0.6667, "0.6666666666666666", form="number", parser="strict")
    assert is_correct(5.0, "5.0", form="number", parser="strict")
    assert not is_correct(0.0, "0.001", form="number", parser="strict")
    assert not is_correct(1261.0, "1260", form="number", parser="strict")
    assert not is_correct(None, "5", form="number", parser="strict")


@pytest.mark.parametrize("task", ["gsm8k", "AQuA", "boolq", "piqa", "social_i_qa", "hellaswag", "winogrande"])
def test_answer_form_comes_from_the_task(task):
    expected = {"gsm8k": 3.0, "AQuA": "C", "boolq": "true", "piqa": "solution2", "social_i_qa": "answer3"}
    expected |= {"hellaswag": "ending4", "winogrande": "option1"}
    text = str(expected[task])
    assert parse_answer(f"the correct answer is {text}", task=task, protocol="strict") == expected[task]


def test_unknown_names_are_refused_with_the_choices():
    with pytest.raises(UserError, match=r"no 'gsm9k' \(choices: .*gsm8k"):
        parse_answer("5", task="gsm9k", protocol="strict")
    with pytest.raises(
        UserError,
        match=r"protocol: unknown 'lenient' \(choices: paper, strict, math_verify, majority, paper-unmasked",
    ):
        parse_answer("5", task="gsm8k", protocol="lenient")
    with pytest.raises(UserError, match=r"parser: unknown 'lenient' \(choices: paper, strict, math_verify\)"):
        parse_answer("5", task="gsm8k", parser="lenient")


# The parsers differ on this text: the published one takes the first capital letter.
AMBIGUOUS = "A: The answer is (C)."


@pytest.mark.parametrize(
    ("protocol", "parser"), [("paper", "paper"), ("paper-unmasked", "paper"), ("strict", "strict")]
)
def test_a_protocol_is_resolved_to_its_parser(protocol, parser):
    answer = {"paper": "A", "strict": "C"}[parser]
    assert parse_answer(AMBIGUOUS, task="aqua", protocol=protocol) == answer
    assert parse_answer(AMBIGUOUS, task="aqua", parser=parser) == answer


@pytest.mark.parametrize("protocol", ["likelihood", "likelihood-text"])
def test_a_protocol_without_text_is_refused(protocol):
    with pytest.raises(UserError, match=f"protocol: '{protocol}' compares likelihoods and parses no text"):
        parse_answer(AMBIGUOUS, task="aqua", protocol=protocol)


def test_math_verify_reads_numbers_or_says_what_is_missing():
    if importlib.util.find_spec("math_verify") is None:
        with pytest.raises(UserError, match=r"needs the package math-verify; run `pip install"):
            parse_answer("The answer is 7.", task="gsm8k", parser="math_verify")
    else:
        assert parse_answer("It is 7. I checked it 2 times.", task="gsm8k", parser="math_verify") == 2.0
        assert parse_answer("<think>5</think> $\\frac{1}{2}$", task="gsm8k", parser="math_verify") == 0.5
        assert parse_answer("no number", task="gsm8k", parser="math_verify") is None
    with pytest.raises(UserError, match="'math_verify' reads numbers, not answers of the form 'letter'"):
        parse_answer("(B)", task="aqua", parser="math_verify")


@pytest.mark.parametrize("names", [{}, {"protocol": "strict", "parser": "strict"}])
def test_either_a_protocol_or_a_parser_is_needed(names):
    with pytest.raises(UserError, match="parse_answer: needs either protocol or parser"):
        parse_answer(AMBIGUOUS, task="aqua", **names)


def test_resolving_a_protocol_imports_no_torch():
    code = (
        "import sys, pipeline.evaluate as e; e.parse_answer('5', task='gsm8k', protocol='paper-unmasked');"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("text", "complete"),
    [
        ("The answer is 5.\n\n### Instruction:", True),
        ("The answer is 5.\n\n### Instruction:\n9 apples", True),
        ("5\nQ: There are 9", True),
        ("5\n## Input :", True),
        ("5\n### Input:\n<think>", True),
        ("<think>5\n### Input:", False),
        ("<think>6</think>5<think>\n### Input:", False),
        ("The answer is 5.\n\n### Instruction", False),  # it may yet become another word
        ("### Response: The answer is 5", False),
        ("</s> ### Response:\n", False),
        ("The answer is 5. The response: 6", False),
        ("", False),
    ],
)
def test_an_answer_is_complete_when_another_example_begins(text, complete):
    assert is_complete(text) == complete


@pytest.mark.parametrize(
    "text", [*(text for text, _ in NUMBERS), "5\n### Input:\n<think>9</think> 8\n<think>7"]
)
def test_text_after_a_complete_answer_does_not_change_it(text):
    counts = [count for count in range(len(text) + 1) if is_complete(text[:count])]
    assert counts == list(range(counts[0], len(text) + 1)) if counts else not is_complete(text)
    for count in counts[:1]:
        assert parse(text[:count], form="number", parser="strict") == parse(
            text, form="number", parser="strict"
        )
