"""The fetch stage: files that are accepted and files that are errors; all real files load."""

import csv
import datetime
import functools
import gzip
import http.server
import io
import json
import threading
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import UserError
from pipeline.core.io import read_jsonl
from pipeline.data.fetch import fetch_split
from pipeline.data.records import make_records
from pipeline.data.rows import RawFile
from pipeline.params.datasets import Dataset
from pipeline.params.reading import PARAMS, parse_card, read_card
from pipeline.prompts.write import read_prompts, write_prompts

ROWS = [
    {"instruction": f"What is {n} + 1?", "input": "", "output": f"It is {n + 1}.", "answer": str(n + 1)}
    for n in range(9)
]


def card(*, rows: int | None = 9, sha256: str | None = None, **changes) -> dict:
    """The card of a split with one source, a local file; ``changes`` are of the source."""
    source = {
        "kind": "local",
        "path": "a.jsonl",
        "url": "",
        "format": "jsonl",
        "sha256": None,
        "git_blob": None,
        **changes,
    }
    return {"rows": rows, "sha256": sha256, "sources": [source], "known_malformed": []}


def write(tmp_path: Path, text: str | None = None) -> None:
    (tmp_path / "a.jsonl").write_text(
        text if text is not None else "".join(json.dumps(row) + "\n" for row in ROWS)
    )


def fetch(card: dict, tmp_path: Path) -> list[dict]:
    fetch_split("sums", "test", card, output=tmp_path / "out.jsonl", data_root=tmp_path)
    return read_jsonl(tmp_path / "out.jsonl")


def fetch_error(card: dict, tmp_path: Path) -> str:
    with pytest.raises(UserError) as caught:
        fetch(card, tmp_path)
    assert not (tmp_path / "out.jsonl").exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_fetch_writes_the_rows_of_a_local_file(tmp_path):
    write(tmp_path)
    assert fetch(card(), tmp_path) == ROWS


def test_a_wrong_number_of_rows_is_an_error_with_both_numbers(tmp_path):
    write(tmp_path)
    message = fetch_error(card(rows=10), tmp_path)
    assert "9 rows" in message
    assert "10" in message


def test_a_wrong_checksum_is_an_error_with_both_checksums(tmp_path):
    write(tmp_path)
    message = fetch_error(card(sha256="0" * 64), tmp_path)
    assert "0" * 64 in message
    assert message.count("sha256") == 1


def test_a_malformed_row_is_an_error_with_file_and_row(tmp_path):
    write(tmp_path, '{"a": 1}\n{"a": \n')
    message = fetch_error(card(), tmp_path)
    assert "a.jsonl" in message
    assert "row 1" in message


def test_an_empty_file_is_an_error(tmp_path):
    write(tmp_path, "")
    assert "no rows" in fetch_error(card(), tmp_path)


def test_a_damaged_gzip_file_is_an_error(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"x" * 1000)[:-9])
    assert "damaged gzip" in fetch_error(card(path="a.jsonl.gz"), tmp_path)


def test_a_missing_file_is_an_error_with_the_fix(tmp_path):
    message = fetch_error(card(path="absent.jsonl"), tmp_path)
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
    assert fetch(card(kind="url", path="", url=f"{server}/a.json", format="json"), tmp_path) == ROWS


