"""The journal of an endpoint, its limits and the plan: nothing that was paid for is lost, and a stopped job ends."""

import errno
import json
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.core.errors import UserError
from pipeline.evaluate.endpoints import journal as journals
from pipeline.evaluate.endpoints import plan
from pipeline.evaluate.endpoints.exchanges import read_usage, text_request
from pipeline.evaluate.endpoints.journal import Journal, read_journal
from pipeline.evaluate.endpoints.limits import Budget, RateLimit
from pipeline.evaluate.endpoints.send import REPLAY, read_key, send_requests
from pipeline.params.endpoints.cards import EndpointModel, Price

OLD, NEW = "tiny-2024-01-01", "tiny-2025-01-01"


def make_card(**changes):
    settings = {
        "name": "Tiny",
        "kind": "endpoint",
        "base_url": "http://127.0.0.1:9/v1",
        "api": "completions",
        "model": "tiny",
    }
    return EndpointModel(**{**settings, **changes})


def make_exchange(number=0, model="tiny"):
    request = text_request(make_card(), f"question {number}", max_new_tokens=5)
    choice = {"text": f"by {model}", "finish_reason": "stop"}
    return {"key": request.key, "request": request.body, "response": {"model": model, "choices": [choice]}}


def write_lines(path, *lines):
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


def replay(path, monkeypatch, stored=(), **changes):
    """Return the text of the stored response that a card's request gets, and the number of stored responses."""
    monkeypatch.setenv(REPLAY, "1")
    card = make_card(**changes)
    request = text_request(card, "question 0", max_new_tokens=5)
    known = {journals.identify_exchange(row): row for row in stored}
    (exchange,), stats = send_requests("tiny", card, [request], journal=path, stored=known)
    return exchange["response"]["choices"][0]["text"], stats.stored


def test_a_response_of_another_model_is_no_answer(tmp_path, monkeypatch):
    path = write_lines(tmp_path / "j.jsonl", make_exchange(model=OLD))
    assert replay(path, monkeypatch, response_model=OLD) == (f"by {OLD}", 1)
    with pytest.raises(UserError, match="1 of 1 responses are not stored"):
        replay(path, monkeypatch, response_model=NEW)


def test_a_response_of_another_model_hides_none_of_the_right_model(tmp_path, monkeypatch):
    path = write_lines(tmp_path / "j.jsonl", make_exchange(model=OLD), make_exchange(model=NEW))
    for model in (OLD, NEW):
        assert replay(path, monkeypatch, response_model=model) == (f"by {model}", 1)
    # of a finished result
    path = write_lines(tmp_path / "k.jsonl", make_exchange(model=NEW))
    assert replay(path, monkeypatch, [make_exchange(model=OLD)], response_model=OLD) == (f"by {OLD}", 1)


@pytest.mark.parametrize(("model", "calls"), [(OLD, 1), (NEW, 2)])
def test_the_plan_counts_responses_of_another_model_as_missing(tmp_path, monkeypatch, model, calls):
    prompts = tmp_path / "prompts"
    prompts.touch()
    rows = [{"id": f"{number}", "prompt": f"question {number}"} for number in range(2)]
    monkeypatch.setattr(plan, "read_prompts", lambda path: rows)
    monkeypatch.setattr(plan, "read_card", lambda kind, name: make_card(response_model=model))
    questions = plan._Questions(
        "tiny", "task", SimpleNamespace(path=prompts), {"max_new_tokens": 5, "temperature": 0.0}, 2
    )
    stored = read_journal(write_lines(tmp_path / "j.jsonl", make_exchange(model=OLD)))
    assert plan._plan_questions(questions, stored, is_finished=False).calls == calls


def test_the_plan_reads_the_journal_of_a_model_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    read = []
    monkeypatch.setattr(plan, "read_journal", lambda path: read.append(path) or {})
    answers = [
        SimpleNamespace(
            path=Path(f"results/distilled/answers/gpt-4o-mini/bare/{source}/0"),
            params={source: {"max_new_tokens": 5}},
            inputs={
                "questions": SimpleNamespace(path=Path("missing"), params={}),
                "base": SimpleNamespace(path=Path("results/bases/gpt-4o-mini/0")),
            },
        )
        for source in ("gsm8k", "aqua")
    ]
    monkeypatch.setattr(plan, "list_bought_answers", lambda study: answers)
    assert len(plan.plan_endpoints(SimpleNamespace(evaluated_runs=[]))) == 2
    assert len(read) == 1


