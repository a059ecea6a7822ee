"""Files of datasets: which are taken, which refused, and that every real one loads."""

import functools
import gzip
import http.server
import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core.errors import UserError
from pipeline.core.io import read_jsonl
from pipeline.data.fetch import fetch
from pipeline.data.rows import RawFile, records
from pipeline.params.datasets import Dataset
from pipeline.params.reading import PARAMS, check, read_card
from pipeline.prompts.write import read_prompts, write_prompts

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


@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_malformed_rows_that_the_card_lists_are_left_out_and_the_others_keep_their_ids(tmp_path, kind):
    given = malformed_files(tmp_path)[kind]
    given["splits"]["test"]["known_malformed"] = [2, 5]
    fetch(given, "test", output=tmp_path / "raw.jsonl", data_root=tmp_path)
    source = RawFile("sums", "test", tmp_path / "raw.jsonl", "number", known_malformed=[2, 5])
    to = {"template": "strict", "output": tmp_path / "p.parquet", "limit": None, "sample_seed": 0}
    write_prompts([source], **to)
    ids = [int(row["id"].rpartition("/")[2]) for row in read_prompts(tmp_path / "p.parquet")]
    assert ids == [0, 1, 3, 4, 6, 7, 8]
    with pytest.raises(UserError, match="1 malformed rows: row 5"):
        write_prompts([replace(source, known_malformed=[2])], **to)


def test_half_a_character_is_malformed_and_not_a_crash(tmp_path):
    write(tmp_path, '{"instruction": "\\ud800", "answer": "1"}\n')
    assert "row 0: holds half of a surrogate pair" in refused(card(tmp_path), tmp_path)


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


def test_a_json_array_is_read_even_where_the_card_says_lines(tmp_path):
    write(tmp_path, json.dumps(ROWS, indent=1))
    fetch(card(tmp_path), "test", output=tmp_path / "out.jsonl", data_root=tmp_path)
    assert read_jsonl(tmp_path / "out.jsonl") == ROWS


def test_lines_that_begin_with_a_list_are_still_lines(tmp_path):
    write(tmp_path, "[1]\n" + json.dumps(ROWS[0]) + "\n")
    assert "1 malformed rows: row 0: is not a JSON object" in refused(card(tmp_path), tmp_path)


def test_lines_where_the_card_says_an_array_are_one_line_that_says_so(tmp_path):
    write(tmp_path)
    assert "format: jsonl" in refused(card(tmp_path, format="json"), tmp_path)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ({"kind": "local"}, "splits.test.sources.0: kind 'local' needs path"),
        ({"kind": "url", "path": "a.jsonl"}, "splits.test.sources.0: kind 'url' needs url"),
        ({"kind": "url", "url": "a.jsonl"}, "url: must begin with http:// or https://"),
        ({"kind": "locl", "path": "a.jsonl"}, "splits.test.sources.0: kind must be local, url or hub"),
        ({"path": "a.jsonl"}, "splits.test.sources.0: kind must be local, url or hub"),
        ({"kind": "local", "file": "a.jsonl"}, "splits.test.sources.0.file: unknown key"),
        ({"kind": "hub", "repo_id": "a/b", "files": ["c"]}, "splits.test.sources.0.revision: missing"),
        (
            {"kind": "hub", "repo_id": "a/b", "revision": None, "files": ["c.csv"]},
            "files.0: must end in .parquet, .jsonl or .json",
        ),
        (
            {"kind": "hub", "repo_id": "ab", "revision": None, "files": []},
            "sources.0.files: List should have at least 1 item",
        ),
    ],
)
def test_a_source_that_cannot_be_is_refused_with_its_place(source, told):
    splits = {"test": {"rows": None, "sources": [source]}}
    with pytest.raises(UserError) as caught:
        check(Dataset, {"name": "x", "title": "x", "splits": splits}, where="params/datasets/x.yaml")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
