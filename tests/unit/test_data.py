"""Fetch, rows, prompts and audit: what comes out, and what bad input is told."""

import functools
import gzip
import http.server
import json
import threading
from pathlib import Path

import pytest

from pipeline.audit import overlap
from pipeline.data.fetch import fetch
from pipeline.data.rows import choices_of, records
from pipeline.errors import UserError
from pipeline.io import read_jsonl
from pipeline.params import PARAMS, read_card
from pipeline.prompts import build_prompt, read_prompts, write_prompts
from pipeline.study import load_study

ROWS = [
    {"instruction": f"What is {n} + 1?", "input": "", "output": f"It is {n + 1}.", "answer": str(n + 1)}
    for n in range(9)
]


def card(tmp_path: Path, *, rows: int | None = 9, sha256: str | None = None, **source) -> dict:
    whole = {
        "kind": "local",
        "path": "a.jsonl",
        "url": "",
        "format": "jsonl",
        "sha256": None,
        "git_blob": None,
        **source,
    }
    return {"dataset": "sums", "splits": {"test": {"rows": rows, "sha256": sha256, "sources": [whole]}}}


def write(tmp_path: Path, text: str | None = None) -> None:
    (tmp_path / "a.jsonl").write_text(
        text if text is not None else "".join(json.dumps(row) + "\n" for row in ROWS)
    )


def refused(given: dict, tmp_path: Path) -> str:
    with pytest.raises(UserError) as caught:
        fetch(given, "test", output=tmp_path / "out.jsonl", data_root=tmp_path)
    assert not (tmp_path / "out.jsonl").exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_fetch_writes_the_rows_of_a_local_file(tmp_path):
    write(tmp_path)
    fetch(card(tmp_path), "test", output=tmp_path / "out.jsonl", data_root=tmp_path)
    assert read_jsonl(tmp_path / "out.jsonl") == ROWS


def test_wrong_row_count_names_both(tmp_path):
    write(tmp_path)
    message = refused(card(tmp_path, rows=10), tmp_path)
    assert "9 rows" in message
    assert "10" in message


def test_wrong_sum_names_both(tmp_path):
    write(tmp_path)
    message = refused(card(tmp_path, sha256="0" * 64), tmp_path)
    assert "0" * 64 in message
    assert message.count("sha256") == 1


def test_malformed_row_names_file_and_row(tmp_path):
    write(tmp_path, '{"a": 1}\n{"a": \n')
    message = refused(card(tmp_path), tmp_path)
    assert "a.jsonl" in message
    assert "row 1" in message


def test_empty_file_is_refused(tmp_path):
    write(tmp_path, "")
    assert "no rows" in refused(card(tmp_path), tmp_path)


def test_damaged_gzip_is_refused(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"x" * 1000)[:-9])
    assert "damaged gzip" in refused(card(tmp_path, path="a.jsonl.gz"), tmp_path)


