"""YAML files of params/: merge keys, byte order marks, repeated keys."""

import pytest

from pipeline.core.errors import UserError
from pipeline.params.datasets import Dataset
from pipeline.params.reading import parse_card, read_yaml

CARD = """
name: mine
title: Mine
splits:
  train:
    rows: null
    sources:
    - &file {kind: local, path: a.json, format: json, sha256: aa}
    - {<<: *file, path: b.json}
  test: &test
    rows: 9
    sources: [*file]
  validation:
    <<: [*test, {rows: 7, sha256: bb}]
    known_malformed: [1]
"""


def write(tmp_path, text: str | bytes):
    path = tmp_path / "card.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_merge_keys_work_in_a_card(tmp_path):
    card = parse_card(Dataset, read_yaml(write(tmp_path, CARD)), where="card.yaml")
    first, second = card.splits["train"].sources
    assert (second.path, second.format, second.sha256) == ("b.json", "json", "aa")
    assert card.splits["test"].sources == [first]
    validation = card.splits["validation"]
    # of several mappings the first wins, and a mapping's own keys win over all of them
    assert (validation.rows, validation.sha256, validation.known_malformed) == (9, "bb", [1])


def test_a_merged_mapping_may_be_merged_again(tmp_path):
    text = "a: &a {x: 1, y: 1}\nb: &b {<<: *a, y: 2}\nc: {<<: *b, z: 3}\nd: *b\n"
    assert read_yaml(write(tmp_path, text))["c"] == {"x": 1, "y": 2, "z": 3}
    assert read_yaml(write(tmp_path, "<<: &b {<<: {x: 1}, x: 2}\nb: *b\n")) == {"x": 2, "b": {"x": 2}}


@pytest.mark.parametrize(
    "text", ["a: 1\nb: 2\na: 3\n", "c: {a: 1, <<: {b: 1}, a: 2}\n", "- {<<: {a: 1, a: 2}}\n"]
)
def test_a_repeated_key_is_an_error(tmp_path, text):
    with pytest.raises(UserError, match="key 'a' is repeated"):
        read_yaml(write(tmp_path, text))


def test_a_byte_order_mark_is_skipped(tmp_path):
    assert read_yaml(write(tmp_path, b"\xef\xbb\xbfname: mine\n")) == {"name": "mine"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"name: \xe9t\xe9\n", "not UTF-8"),
        ("a: {<<: 5}\n", "not valid YAML"),
        ("a: {<<: *nowhere}\n", "not valid YAML"),
        ("? [a, b]\n: 1\n", "not valid YAML"),
    ],
)
def test_a_file_that_is_not_yaml_is_an_error_in_one_line(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as caught:
        read_yaml(write(tmp_path, text))
    assert "\n" not in str(caught.value)