def test_a_bad_line_within_a_journal_is_one_line_and_nothing_is_cut_off(tmp_path):
    path = write_lines(tmp_path / "j.jsonl", make_exchange(0), '{"key": "1", "requ\n', make_exchange(2))
    content = path.read_bytes()
    for action in (lambda: Journal(path).__enter__(), lambda: read_journal(path)):
        with pytest.raises(UserError, match=r"j\.jsonl: line 2 is not a JSON object; delete this line"):
            action()
    assert path.read_bytes() == content
    # a torn line at the end is what a kill leaves
    write_lines(path, make_exchange(0), '{"key": "1", "requ')
    with Journal(path) as journal:
        assert len(journal.rows) == 1
    assert path.read_text() == json.dumps(make_exchange(0)) + "\n"


def test_a_line_that_a_full_disk_tears_is_taken_back(tmp_path, monkeypatch):
    path, write = tmp_path / "j.jsonl", os.write

    def fail_halfway(handle, line):
        write(handle, line[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    with Journal(path) as journal:
        journal.append(make_exchange(0))
        monkeypatch.setattr(journals.os, "write", fail_halfway)
        with pytest.raises(OSError, match="No space left"):
            journal.append(make_exchange(1))
        monkeypatch.setattr(journals.os, "write", write)
        journal.append(make_exchange(2))
    assert list(read_journal(path).values()) == [make_exchange(0), make_exchange(2)]


@pytest.mark.parametrize(
    "key",
    ["sk-secretAAAA\nsk-secretBBBB", "sk-secretAAAA\r\nsecretBBBB", "“sk-secretAAAA”", "sk-secretAAAA B"],
)
def test_a_key_that_no_header_can_carry_is_refused_without_repeating_it(key, monkeypatch):
    monkeypatch.setenv("TEST_KEY", key)
    with pytest.raises(UserError, match=r"tiny\.yaml: key_variable: TEST_KEY has a line break") as caught:
        read_key("tiny", make_card(key_variable="TEST_KEY"))
    assert "secret" not in str(caught.value)
    monkeypatch.setenv("TEST_KEY", "sk-AAAA\n")
    assert read_key("tiny", make_card(key_variable="TEST_KEY")) == "sk-AAAA"


def join_all(threads):
    for thread in threads:
        thread.join(10)
    return not any(thread.is_alive() for thread in threads)


def test_a_stopped_job_waits_for_no_minute():
    stopped = threading.Event()
    rate = RateLimit(1, None, pause=stopped.wait)
    rate.wait(1)
    threads = [threading.Thread(target=rate.wait, args=(1,), daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    stopped.set()
    assert join_all(threads)


REQUEST = text_request(make_card(), "question", max_new_tokens=5)
CHEAP = read_usage({"usage": {"prompt_tokens": 1, "completion_tokens": 1}})


def make_budget(requests):
    """Return a budget for the most that a number of requests can cost, and the most of a request."""
    price = Price(input=1e6, output=1e6)
    most = price.cost(input_tokens=REQUEST.token_bound, output_tokens=REQUEST.output_limit)
    return Budget(price, limit=requests * most, where="card"), most


def start_reserving(budget):
    results = []
    thread = threading.Thread(target=lambda: results.append(budget.reserve(REQUEST)), daemon=True)
    thread.start()
    # long enough to reach the wait; a failure does not wait at all
    time.sleep(0.05)
    assert thread.is_alive()
    return thread, results


def test_a_request_waits_for_what_those_on_their_way_leave_of_the_budget():
    budget, most = make_budget(1.5)
    assert budget.reserve(REQUEST) == most
    thread, results = start_reserving(budget)
    budget.settle(most, CHEAP)
    assert join_all([thread])
    assert results == [most]
    # nothing is on its way any more, and too little is left
    budget.settle(most, None)
    budget.spent = most
    with pytest.raises(UserError, match="the next request could exceed it"):
        budget.reserve(REQUEST)


def test_a_stopped_job_waits_for_no_budget():
    budget, _ = make_budget(1)
    budget.reserve(REQUEST)
    thread, results = start_reserving(budget)
    budget.stop()
    assert join_all([thread])
    assert results == [0.0]
