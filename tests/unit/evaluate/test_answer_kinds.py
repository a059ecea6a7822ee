"""Parser ``strict`` on what chat models write: several texts of each kind, and what each of them says."""

import pytest

from pipeline.evaluate.parsing.extract import parse

NUMBERS = {
    "bold": [
        ("**Answer**: 12", 12),
        ("**Answer:** 1,250", 1250),
        ("**Answer:**\n12", 12),
        ("__Answer:__ 12", 12),
        ("**The answer is 12**", 12),
        ("The answer is: **$12.50**.", 12.5),
        ("3 + 4 = 7\n\n**Final Answer:** 7 apples", 7),
        ("**Final Answer:**\nThe total is **410 feet**.", 410),
    ],
    "heading": [
        ("### Final Answer\n12", 12),
        ("## Answer\n\nShe has 12 apples.", 12),
        ("#### Answer:\n12", 12),
        ("Final answer\n\\[\n\\boxed{12}\n\\]", 12),
        ("The final answer is:\n\n\\[\n12\n\\]", 12),
        ("The final answer is:\n$$12$$", 12),
    ],
    "tag": [
        ("<answer>12</answer>", 12),
        ("3 + 4 = 7 <answer> 7 apples </answer>", 7),
        ("<think>3?</think><answer>\n12\n</answer>", 12),
        ("<ANSWER>12</ANSWER>", 12),
        ("<answer>5 or 6</answer>", None),
    ],
    "unit in parentheses": [
        ("The answer (in dollars) is 12.", 12),
        ("The final answer (rounded to 2 places) is: 3.14", 3.14),
        ("Answer (in km): 40", 40),
        ("So the answer, in minutes, is 40.", 40),
    ],
    "closing line": [
        ("So she has 7 apples.\n\nI hope this helps!", 7),
        ("Therefore, it is 7. Let me know if you have any questions!", 7),
        ("Thus he pays $7.\n\nFeel free to ask if you need more help. 😊", 7),
        ("So she has 7 apples.\n\nI hope this helps! Let me know if you need anything else.", 7),
        ("I hope this helps!", None),
    ],
    "line ends": [("The answer is:\r\n7", 7), ("#### 7\r\n", 7), ("So\r\nanswer = 7\r\nDone", 7)],
    "other headings": [
        ("We list it.\n\n### Input values\n3 and 4.\n\nThe answer is 7.", 7),
        ("## Response times\n3 s and 4 s.\n\nThe answer is 7.", 7),
        ("Plan.\n\n### Instructions for the reader\nAdd.\n\n#### 7", 7),
        ("Plan.\n### Question types\nOne.\nThe answer is 7.", 7),
        ("The answer is 7.\n\n#### Check 2\n3 + 4 = 7.", 7),
        ("#### Day 2\nHe eats 3.\n\n#### Day 3\nThe answer is 7.", 7),
        ("The answer is 7.\n\n#### 2. Check\n3 + 4 = 7.", 7),
        ("#### Day 2", None),
        ("#### $1,250", 1250),
    ],
    "two numbers": [
        ("Each bag weighs 8 kilos, 12 * 8 = 96.\nAnswer: 12 bags hold 96 kilos.", 96),
        ("54 / 9 = 6\n\nAnswer:\nShe fills 6 bags with 13 red and 41 green marbles.", 6),
        ("10 / 2 = 5\nAnswer: He can buy 5 2 dollar toys.", 5),
        ("Answer: It will take 5 years for the tree to reach 29 feet.", None),
        ("Answer: 12 bags hold 96 kilos.", None),
        ("4 * 8 = 32 and 6 * 8 = 48.\nAnswer: She has 32 scarves and 48 mittens.", None),
        ("The answer is 96 kilos for 12 bags.", 96),
        ("The answer is 5 (since 2 + 3 = 5).", 5),
        ("Answer: He has 8 dollars now (3 + 5).", 8),
        (r"It takes $\boxed{5}$ hours and $\boxed{20}$ minutes.", None),
        ("Answer:\nStorks: 6\nBirds: 5\n\nTherefore, there is 1 more stork.", None),
    ],
    "denied": [
        ("The answer isn't 5.", None),
        ("The answer is definitely not 5.", None),
        ("The answer is no longer 5.", None),
        ("The answer is not 5 but 6", None),
        ("Therefore, it isn't 5.", None),
    ],
    "self-correction": [
        ("The answer is 13... wait, it is 12.", 12),
        ("The answer is 13. Wait, that's wrong. It should be 12.", 12),
        ("The answer is 13. Actually, it is 12.", 12),
        ("The answer is 13. No, wait: 12", 12),
        ("**Answer:** 13\n\nCorrection: the total is 12.", 12),
        (r"\boxed{13}. Hold on, that should be 12.", 12),
        ("The answer is 13. Oops, I made a mistake.", None),
        ("The answer is 13. That is not right.", None),
        ("The answer is 13. Wait, let me check again.", None),
        ("The answer is 13. Actually, he could also walk.", 13),
        ("The answer is 13. He has to wait 5 minutes.", 13),
        ("The answer is 13. No further steps are needed.", 13),
        ("The answer is 13. That is correct.", 13),
    ],
    "list": [
        ("Thus, the final answer is:\n- Blue: $100\n- Red: $60", None),
        ("The answer is:\n* 3 cats\n* 4 dogs", None),
        ("The answer is 18, 19.", None),
        ("The answer is 3, 4 and 5.", None),
        ("The answer is 3 4 5", None),
        ("The answer is 3 cats, 4 dogs", None),
        ("The answer is 3; 4", 3),
        ("The answer is:\n- 12", 12),
        ("The answer is 3/4, or 0.75", 0.75),
    ],
    "digit string": [
        ("Therefore, the count is 3-4-1.", None),
        ("The answer is 3-4-1.", None),
        ("The answer is 2019-05-03", None),
        ("The answer is 555-123-4567", None),
        ("The answer is 10-3-2 = 5", 5),
        ("The answer is 1/2/3", None),
    ],
    "magnitude": [
        ("The answer is $1.5 million.", 1_500_000),
        ("So the town has 2 hundred thousand inhabitants.", 200_000),
        ("The answer is 3 dozen.", 36),
        ("The answer is $5k.", 5000),
        ("The answer is $2bn", 2_000_000_000),
        ("The answer is 3.2 billion people", 3_200_000_000),
        ("The answer is 5 M", 5),
        ("The answer is 5kg", 5),
    ],
    "fraction and power": [
        ("The answer is 3½.", 3.5),
        ("The answer is ¾", 0.75),
        ("The answer is 2 ⅓ cups", 7 / 3),
        ("The answer is \\frac34.", 0.75),
        ("The answer is 10^3.", 1000),
        ("The answer is 10^{-2}", 0.01),
        ("The answer is 1'234.", 1234),
        ("The answer is 2^10", None),
    ],
    "function": [
        ("The answer is \\sqrt{16}.", None),
        ("The answer is √16", None),
        ("The answer is 2\\sqrt{3}", None),
        ("The answer is 2\\pi", None),
        ("The answer is \\sqrt[3]{8}", None),
        (r"\boxed{\sqrt{2}}", None),
        ("The answer is \\sqrt{16} = 4", 4),
    ],
    "spelled": [
        ("The answer is zero.", 0),
        ("The answer is seven.", 7),
        ("The answer is two hundred fifty dollars.", 250),
        ("The answer is one hundred and thirty thousand.", 130_000),
        ("The answer is twenty-four", 24),
        ("The answer is a dozen.", 12),
        ("The answer is one of them.", None),
        ("The answer is two-thirds.", None),
        ("The answer is two or three.", None),
        ("The answer is two three.", None),
        ("The answer is seven (7).", 7),
    ],
    "sign": [
        ("The answer is negative 5.", -5),
        ("The answer is minus 5 degrees.", -5),
        ("The answer is negative five", -5),
        ("The answer is 10 minus 5.", None),
        ("The answer is 10 minus 5 = 5", 5),
        ("The answer is 10 plus 5 = 15.", 15),
        ("The answer is 20 divided by 4, which equals 5", None),
    ],
    "currency": [("The answer is Rs. 500", 500), ("The answer is Rs 500.", 500), ("The answer is ₹500", 500), ("The answer is US$ 500", 500)],
    "thought": [
        ("<think>\nthe answer is 5? no.\n</think>\n\n12", 12),
        ("<think>The answer is 5.</think>The answer is 12.", 12),
        ("the answer is 5? no.\n</think>\n\n12", 12),
        ("<thinking>5</thinking>\n**Answer**: 12", 12),
        ("<think>Q: 3?\nA: 4</think> The answer is 12.", 12),
        ("<think>The answer is 5.", None),
        ("<think>a</think>12<think>the answer is 5", None),
        ("<think>the answer is 5</think>", None),
    ],
    "next example": [
        ("The answer is 18.\n\n### Question: foo\nThe answer is 20", 18),
        ("The answer is 18.\n\nProblem 2: foo\nThe answer is 20", 18),
        ("The answer is 18.\n**Question 2:** foo\nThe answer is 20", 18),
        ("The answer is 18.\nHuman: and 4 + 4?\nThe answer is 8", 18),
        ("The answer is 18.\nUser: and 4 + 4?\nAssistant: The answer is 8", 18),
        ("The answer is 18. [INST] and 4 + 4? [/INST] The answer is 8", 18),
        ("The answer is 18.<|im_end|>\n<|im_start|>user\nThe answer is 8", 18),
        ("The answer is 18.<|eot_id|><|start_header_id|>user<|end_header_id|>The answer is 8", 18),
        ("The answer is 18.\n\n### Response\nThe answer is 20", 18),
        ("The answer is 18.\nExample 2\nThe answer is 20", 18),
        ("<|im_start|>assistant\nThe answer is 18.", 18),
        ("Question: 9 + 9?\nThe answer is 18.", 18),
        ("So she has 18.\n\nQ: 3?", 18),
    ],
    "end mark": [
        ("The answer is 18.</s> The answer is 20", 18),
        ("The answer is 18.<|endoftext|>The answer is 20", 18),
        ("The answer is 18.<end_of_turn>\nThe answer is 20", 18),
        ("</s>The answer is 18.", 18),
    ],
    "continued calculation": [
        ("Therefore, the answer is $5 + $7 = \n\n$12", 12),
        ("The answer is 20% of $50", None),
        ("The answer is 5 more than 7", None),
        ("score = 24 + 8\n\nscore = 32 points", 32),
        ("8 * 3 = <<8*3=24>>24 apples\nSo 24 - 4 = <<24-4=20>>20 apples are left", 20),
    ],
}  # fmt: skip