def test_missing_file_says_what_to_give(tmp_path):
    message = refused(card(tmp_path, path="absent.jsonl"), tmp_path)
    assert "absent.jsonl" in message
    assert "data_root" in message


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("ADAPTER_STUDIES_CACHE", str(tmp_path / "cache"))
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "a.json").write_text(json.dumps(ROWS))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "served")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_url_gives_the_same_file_as_a_local_copy(tmp_path, server, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    given = card(tmp_path, kind="url", path="", url=f"{server}/a.json", format="json")
    fetch(given, "test", output=tmp_path / "out.jsonl", data_root=None)
    assert read_jsonl(tmp_path / "out.jsonl") == ROWS


def test_wrong_git_blob_is_refused(tmp_path, server, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    given = card(tmp_path, kind="url", path="", url=f"{server}/a.json", format="json", git_blob="1" * 40)
    assert "1" * 40 in refused(given, tmp_path)


def test_absent_url_and_offline_are_one_line(tmp_path, server, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE" in refused(card(tmp_path, kind="url", path="", url=f"{server}/a.json"), tmp_path)


def test_all_malformed_rows_are_counted_and_named():
    rows = [
        {"instruction": "q", "answer": "1"},
        {"instruction": "", "answer": "1"},
        {"instruction": "q", "answer": "x"},
    ]
    with pytest.raises(UserError) as caught:
        list(records(rows, task="t", split="test", answer_form="number"))
    assert "2 malformed" in str(caught.value)
    assert "row 1: 'instruction'" in str(caught.value)
    assert "row 2: answer 'x'" in str(caught.value)


def malformed_files(tmp_path: Path) -> dict[str, dict]:
    lines = [json.dumps(row) for row in ROWS]
    lines[2], lines[5] = '{"instruction": ', "17"
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    (tmp_path / "a.json").write_text(json.dumps([*ROWS[:2], ["a list"], *ROWS[3:5], 17, *ROWS[6:]]))
    return {"jsonl": card(tmp_path), "json": card(tmp_path, path="a.json", format="json")}


@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_all_rows_that_are_no_objects_are_reported(tmp_path, capsys, kind):
    message = refused(malformed_files(tmp_path)[kind], tmp_path)
    assert "2 malformed rows: row 2" in message
    told = capsys.readouterr().err.splitlines()
    assert [line.rpartition(": row ")[2][0] for line in told] == ["2", "5"]


def test_every_malformed_row_is_reported_however_many(tmp_path, capsys):
    rows = [{"instruction": "q", "answer": "x"}] * 700
    with pytest.raises(UserError, match="700 malformed"):
        list(records(rows, task="t", split="test", answer_form="number"))
    assert len(capsys.readouterr().err.splitlines()) == 700


@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_malformed_rows_that_the_card_lists_are_left_out_and_the_others_keep_their_ids(tmp_path, kind):
    given = malformed_files(tmp_path)[kind]
    given["splits"]["test"]["known_malformed"] = [2, 5]
    fetch(given, "test", output=tmp_path / "raw.jsonl", data_root=tmp_path)
    source = {"dataset": "sums", "split": "test", "path": tmp_path / "raw.jsonl", "answer_form": "number"}
    to = {"template": "strict", "output": tmp_path / "p.parquet", "limit": None, "sample_seed": 0}
    write_prompts([{**source, "known_malformed": [2, 5]}], **to)
    ids = [int(row["id"].rpartition("/")[2]) for row in read_prompts(tmp_path / "p.parquet")]
    assert ids == [0, 1, 3, 4, 6, 7, 8]
    with pytest.raises(UserError, match="1 malformed rows: row 5"):
        write_prompts([{**source, "known_malformed": [2]}], **to)


def test_a_sound_row_in_the_list_of_malformed_ones_is_an_error():
    with pytest.raises(UserError, match="lists row 0, which is well-formed"):
        list(records(ROWS[:1], task="t", split="test", answer_form="number", known_malformed=[0]))


def test_a_list_of_malformed_rows_changes_the_prompts_name_and_its_absence_does_not(monkeypatch):
    def named() -> str:
        return (
            load_study("quickstart").prompts("world-svamp", "test", template="strict", limit=None).fingerprint
        )

    before, known = named(), read_card("datasets", "world-svamp")
    split = known.splits["test"].model_copy(update={"known_malformed": [3]})
    changed = known.model_copy(update={"splits": {"test": split}})
    monkeypatch.setattr(
        "pipeline.study.read_card",
        lambda kind, name: changed if name == "world-svamp" else read_card(kind, name),
    )
    assert named() != before


@pytest.mark.parametrize("answer", ["nan", "inf", "x", ""])
def test_what_is_no_number_is_malformed(answer):
    with pytest.raises(UserError, match="row 0"):
        list(records([{"instruction": "q", "answer": answer}], task="t", split="s", answer_form="number"))


def test_half_a_character_is_malformed_and_not_a_crash(tmp_path):
    write(tmp_path, '{"instruction": "\\ud800", "answer": "1"}\n')
    assert "row 0: holds half of a surrogate pair" in refused(card(tmp_path), tmp_path)


def test_free_text_needs_an_output_and_has_no_answer():
    rows = [{"instruction": "write", "input": "a", "output": "b"}, {"instruction": "write", "output": ""}]
    made = records(rows, task="t", split="s", answer_form="text")
    assert next(made) | {"id": ""} == {
        "id": "",
        "task": "t",
        "instruction": "write",
        "input": "a",
        "response": "b",
        "answer": "",
        "choices": [],
        "answer_form": "text",
    }
    with pytest.raises(UserError, match="row 1: 'output'"):
        next(made)


def test_rows_of_mawps_and_mawps_single_become_questions_with_answers():
    rows = [
        {"original_text": "How many ?", "equation": "x=1+1", "ans": 2.0},
        {"sQuestion": " How many? ", "lSolutions": [3.0]},
    ]
    made = list(records(rows, task="t", split="s", answer_form="number"))
    assert [(one["instruction"], one["answer"]) for one in made] == [
        ("How many ?", "2.0"),
        ("How many?", "3.0"),
    ]
    with pytest.raises(UserError, match="not one number"):
        list(records([{"sQuestion": "q", "lSolutions": [1, 2]}], task="t", split="s", answer_form="number"))


def test_label_outside_the_choices_is_malformed():
    row = {"instruction": "q Answer format: answer1/answer2/answer3", "answer": "answer4"}
    with pytest.raises(UserError, match="answer4"):
        list(records([row], task="t", split="test", answer_form="answer"))


def test_choices_are_those_that_the_question_offers():
    assert choices_of("q\n\nAnswer format: answer1/answer2/answer3", "answer") == (
        "answer1",
        "answer2",
        "answer3",
    )
    assert choices_of("q? (A) 1 (B) 2 (C) 3 (D) 4", "letter") == ("A", "B", "C", "D")


def test_gsm8k_solutions_lose_their_calculator_marks():
    row = {"question": "q", "answer": "2+3 = <<2+3=5>>5\n#### 1,005"}
    (made,) = records([row], task="gsm8k", split="train", answer_form="number")
    assert made["response"] == "2+3 = 5\nThe answer is 1005."
    assert made["answer"] == "1005"


def test_published_templates_are_kept_byte_by_byte(shared):
    cases = json.loads((shared / "golden" / "prompts.json").read_text())["cases"]
    for case in cases:
        sample = case["sample"]
        question = sample["instruction"], sample["input"]
        assert (
            build_prompt(*question, template="paper-train", response=sample["output"]) == case["train_prompt"]
        )
        assert build_prompt(*question, template="paper-train") == case["train_prompt_empty_output"]
        assert build_prompt(*question, template="paper-eval") == case["eval_prompt"]


def test_braces_in_a_question_stay():
    assert "{input} {x}" in build_prompt("{input} {x}", "ctx", template="strict")


def test_unknown_template_names_the_choices():
    with pytest.raises(UserError, match="paper-train"):
        build_prompt("q", template="papper")


def prompts_of(tmp_path: Path, limit: int | None, seed: int = 0) -> list[dict]:
    write(tmp_path)
    source = {"dataset": "sums", "split": "test", "path": tmp_path / "a.jsonl", "answer_form": "number"}
    write_prompts([source], template="strict", output=tmp_path / "p.parquet", limit=limit, sample_seed=seed)
    return read_prompts(tmp_path / "p.parquet")


def test_prompts_hold_records_and_text(tmp_path):
    rows = prompts_of(tmp_path, None)
    assert [row["id"] for row in rows] == [f"sums/test/{n}" for n in range(9)]
    assert rows[3]["prompt"].endswith("What is 3 + 1?\n\n### Response:\n")
    assert rows[3]["response"] == "It is 4."


def test_a_sample_is_seeded_and_in_file_order(tmp_path):
    first, again, other = (prompts_of(tmp_path, 4, seed) for seed in (0, 0, 1))
    assert first == again != other
    assert [row["id"] for row in first] == sorted(row["id"] for row in first)


@pytest.mark.parametrize(("method", "found"), [("exact", [0]), ("number-masked", [0, 1]), ("8-gram", [0])])
def test_overlap_by_each_method(method, found):
    train = ["Tom has 3 apples and then he buys 4 more apples at the shop."]
    test = [
        train[0].upper(),
        train[0].replace("3", "5").replace("4", "6.5").replace("buys", "buys"),
        "Another one?",
    ]
    assert overlap(train, test, method=method) == found


def test_overlap_counts_of_the_real_sets(shared):
    table = json.loads((shared / "golden" / "contamination.json").read_text())["table"]
    real = shared / "data" / "real"

    def questions(path: str, *keys: str) -> list[str]:
        with gzip.open(real / path, "rt", encoding="utf-8") as file:
            text = file.read()
        rows = json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]
        return [next(str(row[key]) for key in keys if key in row) for row in rows]

    row = next(one for one in table if one["test"] == "MultiArith")
    train = questions("raw/mawps/trainset.json.gz", "original_text", "Question", "question", "sQuestion")
    test = questions("MultiArith/test.jsonl.gz", "instruction")
    assert len(overlap(train, test, method="exact")) == row["exact"]
    assert len(overlap(train, test, method="number-masked")) == row["number_masked"]
    assert len(overlap(train, test, method="8-gram")) == row["gram8_ge50pct"]


def local_files(shared: Path) -> list[tuple[str, str, Path]]:
    """Card, split and file of every local source that the shared data has."""
    found = []
    for path in sorted((PARAMS / "datasets").glob("*.yaml")):
        for split, described in read_card("datasets", path.stem).splits.items():
            places = [shared / "data" / "real" / one.path for one in described.sources if one.kind == "local"]
            found += [(path.stem, split, place) for place in places if place.is_file()]
    return found


def test_every_set_that_is_here_loads_and_has_no_malformed_row(shared, tmp_path):
    found = local_files(shared)
    for name, split, _ in found:
        one = read_card("datasets", name)
        given = {"dataset": name, **one.model_dump()}
        fetch(given, split, output=tmp_path / "x.jsonl", data_root=shared / "data" / "real")
        rows = read_jsonl(tmp_path / "x.jsonl")
        made = records(rows, task=name, split=split, answer_form=one.answer_form)
        assert sum(1 for _ in made) == one.splits[split].rows
    assert {name for name, _, _ in found} >= {"math_data", "mawps-single", "hellaswag-partial", "winogrande"}


def test_every_published_file_that_is_here_has_a_card(shared):
    real = shared / "data" / "real"
    files = {path for path in real.glob("*/*.jsonl.gz") if path.parent.name != "math_10k_partial"}
    assert files <= {path for _, _, path in local_files(shared)}


def test_part_of_a_set_does_not_pass_for_the_whole(shared, tmp_path):
    card = {"dataset": "hellaswag", **read_card("datasets", "hellaswag").model_dump()}
    part = {**card["splits"]["test"]["sources"][0], "path": "derived/hellaswag/test_partial.jsonl.gz"}
    part |= {"format": "jsonl", "git_blob": None}
    card["splits"]["test"]["sources"] = [part]
    with pytest.raises(UserError, match=r"1451 rows.*10042"):
        fetch(card, "test", output=tmp_path / "x.jsonl", data_root=shared / "data" / "real")


def test_aqua_as_its_authors_give_it_reads_as_the_published_test_file(shared):
    def rows(path: str) -> list[dict]:
        with gzip.open(shared / "data" / "real" / path, "rt", encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    def made(path: str) -> dict[str, str]:
        one = records(rows(path), task="aqua", split="test", answer_form="letter")
        return {"".join(record["instruction"].split()): record["answer"] for record in one}

    published, original = made("AQuA/test.jsonl.gz"), made("raw/AQuA/test.jsonl.gz")
    assert sum(original.get(question) == answer for question, answer in published.items()) >= 244
