"""Answers as they come: what does not fit is halved and not tried again, and the bar tells rate and time left."""

import json

import pytest
import torch

from pipeline.core.errors import UserError
from pipeline.core.io import read_jsonl
from pipeline.evaluate.generation.resume import answer

EXAMPLES = [{"id": str(number)} for number in range(40)]
BATCHES = [list(range(start, start + 10)) for start in range(0, 40, 10)]


def no_memory_on_a_cpu():
    return torch.empty(2**55)  # torch's own error


def no_memory_on_a_gpu():
    raise torch.OutOfMemoryError("pretended")


def no_memory_in_python():
    raise MemoryError


def asker(tried, *, room, short=no_memory_on_a_gpu):
    def ask(batch):
        tried.append(len(batch))
        if len(batch) > room:
            short()
        return [{"id": EXAMPLES[index]["id"]} for index in batch]

    return ask


@pytest.mark.parametrize("short", [no_memory_on_a_cpu, no_memory_on_a_gpu, no_memory_in_python])
def test_what_does_not_fit_is_halved_and_the_next_batches_begin_with_what_fitted(short, tmp_path):
    tried = []
    took = answer(EXAMPLES, BATCHES, asker(tried, room=3, short=short), output=tmp_path / "a.jsonl", what="t")
    assert read_jsonl(tmp_path / "a.jsonl") == EXAMPLES
    assert took == {"asked": 40, "rows_at_once": 3}
    assert [size for size in tried if size > 3] == [10, 5, 5]  # of the first batch alone


def test_a_single_example_that_does_not_fit_is_one_line(tmp_path):
    with pytest.raises(UserError, match="out of memory with a single example"):
        answer(EXAMPLES, BATCHES, asker([], room=0), output=tmp_path / "a.jsonl", what="t")


def test_other_errors_are_not_taken_for_a_lack_of_memory(tmp_path):
    def wrong():
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        answer(EXAMPLES, BATCHES, asker([], room=0, short=wrong), output=tmp_path / "a.jsonl", what="t")


def test_a_restart_asks_what_is_left_and_its_bar_starts_there(tmp_path, capsys):
    with (tmp_path / ".a.partial").open("w") as file:
        for row in EXAMPLES[:15]:
            file.write(json.dumps(row) + "\n")
    tried = []
    took = answer(EXAMPLES, BATCHES, asker(tried, room=10), output=tmp_path / "a.jsonl", what="task")
    assert tried == [10, 10, 10]  # of the second batch five were there, but it is asked as a whole
    assert took["asked"] == 30
    assert read_jsonl(tmp_path / "a.jsonl") == EXAMPLES
    lines = capsys.readouterr().err.splitlines()
    assert "10/40" in lines[0]
    assert "40/40" in lines[-1]


def test_the_bar_tells_examples_a_second_and_the_time_left(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        "tqdm.std.time", iter(range(10_000)).__next__
    )  # a second between any two looks at the clock
    batches = [[number] for number in range(40)]
    answer(EXAMPLES, batches, asker([], room=10), output=tmp_path / "a.jsonl", what="task")
    middle = [line for line in capsys.readouterr().err.splitlines() if " 40/40" not in line][1:]
    assert middle
    for line in middle:
        assert "examples" in line
        assert "<" in line  # elapsed<left
        assert "?" not in line