OPTIONS = {"A": "3", "B": "15", "C": "20", "D": "9"}
LETTERS = {
    "opening": [
        ("B. 15", "B"),
        ("B: 15", "B"),
        ("B) 15", "B"),
        ("(B) 15.", "B"),
        ("B. Because (A) is too small.", "B"),
        ("**B.** 15", "B"),
        ("B\n\n(A) is too small.", "B"),
        ("C\nOption (D) is wrong.", "C"),
        ("(b)", "B"),
        ("b", "B"),
        ("'B'", "B"),
        ("A: We add them.", None),
        ("A. 3\nB. 15\nC. 20", None),
        ("(A) 3, (B) 15, (C) 20", None),
        ("B. Franklin was a printer", None),
    ],
    "statement": [
        ("The answer is most likely B", "B"),
        ("The answer is probably (C).", "C"),
        ("The answer is 'B'", "B"),
        ('The answer is "B".', "B"),
        ("**Answer**: B", "B"),
        ("**Final Answer:**\nB", "B"),
        ("<answer>B</answer>", "B"),
        ("The answer (a letter) is B", "B"),
        ("#### B", "B"),
        ("The answer is B's", None),
        ("The answer is (A) or (B).", None),
    ],
    "rejected": [
        ("Option (A) is the best answer because it is dry. Option (B) is not.", "A"),
        ("Option (B) is not the best answer. Option (C) is the best answer.", "C"),
        ("(A) is too small.", None),
        ("(A) is too small, (B) too large", None),
        ("Not (A).", None),
        ("(A) doesn't fit. So it is (B).", "B"),
        ("We can eliminate (C).", None),
        ("B is not correct", None),
        ("C is the correct choice; A isn't.", "C"),
    ],
    "self-correction": [
        ("The answer is B. Actually, it should be C.", "C"),
        ("The answer is B. Wait, that's wrong. It is (C).", "C"),
        ("The answer is B. Oops.", None),
        ("The answer is B, no, it is C.", "C"),
        ("The answer is B. Actually, 15 is 3 * 5.", "B"),
    ],
    "thought": [
        ("<think>\nMaybe the correct answer is (A). But\n</think>\n\n(B) 15", "B"),
        ("<think>(A)", None),
        ("The answer is B.\nProblem 2: foo\nThe answer is C", "B"),
        ("The answer is B.</s>The answer is C", "B"),
    ],
}

