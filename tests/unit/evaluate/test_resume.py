"""Batches that do not fit in memory are halved once, a killed job resumes, and the bar shows rate and time left."""

import json

import pytest
import torch

from pipeline.core.errors import UserError
from pipeline.core.io import read_jsonl
from pipeline.evaluate.generation.resume import write_answers

EXAMPLES = [{"id": str(number)} for number in range(40)]
BATCHES = [list(range(start, start + 10)) for start in range(0, 40, 10)]


def no_memory_on_a_cpu():
    return torch.empty(2**55)  # torch's own error


def no_memory_on_a_gpu():
    raise torch.OutOfMemoryError("pretended")


def no_memory_in_python():
    raise MemoryError


def limited_memory(sizes, *, max_rows, fail=no_memory_on_a_gpu):
    """Return a function that answers batches of up to ``max_rows`` and appends each tried size to ``sizes``."""

    def answer_batch(batch):
        sizes.append(len(batch))
        if len(batch) > max_rows:
            fail()
        return [{"id": EXAMPLES[index]["id"]} for index in batch]

    return answer_batch


@pytest.mark.parametrize("fail", [no_memory_on_a_cpu, no_memory_on_a_gpu, no_memory_in_python])
def test_a_batch_that_does_not_fit_is_halved_and_the_next_batches_start_with_the_size_that_fit(
    fail, tmp_path
):
    sizes = []
    stats = write_answers(
        EXAMPLES,
        BATCHES,
        limited_memory(sizes, max_rows=3, fail=fail),
        output=tmp_path / "a.jsonl",
        label="t",
    )
    assert read_jsonl(tmp_path / "a.jsonl") == EXAMPLES
    assert stats == (40, 3, 3)
    # the first batch alone was tried in full
    assert [size for size in sizes if size > 3] == [10, 5, 5]


def test_the_largest_batch_counts_those_of_a_killed_process(tmp_path):
    rows = "".join(json.dumps({"id": example["id"]}) + "\n" for example in EXAMPLES[:30])
    (tmp_path / ".a.partial").write_text(rows)
    batches = [list(range(30)), list(range(30, 40))]
    memory = limited_memory([], max_rows=40)
    stats = write_answers(EXAMPLES, batches, memory, output=tmp_path / "a.jsonl", label="t")
    assert (stats.answered, stats.largest) == (10, 30)


def test_a_single_example_that_does_not_fit_is_an_error(tmp_path):
    with pytest.raises(UserError, match="out of memory with a single example"):
        write_answers(
            EXAMPLES, BATCHES, limited_memory([], max_rows=0), output=tmp_path / "a.jsonl", label="t"
        )


def test_errors_other_than_memory_are_raised(tmp_path):
    def wrong_shapes():
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        write_answers(
            EXAMPLES,
            BATCHES,
            limited_memory([], max_rows=0, fail=wrong_shapes),
            output=tmp_path / "a.jsonl",
            label="t",
        )


def test_a_resumed_job_answers_the_unfinished_batches_and_its_bar_starts_there(tmp_path, capsys):
    with (tmp_path / ".a.partial").open("w") as file:
        for row in EXAMPLES[:15]:
            file.write(json.dumps(row) + "\n")
    sizes = []
    stats = write_answers(
        EXAMPLES, BATCHES, limited_memory(sizes, max_rows=10), output=tmp_path / "a.jsonl", label="task"
    )
    # five rows of the second batch were finished, but it is repeated in full
    assert sizes == [10, 10, 10]
    assert stats.answered == 30
    assert read_jsonl(tmp_path / "a.jsonl") == EXAMPLES
    lines = capsys.readouterr().err.splitlines()
    assert "10/40" in lines[0]
    assert "40/40" in lines[-1]


def test_the_bar_shows_examples_per_second_and_time_left(tmp_path, capsys, monkeypatch):
    # a second between two readings of the clock
    monkeypatch.setattr("tqdm.std.time", iter(range(10_000)).__next__)
    batches = [[number] for number in range(40)]
    write_answers(
        EXAMPLES, batches, limited_memory([], max_rows=10), output=tmp_path / "a.jsonl", label="task"
    )
    middle = [line for line in capsys.readouterr().err.splitlines() if " 40/40" not in line][1:]
    assert middle
    for line in middle:
        assert "examples" in line
        # elapsed<remaining
        assert "<" in line
        assert "?" not in line


def test_known_answers_stand_between_those_of_a_resumed_job(tmp_path):
    known = {EXAMPLES[index]["id"]: {"id": EXAMPLES[index]["id"], "known": True} for index in range(0, 40, 2)}
    batches = [list(range(1, 20, 2)), list(range(21, 40, 2))]
    sizes = []
    answer = limited_memory(sizes, max_rows=40)
    (tmp_path / ".t.partial").write_text("".join(json.dumps(row) + "\n" for row in answer(batches[0])))
    stats = write_answers(EXAMPLES, batches, answer, output=tmp_path / "t.jsonl", label="t", known=known)
    assert sizes == [10, 10]
    assert stats.answered == 10
    rows = read_jsonl(tmp_path / "t.jsonl")
    assert [row["id"] for row in rows] == [example["id"] for example in EXAMPLES]
    assert [row.get("known", False) for row in rows] == [True, False] * 20