def test_a_wrong_git_blob_id_is_an_error(tmp_path, server, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    wrong = card(kind="url", path="", url=f"{server}/a.json", format="json", git_blob="1" * 40)
    assert "1" * 40 in fetch_error(wrong, tmp_path)


def test_an_uncached_url_offline_is_an_error_in_one_line(tmp_path, server, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE" in fetch_error(card(kind="url", path="", url=f"{server}/a.json"), tmp_path)


def malformed_files(tmp_path: Path) -> dict[str, dict]:
    lines = [json.dumps(row) for row in ROWS]
    lines[2], lines[5] = '{"instruction": ', "17"
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    (tmp_path / "a.json").write_text(json.dumps([*ROWS[:2], ["a list"], *ROWS[3:5], 17, *ROWS[6:]]))
    return {"jsonl": card(), "json": card(path="a.json", format="json")}


@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_all_rows_that_are_not_objects_are_reported(tmp_path, capsys, kind):
    message = fetch_error(malformed_files(tmp_path)[kind], tmp_path)
    assert "2 malformed rows: row 2" in message
    lines = capsys.readouterr().err.splitlines()
    assert [line.rpartition(": row ")[2][0] for line in lines] == ["2", "5"]


@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_known_malformed_rows_are_left_out_and_the_remaining_ones_keep_their_ids(tmp_path, kind):
    split_card = malformed_files(tmp_path)[kind] | {"known_malformed": [2, 5]}
    fetch_split("sums", "test", split_card, output=tmp_path / "out.jsonl", data_root=tmp_path)
    source = RawFile("sums", "test", tmp_path / "out.jsonl", "number", known_malformed=[2, 5])
    to = {"template": "strict", "output": tmp_path / "p.parquet", "limit": None, "sample_seed": 0}
    write_prompts([source], **to)
    ids = [int(row["id"].rpartition("/")[2]) for row in read_prompts(tmp_path / "p.parquet")]
    assert ids == [0, 1, 3, 4, 6, 7, 8]
    with pytest.raises(UserError, match="1 malformed rows: row 5"):
        write_prompts([replace(source, known_malformed=[2])], **to)


def test_half_a_surrogate_pair_is_malformed(tmp_path):
    write(tmp_path, '{"instruction": "\\ud800", "answer": "1"}\n')
    assert "row 0: contains half of a surrogate pair" in fetch_error(card(), tmp_path)


def local_files(shared: Path) -> list[tuple[str, str, Path]]:
    """Card, split and file of every local source that the shared data has."""
    files = []
    for path in sorted((PARAMS / "datasets").glob("*.yaml")):
        for split, described in read_card("datasets", path.stem).splits.items():
            local = [source for source in described.sources if source.kind == "local"]
            paths = [shared / "data" / "real" / source.path for source in local]
            files += [(path.stem, split, file) for file in paths if file.is_file()]
    return files


def test_every_dataset_in_the_shared_data_loads_without_malformed_rows(shared, tmp_path):
    files = local_files(shared)
    for name, split, _ in files:
        dataset = read_card("datasets", name)
        split_card = dataset.splits[split]
        output = tmp_path / "x.jsonl"
        fetch_split(name, split, split_card.model_dump(), output=output, data_root=shared / "data" / "real")
        rows = read_jsonl(output)
        records = make_records(rows, task=name, split=split, answer_form=dataset.answer_form)
        assert sum(1 for _ in records) == split_card.rows
    assert {name for name, _, _ in files} >= {"math_data", "mawps-single", "hellaswag-partial", "winogrande"}


def test_every_published_file_in_the_shared_data_has_a_card(shared):
    real = shared / "data" / "real"
    files = {path for path in real.glob("*/*.jsonl.gz") if path.parent.name != "math_10k_partial"}
    assert files <= {path for _, _, path in local_files(shared)}


def test_part_of_a_dataset_is_not_accepted_as_the_whole(shared, tmp_path):
    card = read_card("datasets", "hellaswag").splits["test"].model_dump()
    part = {**card["sources"][0], "path": "derived/hellaswag/test_partial.jsonl.gz"}
    card["sources"] = [part | {"format": "jsonl", "git_blob": None}]
    with pytest.raises(UserError, match=r"1451 rows.*10042"):
        fetch_split(
            "hellaswag", "test", card, output=tmp_path / "x.jsonl", data_root=shared / "data" / "real"
        )


def test_a_json_array_is_recognized_under_the_format_jsonl(tmp_path):
    write(tmp_path, json.dumps(ROWS, indent=1))
    assert fetch(card(), tmp_path) == ROWS


def test_json_lines_that_begin_with_a_list_are_not_taken_for_an_array(tmp_path):
    write(tmp_path, "[1]\n" + json.dumps(ROWS[0]) + "\n")
    assert "1 malformed rows: row 0: is not a JSON object" in fetch_error(card(), tmp_path)


def test_json_lines_under_the_format_json_are_an_error_with_the_fix(tmp_path):
    write(tmp_path)
    assert "format: jsonl" in fetch_error(card(format="json"), tmp_path)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"kind": "local"}, "splits.test.sources.0: kind 'local' needs path"),
        ({"kind": "url", "path": "a.jsonl"}, "splits.test.sources.0: kind 'url' needs url"),
        ({"kind": "url", "url": "a.jsonl"}, "url: must begin with http:// or https://"),
        ({"kind": "locl", "path": "a.jsonl"}, "splits.test.sources.0: kind must be local, url or hub"),
        ({"path": "a.jsonl"}, "splits.test.sources.0: kind must be local, url or hub"),
        ({"kind": "local", "file": "a.jsonl"}, "splits.test.sources.0.file: unknown key"),
        ({"kind": "hub", "repo_id": "a/b", "files": ["c"]}, "splits.test.sources.0.revision: missing"),
        (
            {"kind": "hub", "repo_id": "a/b", "revision": None, "files": ["c.tsv"]},
            "files.0: must end in .parquet, .jsonl, .json or .csv",
        ),
        ({"kind": "local", "path": "a.csv.gz"}, "format: must be csv for a.csv.gz (got jsonl)"),
        ({"kind": "url", "url": "https://x.org/a.csv?b", "format": "json"}, "format: must be csv for /a.csv"),
        (
            {"kind": "local", "path": "a.parquet"},
            "a.parquet is not jsonl, json or csv; convert it, or use kind: hub",
        ),
        (
            {"kind": "hub", "repo_id": "ab", "revision": None, "files": []},
            "sources.0.files: List should have at least 1 item",
        ),
    ],
)
def test_an_invalid_source_is_an_error_with_its_place(source, message):
    splits = {"test": {"rows": None, "sources": [source]}}
    with pytest.raises(UserError) as caught:
        parse_card(Dataset, {"name": "x", "title": "x", "splits": splits}, where="params/datasets/x.yaml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("format", ["json", "jsonl", "csv"])
def test_a_byte_order_mark_is_skipped(tmp_path, format):
    texts = {"json": json.dumps(ROWS), "jsonl": "\n".join(map(json.dumps, ROWS)), "csv": write_csv(ROWS)}
    (tmp_path / f"a.{format}").write_bytes(b"\xef\xbb\xbf" + texts[format].encode())
    assert fetch(card(path=f"a.{format}", format=format), tmp_path) == ROWS


def write_csv(rows: list[dict]) -> str:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, rows[0].keys())
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def test_cells_of_a_csv_file_are_texts_as_they_are(tmp_path):
    rows = [
        {"instruction": 'Say "a,\nb".', "input": "", "output": "NA", "answer": "007"},
        {"instruction": "\u2028x" * 50_000, "input": "1e5", "output": " null ", "answer": "1.0"},
    ]
    (tmp_path / "a.csv").write_text(write_csv(rows), newline="")
    assert fetch(card(rows=2, path="a.csv", format="csv"), tmp_path) == rows


