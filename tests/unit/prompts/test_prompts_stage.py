"""Templates and the prompts stage: what its file contains, and which rows are refused."""

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import UserError
from pipeline.data.parsing import parse_rows
from pipeline.data.records import make_records
from pipeline.data.rows import RawFile
from pipeline.params.templates import build_prompt
from pipeline.prompts.write import read_prompts, write_prompts

ROWS = [
    {"instruction": f"What is {n} + 1?", "input": "", "output": f"It is {n + 1}.", "answer": str(n + 1)}
    for n in range(9)
]


def test_published_templates_are_reproduced_byte_for_byte(shared):
    cases = json.loads((shared / "golden" / "prompts.json").read_text())["cases"]
    for case in cases:
        sample = case["sample"]
        question = sample["instruction"], sample["input"]
        assert (
            build_prompt(*question, template="paper-train", response=sample["output"]) == case["train_prompt"]
        )
        assert build_prompt(*question, template="paper-train") == case["train_prompt_empty_output"]
        assert build_prompt(*question, template="paper-eval") == case["eval_prompt"]


def test_braces_in_a_question_are_kept():
    assert "{input} {x}" in build_prompt("{input} {x}", "ctx", template="strict")


def test_an_unknown_template_lists_the_choices():
    with pytest.raises(UserError, match="paper-train"):
        build_prompt("q", template="papper")


def write_and_read_prompts(
    tmp_path: Path, limit: int | None, seed: int = 0, rows: Sequence[dict] = ROWS, **options
) -> list[dict]:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = RawFile(dataset="sums", split="test", path=tmp_path / "a.jsonl", answer_form="number")
    output = tmp_path / "p.parquet"
    write_prompts([source], template="strict", output=output, limit=limit, sample_seed=seed, **options)
    return read_prompts(output)


def test_a_row_has_the_record_and_its_prompt(tmp_path):
    rows = write_and_read_prompts(tmp_path, None)
    assert [row["id"] for row in rows] == [f"sums/test/{n}" for n in range(9)]
    assert rows[3]["prompt"].endswith("What is 3 + 1?\n\n### Response:\n")
    assert rows[3]["response"] == "It is 4."


def test_a_sample_is_seeded_and_in_file_order(tmp_path):
    first, repeated, reseeded = (write_and_read_prompts(tmp_path, 4, seed) for seed in (0, 0, 1))
    assert first == repeated != reseeded
    assert [row["id"] for row in first] == sorted(row["id"] for row in first)


@pytest.mark.parametrize("change", [{"answer": None}, {"prompts": "more"}, {"id": None}])
def test_a_row_that_is_not_a_record_is_never_written(tmp_path, monkeypatch, change):
    monkeypatch.setattr(
        "pipeline.prompts.write.make_records",
        lambda rows, **options: ({**record, **change} for record in make_records(rows, **options)),
    )
    with pytest.raises(ValueError, match="not a record"):
        write_and_read_prompts(tmp_path, None)
    assert not (tmp_path / "p.parquet").exists()


def test_a_value_of_another_type_is_never_written(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "pipeline.prompts.write.make_records",
        lambda rows, **options: ({**record, "answer": 5} for record in make_records(rows, **options)),
    )
    with pytest.raises(pa.ArrowException):
        write_and_read_prompts(tmp_path, None)
    assert not (tmp_path / "p.parquet").exists()


def test_a_file_with_other_columns_is_not_a_prompts_file(tmp_path):
    pq.write_table(pa.table({"id": ["a"], "text": ["b"]}), tmp_path / "p.parquet")
    with pytest.raises(UserError, match=r"not a prompts file \(no column 'task'\)"):
        read_prompts(tmp_path / "p.parquet")


def test_ids_do_not_depend_on_the_format_of_the_source(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(ROWS))
    (tmp_path / "b.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS))
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "c.parquet")
    record_lists = [
        list(make_records(rows, task="sums", split="test", answer_form="number"))
        for rows in (
            parse_rows((tmp_path / "a.json").read_bytes(), format="json", name="a"),
            parse_rows((tmp_path / "b.jsonl").read_bytes(), format="jsonl", name="b"),
            pq.read_table(tmp_path / "c.parquet").to_pylist(),
        )
    ]
    assert record_lists[0] == record_lists[1] == record_lists[2]
    assert [record["id"] for record in record_lists[0]] == [f"sums/test/{number}" for number in range(9)]


def test_rows_are_written_in_batches(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.prompts.write.ROWS_IN_MEMORY", 4)
    assert len(write_and_read_prompts(tmp_path, None)) == 9
    groups = pq.read_metadata(tmp_path / "p.parquet")
    assert [groups.row_group(number).num_rows for number in range(groups.num_row_groups)] == [4, 4, 1]


def test_empty_responses_of_a_training_set_are_counted(tmp_path, capsys):
    rows = [{**row, "output": " " if number in (2, 5) else row["output"]} for number, row in enumerate(ROWS)]
    assert len(write_and_read_prompts(tmp_path, None, rows=rows, for_training=True)) == 9
    assert capsys.readouterr().err == f"{tmp_path / 'a.jsonl'}: 2 of 9 responses are empty\n"
    write_and_read_prompts(tmp_path, None, rows=rows)
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"output": ""}, "all 9 responses are empty"),
        ({"output": None}, "row 0: 'output' is missing"),
        ({"output": float("nan")}, "row 0: 'output' is missing"),
    ],
)
def test_a_training_set_without_responses_is_refused(tmp_path, change, message):
    rows = [{**row, **change} for row in ROWS]
    with pytest.raises(UserError, match=message):
        write_and_read_prompts(tmp_path, None, rows=rows, for_training=True)
    assert not (tmp_path / "p.parquet").exists()
    # as a test set it is fine
    assert {row["response"] for row in write_and_read_prompts(tmp_path, None, rows=rows)} == {""}
