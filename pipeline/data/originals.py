"""Rows as the authors of a dataset publish them, converted to the instruction format; their columns show the dataset.

The commonsense sets get the wording of LLM-Adapters' files, so that a converted set is the published file, byte for byte
(``published_bytes``).
"""

import json
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from pipeline.core.numbers import is_gold_number
from pipeline.data.parsing import report_malformed
from pipeline.data.rows import InstructionRow, SourceRow, read_text

_CALCULATION = re.compile(r"<<[^>]*>>")


def to_instruction_row(row: SourceRow) -> SourceRow:
    """Return a row in the instruction format; a row of an unknown dataset, or with an instruction, is returned unchanged.

    Raises:
        ValueError: the columns are those of a known dataset, but the values cannot be converted.
    """
    if "instruction" in row:
        return row
    for columns, convert in CONVERTERS:
        if columns <= row.keys():
            try:
                return convert(row)
            except (TypeError, KeyError, IndexError) as error:
                names = ", ".join(sorted(columns))
                raise ValueError(f"has the columns {names}, but unexpected values ({error})") from None
    return row


def to_instruction_rows(
    rows: Iterable[Any], *, name: str, known_malformed: Collection[int] = ()
) -> list[Any]:
    """Return rows in the instruction format (see ``to_instruction_row``).

    Args:
        rows: as a source has them.
        name: of the dataset, for the messages.
        known_malformed: numbers of rows, counted from 0, that are returned unchanged.

    Raises:
        UserError: rows cannot be converted.
    """
    converted, malformed = [], {}
    for number, row in enumerate(rows):
        try:
            converted.append(row if number in known_malformed else to_instruction_row(row))
        except ValueError as error:
            malformed[number] = str(error)
    report_malformed(malformed, name=name)
    return converted


def published_bytes(rows: Sequence[object]) -> bytes:
    """Return the file that LLM-Adapters publishes of these rows: one JSON array, indented by 4, in ASCII."""
    return json.dumps(rows, indent=4).encode()


def convert_gsm8k(row: SourceRow) -> InstructionRow:
    """Convert a GSM8K row (question; answer with <<calculations>> and "#### result").

    Source: openai/grade-school-math at commit 3101c7d50724.
    """
    steps, mark, result = (read_text(row, "answer") or "").rpartition("####")
    if not mark:
        raise ValueError("'answer' has no '####' before its result")
    result = result.strip()
    # another comma stays, and is malformed in a record
    result = result.replace(",", "") if is_gold_number(result) else result
    output = f"{_CALCULATION.sub('', steps).strip()}\nThe answer is {result}."
    return {"instruction": _present_text(row, "question"), "input": "", "output": output, "answer": result}


def convert_word_problem(row: SourceRow) -> InstructionRow:
    """Convert a row of MAWPS (original_text, ans), MAWPS-single (sQuestion, lSolutions) or SVAMP (Body, Question, Answer).

    There is no worked solution, so the response only states the answer, in the closing words of the GSM8K rows. AddSub,
    MultiArith and SingleEq have the columns of MAWPS-single.

    Source: LYH-YF/MWPToolkit at commit a21ca1a659f1, dataset/mawps and dataset/mawps-single; arkilpatel/SVAMP at commit
    689d7ccac74b.
    """
    if "Body" in row:
        body, answer = _present_text(row, "Body").strip(), _present_text(row, "Answer")
        question = f"{body}{'' if body.endswith('.') else '.'} {_present_text(row, 'Question')}"
    elif "sQuestion" in row:
        question, solutions = _present_text(row, "sQuestion"), row["lSolutions"]
        if not isinstance(solutions, list) or len(solutions) != 1:
            raise ValueError(f"'lSolutions' is {solutions}, not a list of one number")
        answer = _present_text({"lSolutions": solutions[0]}, "lSolutions")
    else:
        question, answer = _present_text(row, "original_text"), _present_text(row, "ans")
    return {
        "instruction": question.strip(),
        "input": "",
        "output": f"The answer is {answer}.",
        "answer": answer,
    }


def convert_aqua(row: SourceRow) -> InstructionRow:
    """Convert an AQuA row (question, options, rationale, correct); the options follow the question as in the published file.

    Source: google-deepmind/AQuA at commit 26b64ed1f222; AGI-Edgerunners/LLM-Adapters at commit 8166572.
    """
    options = [re.sub(r"^([A-E])\)", r"(\1) ", option) for option in _option_texts(row, "options")]
    return {
        "instruction": f"{_present_text(row, 'question')} Answer Choices: {' '.join(options)}",
        "input": "",
        "output": read_text(row, "rationale"),
        "answer": _present_text(row, "correct"),
    }


def convert_boolq(row: SourceRow) -> InstructionRow:
    """Convert a BoolQ row (question without question mark, passage, answer); the published files omit the passage."""
    if not isinstance(row["answer"], bool):
        raise ValueError(f"'answer' is {row['answer']!r}, not true or false")
    request = f"Please answer the following question with true or false, question: {_present_text(row, 'question')}?"
    return _published_row(
        f"{request}\n\nAnswer format: true/false", answer="true" if row["answer"] else "false"
    )


