"""Rows as the authors of a dataset give them, turned into the instruction format, each kind told by its columns.

The commonsense sets are put into the words of LLM-Adapters' files, so that a converted set is the published one, byte by
byte (``published_bytes``).
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

_WORKED = re.compile(r"<<[^>]*>>")


def instruction_row(row: Row) -> dict[str, Any]:
    """Return a row in the instruction format; one that is of no known kind, or has an instruction already, as it is.

    Raises:
        ValueError: the row is of a known kind, but cannot be converted; it says why.
    """
    if "instruction" in row:
        return dict(row)
    for keys, convert in CONVERTED:
        if keys <= row.keys():
            try:
                return convert(row)
            except (TypeError, KeyError, IndexError) as error:
                columns = ", ".join(sorted(keys))
                raise ValueError(f"has the columns {columns}, but not their values ({error})") from None
    return dict(row)


def published_bytes(rows: Sequence[Row]) -> bytes:
    """Return the file that LLM-Adapters publishes of these rows: one JSON array, indented by 4, ASCII."""
    return json.dumps(rows, indent=4).encode()


def worked_solution(row: Row) -> dict[str, Any]:
    """Turn a GSM8K row (question; answer with <<calculations>> and "#### result") into instruction, output, answer.

    Source: openai/grade-school-math at commit 3101c7d50724.
    """
    steps, mark, result = str(row.get("answer", "")).rpartition("####")
    if not mark:
        raise ValueError("'answer' has no '####' before its result")
    result = result.strip().replace(",", "")
    output = f"{_WORKED.sub('', steps).strip()}\nThe answer is {result}."
    return {"instruction": str(row["question"]), "input": "", "output": output, "answer": result}


def word_problem(row: Row) -> dict[str, Any]:
    """Turn a row of MAWPS (original_text, ans), MAWPS-single (sQuestion, lSolutions) or SVAMP (Body, Question, Answer).

    There is no worked solution: the response says the answer, in GSM8K's closing words. AddSub, MultiArith and SingleEq
    have MAWPS-single's columns.

    Source: LYH-YF/MWPToolkit at commit a21ca1a659f1, dataset/mawps and dataset/mawps-single; arkilpatel/SVAMP at commit
    689d7ccac74b.
    """
    if "Body" in row:
        body, answer = str(row["Body"]).strip(), row["Answer"]
        question = f"{body}{'' if body.endswith('.') else '.'} {row['Question']}"
    elif "sQuestion" in row:
        question, solutions = row["sQuestion"], row["lSolutions"]
        if not isinstance(solutions, list) or len(solutions) != 1:
            raise ValueError(f"'lSolutions' holds {solutions}, not one number")
        answer = solutions[0]
    else:
        question, answer = row["original_text"], row["ans"]
    return {
        "instruction": str(question).strip(),
        "input": "",
        "output": f"The answer is {answer}.",
        "answer": str(answer),
    }


def multiple_choice(row: Row) -> dict[str, Any]:
    """Turn an AQuA row (question, options, rationale, correct) into instruction, output, answer.

    The options stand behind the question as in the published test file.

    Source: google-deepmind/AQuA at commit 26b64ed1f222; AGI-Edgerunners/LLM-Adapters at commit 8166572.
    """
    options = [re.sub(r"^([A-E])\)", r"(\1) ", str(option)) for option in row["options"]]
    return {
        "instruction": f"{row['question']} Answer Choices: {' '.join(options)}",
        "input": "",
        "output": str(row.get("rationale") or ""),
        "answer": str(row["correct"]),
    }


def boolq(row: Row) -> dict[str, Any]:
    """Turn a BoolQ row (question without its mark, passage, answer) into a published one, which leaves the passage out."""
    if not isinstance(row["answer"], bool):
        raise ValueError(f"'answer' is {row['answer']!r}, not true or false")
    asked = f"Please answer the following question with true or false, question: {row['question']}?"
    return _published(f"{asked}\n\nAnswer format: true/false", "true" if row["answer"] else "false")


def piqa(row: Row) -> dict[str, Any]:
    """Turn a PIQA row (goal, sol1, sol2, label 0 or 1) into a published one."""
    asked = f"Please choose the correct solution to the question: {row['goal']}"
    solutions = f"Solution1: {row['sol1']}\n\nSolution2: {row['sol2']}"
    answer = _label("solution", row["label"], first=0, of=2)
    return _published(f"{asked}\n\n{solutions}\n\nAnswer format: solution1/solution2", answer)


def social_i_qa(row: Row) -> dict[str, Any]:
    """Turn a SIQA row (context, question, answerA to answerC, label 1 to 3) into a published one."""
    options = [row["answerA"], row["answerB"], row["answerC"]]
    answer = _label("answer", row["label"], first=1, of=3)
    return _listed("answer to the question", f"{row['context']} {row['question']}", "answer", options, answer)


def hellaswag(row: Row) -> dict[str, Any]:
    """Turn a HellaSwag row (activity_label, ctx, endings, label 0 to 3) into a published one; its [markers] stay."""
    answer = _label("ending", row["label"], first=0, of=4)
    asked = f"{row['activity_label']}: {row['ctx']}"
    return _listed("ending to complete the given sentence", asked, "ending", row["endings"], answer)


def winogrande(row: Row) -> dict[str, Any]:
    """Turn a WinoGrande row (sentence with a blank, option1, option2, answer 1 or 2) into a published one."""
    blank = "Please choose the correct answer to fill in the blank to complete the given sentence"
    options = f"Option1: {row['option1']} Option2: {row['option2']}"
    answer = _label("option", row["answer"], first=1, of=2)
    return _published(f"{blank}: {row['sentence']}\n\n{options} Answer format: option1/option2", answer)


def science_question(row: Row) -> dict[str, Any]:
    """Turn a row of ARC (question) or OBQA (question_stem), with choices (text, label) and answerKey, into a published one."""
    labels, options = row["choices"]["label"], row["choices"]["text"]
    if row["answerKey"] not in labels:
        raise ValueError(f"'answerKey' is {row['answerKey']!r}, none of {'/'.join(labels)}")
    asked = row["question_stem"] if "question_stem" in row else row["question"]
    answer = f"answer{labels.index(row['answerKey']) + 1}"
    return _listed("answer to the question", asked, "answer", options, answer)


def _listed(what: str, asked: str, word: str, options: Sequence[str], answer: str) -> dict[str, Any]:
    listed = " ".join(f"{word.title()}{number}: {option}" for number, option in enumerate(options, 1))
    labels = "/".join(f"{word}{number}" for number in range(1, len(options) + 1))
    return _published(
        f"Please choose the correct {what}: {asked}\n\n{listed}\n\nAnswer format: {labels}", answer
    )


def _label(word: str, value: Any, *, first: int, of: int) -> str:
    try:
        number = int(value) - first + 1
    except (TypeError, ValueError):
        number = 0
    if not 1 <= number <= of:
        raise ValueError(f"the answer is {value!r}, not one of {first} to {first + of - 1}")
    return f"{word}{number}"


def _published(instruction: str, answer: str) -> dict[str, Any]:
    return {
        "instruction": instruction,
        "input": "",
        "output": f"the correct answer is {answer}",
        "answer": answer,
    }


# Of two kinds that share columns the one with more stands first.
CONVERTED: tuple[tuple[set[str], Callable[[Row], dict[str, Any]]], ...] = (
    ({"question", "passage", "answer"}, boolq),
    ({"goal", "sol1", "sol2", "label"}, piqa),
    ({"context", "question", "answerA", "answerB", "answerC", "label"}, social_i_qa),
    ({"activity_label", "ctx", "endings", "label"}, hellaswag),
    ({"sentence", "option1", "option2", "answer"}, winogrande),
    ({"question", "choices", "answerKey"}, science_question),
    ({"question_stem", "choices", "answerKey"}, science_question),
    ({"question", "options", "correct"}, multiple_choice),
    ({"original_text", "ans"}, word_problem),
    ({"sQuestion", "lSolutions"}, word_problem),
    ({"Body", "Question", "Answer"}, word_problem),
    ({"question"}, worked_solution),
)