WORDS = [
    ("boolean", "It isn't true.", None),
    ("boolean", "It isn’t true", None),
    ("boolean", "It is not quite true.", None),
    ("boolean", "It is never false", None),
    ("boolean", "**Answer**: False", "false"),
    ("boolean", "The answer is not true, it is false.", "false"),
    ("boolean", "<think>true</think>false", "false"),
    ("boolean", "True. Salt dissolves.", "true"),
    ("option", "Option 1 is wrong.", None),
    ("option", "Option 1 cannot be right", None),
    ("option", "option1 is too cold", None),
    ("option", "Option 1. It is dry.", "option1"),
    ("solution", "solution2 isn't safe", None),
    ("answer", "The answer is answer2. Wait, it should be answer3.", "answer3"),
    ("ending", "### Final Answer\nending3", "ending3"),
]


def flatten(kinds):
    return [
        pytest.param(*case, id=f"{kind}-{number}")
        for kind, cases in kinds.items()
        for number, case in enumerate(cases)
    ]


@pytest.mark.parametrize(("text", "expected"), flatten(NUMBERS))
def test_a_number_is_what_the_text_says(text, expected):
    parsed = parse(text, form="number", parser="strict")
    assert parsed is None if expected is None else parsed == pytest.approx(expected)


@pytest.mark.parametrize(("text", "expected"), flatten(LETTERS))
def test_a_letter_is_what_the_text_says(text, expected):
    assert parse(text, form="letter", parser="strict", choices=OPTIONS) == expected


@pytest.mark.parametrize(("form", "text", "expected"), WORDS)
def test_a_label_is_what_the_text_says(form, text, expected):
    assert parse(text, form=form, parser="strict") == expected