def test_a_small_csv_file_does_not_limit_what_others_read_afterwards(tmp_path):
    (tmp_path / "a.csv").write_text("a\n1\n")
    assert fetch(card(rows=1, path="a.csv", format="csv"), tmp_path) == [{"a": "1"}]
    # the limit of the csv module is one for the whole process
    assert next(csv.reader(["x" * 1000])) == ["x" * 1000]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "contains no rows"),
        ("a,b\n", "contains no rows"),
        (
            "a,b\n1,2\n1\n1,2,3\n",
            "2 malformed rows: row 1: has 1 cells, but there are 2 columns; row 2: has 3",
        ),
        ("a,a\n1,2\n", "not valid csv (the column 'a' is repeated)"),
        ('a,b\n"1,2\n', "not valid csv (unexpected end of data)"),
        ("\xff", "not valid csv ("),
    ],
)
def test_a_damaged_csv_file_is_an_error_in_one_line(tmp_path, text, message):
    (tmp_path / "a.csv").write_bytes(text.encode("latin-1"))
    assert message in fetch_error(card(path="a.csv", format="csv"), tmp_path)


def test_a_value_that_json_cannot_write_is_an_error_with_its_row(tmp_path, monkeypatch):
    table = pa.table({"instruction": ["a", "b"], "day": [None, datetime.date(2024, 1, 1)]})
    pq.write_table(table, tmp_path / "a.parquet")
    monkeypatch.setattr("pipeline.data.hub._local_path", lambda *_: tmp_path / "a.parquet")
    source = {"kind": "hub", "repo_id": "a/b", "revision": "c", "files": ["a.parquet"], "convert": False}
    split_card = {**card(rows=None), "sources": [source | {"git_blob": None}]}
    assert "row 1: a value must be text or a number" in fetch_error(split_card, tmp_path)