def convert_piqa(row: SourceRow) -> InstructionRow:
    """Convert a PIQA row (goal, sol1, sol2, label 0 or 1)."""
    request = f"Please choose the correct solution to the question: {_present_text(row, 'goal')}"
    solutions = f"Solution1: {_present_text(row, 'sol1')}\n\nSolution2: {_present_text(row, 'sol2')}"
    answer = _numbered_label("solution", row["label"], first=0, count=2)
    return _published_row(f"{request}\n\n{solutions}\n\nAnswer format: solution1/solution2", answer=answer)


def convert_social_i_qa(row: SourceRow) -> InstructionRow:
    """Convert a SIQA row (context, question, answerA to answerC, label 1 to 3)."""
    question = f"{_present_text(row, 'context')} {_present_text(row, 'question')}"
    return _multiple_choice_row(
        f"Please choose the correct answer to the question: {question}",
        options=[_present_text(row, f"answer{letter}") for letter in "ABC"],
        answer=_numbered_label("answer", row["label"], first=1, count=3),
    )


def convert_hellaswag(row: SourceRow) -> InstructionRow:
    """Convert a HellaSwag row (activity_label, ctx, endings, label 0 to 3); its [markers] stay."""
    request = "Please choose the correct ending to complete the given sentence"
    return _multiple_choice_row(
        f"{request}: {_present_text(row, 'activity_label')}: {_present_text(row, 'ctx')}",
        options=_option_texts(row, "endings"),
        answer=_numbered_label("ending", row["label"], first=0, count=4),
    )


def convert_winogrande(row: SourceRow) -> InstructionRow:
    """Convert a WinoGrande row (sentence with a blank, option1, option2, answer 1 or 2)."""
    request = "Please choose the correct answer to fill in the blank to complete the given sentence"
    options = f"Option1: {_present_text(row, 'option1')} Option2: {_present_text(row, 'option2')}"
    return _published_row(
        f"{request}: {_present_text(row, 'sentence')}\n\n{options} Answer format: option1/option2",
        answer=_numbered_label("option", row["answer"], first=1, count=2),
    )


def convert_science_question(row: SourceRow) -> InstructionRow:
    """Convert a row of ARC (question) or OBQA (question_stem) with choices (text, label) and answerKey."""
    labels, options = row["choices"]["label"], _option_texts(row["choices"], "text")
    if row["answerKey"] not in labels:
        raise ValueError(f"'answerKey' is {row['answerKey']!r}, not one of {'/'.join(labels)}")
    question = _present_text(row, "question_stem" if "question_stem" in row else "question")
    return _multiple_choice_row(
        f"Please choose the correct answer to the question: {question}",
        options=options,
        answer=f"answer{labels.index(row['answerKey']) + 1}",
    )


def _multiple_choice_row(request: str, *, options: Sequence[str], answer: str) -> InstructionRow:
    """Return the published row of a question whose options are labelled by the stem of its answer, such as "ending"."""
    stem = answer.rstrip("0123456789")
    listed = " ".join(f"{stem.title()}{number}: {option}" for number, option in enumerate(options, 1))
    labels = "/".join(f"{stem}{number}" for number in range(1, len(options) + 1))
    return _published_row(f"{request}\n\n{listed}\n\nAnswer format: {labels}", answer=answer)


def _present_text(row: SourceRow, key: str) -> str:
    text = read_text(row, key)
    if text is None:
        raise ValueError(f"'{key}' is missing")
    return text


def _option_texts(row: SourceRow, key: str) -> list[str]:
    """Return a list of texts; a single text would count as a list of its characters."""
    if not isinstance(row[key], list):
        raise ValueError(f"'{key}' is a {type(row[key]).__name__}, not a list of texts")
    return [_present_text({key: text}, key) for text in row[key]]


def _numbered_label(stem: str, value: Any, *, first: int, count: int) -> str:
    """Return the label of the option ``value``, where the authors number ``count`` options from ``first`` on."""
    try:
        number = int(value) - first + 1
    except (TypeError, ValueError):
        number = 0
    if not 1 <= number <= count:
        raise ValueError(f"the answer is {value!r}, not one of {first} to {first + count - 1}")
    return f"{stem}{number}"


def _published_row(instruction: str, *, answer: str) -> InstructionRow:
    return {
        "instruction": instruction,
        "input": "",
        "output": f"the correct answer is {answer}",
        "answer": answer,
    }


# Of two datasets that share columns, the one with more columns comes first.
CONVERTERS: tuple[tuple[set[str], Callable[[SourceRow], InstructionRow]], ...] = (
    ({"question", "passage", "answer"}, convert_boolq),
    ({"goal", "sol1", "sol2", "label"}, convert_piqa),
    ({"context", "question", "answerA", "answerB", "answerC", "label"}, convert_social_i_qa),
    ({"activity_label", "ctx", "endings", "label"}, convert_hellaswag),
    ({"sentence", "option1", "option2", "answer"}, convert_winogrande),
    ({"question", "choices", "answerKey"}, convert_science_question),
    ({"question_stem", "choices", "answerKey"}, convert_science_question),
    ({"question", "options", "correct"}, convert_aqua),
    ({"original_text", "ans"}, convert_word_problem),
    ({"sQuestion", "lSolutions"}, convert_word_problem),
    ({"Body", "Question", "Answer"}, convert_word_problem),
    ({"question"}, convert_gsm8k),
)
