"""The comparison of a rebuilt dataset with the published one, on invented rows and on the real files."""

import gzip
import json
from pathlib import Path

import pytest

from pipeline.commands.app import run_command
from pipeline.data.compare import compare_rows, format_data_comparison, read_raw_rows
from pipeline.data.rows import RawFile


def row(question: str, answer: str = "1", output: str = "o") -> dict[str, str]:
    return {"instruction": question, "input": "", "output": output, "answer": answer}


def different_fields(rebuilt: dict[str, str], published: dict[str, str]) -> list[str]:
    comparison = compare_rows([rebuilt], [published])
    assert (comparison["equal"], comparison["missing"], comparison["extra"]) == (0, [], [])
    return comparison["differ"][0][2]


def test_equal_rows_are_counted_in_any_order():
    first, second, third = row("a"), row("b"), row("c")
    comparison = compare_rows([first, second, third], [first, third, second])
    assert (comparison["equal"], comparison["in_place"]) == (3, 1)
    assert (comparison["differ"], comparison["missing"], comparison["extra"]) == ([], [], [])


def test_missing_and_extra_rows_are_listed():
    comparison = compare_rows([row("a"), row("b")], [row("c"), row("a"), row("d")])
    assert (comparison["equal"], comparison["missing"], comparison["extra"]) == (1, [0, 2], [1])


def test_repeated_rows_are_equal_as_often_as_both_have_them():
    comparison = compare_rows([row("a")] * 3, [row("a")] * 2)
    assert (comparison["equal"], comparison["missing"], comparison["extra"]) == (2, [], [2])


def test_repeated_questions_are_paired_in_their_order():
    ours = [row("a", "1"), row("a", "2"), row("a", "3")]
    theirs = [row("a", "2"), row("a", "8"), row("a", "9")]
    comparison = compare_rows(ours, theirs)
    assert comparison["equal"] == 1
    assert [pair[:2] for pair in comparison["differ"]] == [(0, 1), (2, 2)]


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"answer": "2"}, ["answer"]),
        ({"answer": "1.0"}, ["answer (the same number)"]),
        ({"output": "p"}, ["output"]),
        ({"output": ""}, ["output (empty in one)"]),
        ({"output": None}, ["output (missing in one)"]),
        ({"output": 0}, ["output"]),
        ({"answer": "1,0"}, ["answer"]),
        ({"instruction": " what  is it ?"}, ["instruction (white space)"]),
        ({"instruction": "What is it."}, ["instruction"]),
        ({"instruction": "what", "input": "is it?", "answer": "7"}, ["instruction", "input", "answer"]),
    ],
)
def test_different_fields_are_listed(change, fields):
    listed = different_fields(row("what is it?"), row("what is it?") | change)
    assert [field.replace("input (empty in one)", "input") for field in listed] == fields


def test_the_printed_comparison_groups_rows_by_different_fields():
    ours = [row(str(number), "1") for number in range(9)]
    text = format_data_comparison(compare_rows(ours, [rebuilt | {"answer": "2"} for rebuilt in ours[:7]]))
    assert "7 in answer: rows 0/0, 1/1, 2/2, 3/3, 4/4, ...\n" in text
    assert "extra   2 only in the rebuilt set: rows 7, 8" in text


def test_files_and_cards_are_compared_from_the_terminal(capsys, tmp_path, monkeypatch):
    (tmp_path / "one.jsonl").write_text(json.dumps(row("a")) + "\n")
    with gzip.open(tmp_path / "two.json.gz", "wt") as file:
        file.write(json.dumps([row("b", "5")]))
    (tmp_path / "both.json").write_text(json.dumps([row("b", "5"), row("a")]))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipeline.commands.app.project_root", lambda: tmp_path)
    assert run_command(["compare-data", "both.json", "one.jsonl", "two.json.gz", "--json"]) == 0
    comparison = json.loads(capsys.readouterr().out)
    assert (comparison["equal"], comparison["in_place"]) == (2, 0)
    assert (comparison["missing"], comparison["extra"]) == ([], [])
    assert run_command(["compare-data", "world-svamp", "world-svamp"]) == 0
    assert "equal   150 (150 of them in the same place)" in capsys.readouterr().out
    assert run_command(["compare-data", "both.json", "three.json"]) == 1
    assert "three.json: no such file" in capsys.readouterr().err


def test_rows_that_a_card_lists_as_malformed_are_not_compared(tmp_path):
    lines = [json.dumps(row("a")), "17", json.dumps(row("b"))]
    (tmp_path / "raw.jsonl").write_text("\n".join(lines) + "\n")
    file = RawFile("d", "test", tmp_path / "raw.jsonl", "number", known_malformed=[1])
    assert read_raw_rows([file]) == [row("a"), row("b")]


def count_differences(capsys, published: Path, *rebuilt: Path) -> tuple[int, int, int, int, dict[str, int]]:
    assert run_command(["compare-data", str(published), *map(str, rebuilt), "--json"]) == 0
    comparison = json.loads(capsys.readouterr().out)
    kinds: dict[str, int] = {}
    for _, _, fields in comparison["differ"]:
        kinds[", ".join(fields)] = kinds.get(", ".join(fields), 0) + 1
    return (
        comparison["equal"],
        comparison["in_place"],
        len(comparison["missing"]),
        len(comparison["extra"]),
        kinds,
    )


def test_the_figures_of_the_documentation(shared, capsys):
    real = shared / "data" / "real"
    equal_number, spaced = "answer (the same number)", "instruction (white space)"
    tests = [
        real / name / "test.jsonl.gz"
        for name in ["MultiArith", "gsm8k", "AddSub", "AQuA", "SingleEq", "SVAMP"]
    ]
    tests_in_training_set = count_differences(
        capsys, real / "math_data_v1_LEAKS_TESTS/train.jsonl.gz", *tests
    )
    assert tests_in_training_set == (3260, 0, 0, 816, {})
    part = real / "derived/math_10k_partial/train_2120.jsonl.gz"
    sources = [real / "raw" / name for name in ("gsm8k/train.jsonl.gz", "mawps/trainset.json.gz")]
    kinds = {f"{spaced}, output, {equal_number}": 1901, f"{spaced}, output": 172}
    assert count_differences(capsys, part, *sources) == (0, 0, 47, 7298, kinds)
    sources.append(real / "raw/mawps-single/trainset.json.gz")
    assert count_differences(capsys, part, *sources)[:4] == (0, 0, 0, 8840)
    svamp = count_differences(capsys, real / "SVAMP/test.jsonl.gz", real / "raw/SVAMP/SVAMP.json.gz")
    assert svamp == (0, 0, 0, 0, {"output": 1000})
    aqua = count_differences(capsys, real / "AQuA/test.jsonl.gz", real / "raw/AQuA/test.jsonl.gz")
    assert aqua == (0, 0, 0, 0, {"output": 244, f"{spaced}, output": 10})
    hellaswag = real / "derived/hellaswag/test_partial.jsonl.gz"
    original = real / "raw/hellaswag/rubriks_val_1000.jsonl.gz"
    assert count_differences(capsys, hellaswag, original) == (1000, 1000, 451, 0, {})
