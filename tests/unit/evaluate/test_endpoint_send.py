"""Requests to an endpoint: each is sent once, also after faults and kills, within limits, and the key is written nowhere."""

import json
import threading
import time

import pytest

from pipeline.core.errors import UserError
from pipeline.evaluate.endpoints import send
from pipeline.evaluate.endpoints.exchanges import Request, read_text, text_request
from pipeline.evaluate.endpoints.limits import RateLimit
from pipeline.evaluate.endpoints.send import send_requests
from pipeline.params.endpoints.cards import EndpointModel
from tests.loopback_endpoint import KEY, LoopbackEndpoint

pytest.importorskip("openai")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("TEST_KEY", KEY)
    # tests of waits are about their order, not their length
    monkeypatch.setattr(send, "FIRST_WAIT", 0.01)


@pytest.fixture
def endpoint():
    with LoopbackEndpoint(lambda body: f"echo of {body['messages'][0]['content']}") as running:
        yield running


def make_card(endpoint, **changes):
    settings = {
        "name": "Tiny",
        "kind": "endpoint",
        "base_url": endpoint.base_url,
        "api": "chat",
        "model": "tiny",
        "key_variable": "TEST_KEY",
    }
    return EndpointModel(**{**settings, **changes})


def make_requests(card, count=6):
    return [text_request(card, f"question {n}", max_new_tokens=8) for n in range(count)]


def exchange_texts(endpoint, journal, count=6, **changes):
    card = make_card(endpoint, **changes)
    exchanges, stats = send_requests("tiny", card, make_requests(card, count), journal=journal)
    return [read_text(card, exchange).text for exchange in exchanges], stats


EXPECTED = [f"echo of question {n}" for n in range(6)]


def sent(endpoint):
    return sorted(body["messages"][0]["content"] for body in endpoint.answered)


def test_each_request_is_sent_once_and_a_second_call_sends_none(endpoint, tmp_path):
    texts, stats = exchange_texts(endpoint, tmp_path / "j.jsonl")
    assert texts == EXPECTED
    assert (stats.calls, stats.stored) == (6, 0)
    texts, stats = exchange_texts(endpoint, tmp_path / "j.jsonl")
    assert texts == EXPECTED
    assert (stats.calls, stats.stored) == (0, 6)
    assert len(endpoint.bodies) == 6
    # a larger set sends only what is new
    assert exchange_texts(endpoint, tmp_path / "j.jsonl", count=8)[1].calls == 2


def test_equal_requests_are_sent_once_and_samples_are_not(endpoint, tmp_path):
    card = make_card(endpoint, temperature=0.7)
    request = text_request(card, "q", max_new_tokens=8)
    requests = [request, request, Request(request.body, 1)]
    exchanges, stats = send_requests("tiny", card, requests, journal=tmp_path / "j.jsonl")
    assert len(exchanges) == 3
    assert stats.calls == 2


@pytest.mark.parametrize(
    "fault", [429, 500, 503, 408, (429, {"Retry-After": "0.02"}), "cut", "garbage", "empty", 0.05]
)
def test_a_fault_that_passes_is_survived(endpoint, tmp_path, fault):
    endpoint.faults.extend([fault, fault])
    assert exchange_texts(endpoint, tmp_path / "j.jsonl")[0] == EXPECTED
    assert sent(endpoint) == [f"question {n}" for n in range(6)]


def test_retry_after_is_waited_for(endpoint, tmp_path):
    endpoint.faults.append((429, {"Retry-After": "0.4"}))
    started = time.monotonic()
    exchange_texts(endpoint, tmp_path / "j.jsonl", count=1)
    # far below the wait, so that no clock can fail it, and far above the 0.01 s of the first repetition
    assert time.monotonic() - started > 0.3


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        ([400], "status 400 (Error code: 400 - "),
        ([404], "status 404 ("),
        ([500] * 20, "status 500 ("),
        ([(429, {"Retry-After": "3600"})], "it asks to wait 3600 s"),
        (["garbage"] * 3, "the response is not JSON, 3 times"),
        (["empty"] * 3, "the response has no answer (choices), 3 times"),
        (["stranger"], "response_model: the endpoint answered as 'stranger', not as 'tiny'"),
    ],
)
def test_a_fault_that_stays_is_one_line(endpoint, tmp_path, monkeypatch, faults, message):
    monkeypatch.setattr(send, "LONGEST_WAIT", 0.01)
    endpoint.faults.extend([None, None, *faults])
    with pytest.raises(UserError) as caught:
        exchange_texts(endpoint, tmp_path / "j.jsonl", concurrency=1)
    text = str(caught.value)
    assert message in text
    assert text.startswith("params/models/tiny.yaml: ")
    assert "2 of 6 responses are stored: run again to continue" in text
    assert "\n" not in text
    endpoint.faults.clear()
    # nothing that was answered by the right model is sent again
    assert exchange_texts(endpoint, tmp_path / "j.jsonl")[1].calls == 4


def test_a_slow_answer_is_waited_for_and_too_slow_a_one_is_one_line(endpoint, tmp_path):
    endpoint.faults.append(0.3)
    assert exchange_texts(endpoint, tmp_path / "slow.jsonl", count=1, timeout=10.0)[1].calls == 1
    endpoint.faults.extend([0.5] * 3)
    with pytest.raises(UserError, match=r"no response within 0\.1 s; raise timeout, 3 times"):
        exchange_texts(endpoint, tmp_path / "j.jsonl", count=1, timeout=0.1)


def test_a_server_that_dies_and_comes_back_loses_nothing(endpoint, tmp_path):
    card, journal = make_card(endpoint, concurrency=2), tmp_path / "j.jsonl"

    def restart():
        while len(endpoint.answered) < 5:
            time.sleep(0.005)
        endpoint.stop()
        time.sleep(0.1)
        endpoint.start()

    thread = threading.Thread(target=restart)
    thread.start()
    exchanges, _ = send_requests("tiny", card, make_requests(card, 40), journal=journal)
    thread.join()
    assert [read_text(card, row).text for row in exchanges] == [f"echo of question {n}" for n in range(40)]
    # the server had sent an answer, or the request is repeated; nothing that arrived is asked for again
    assert len(journal.read_text().splitlines()) == 40
    assert len(endpoint.answered) <= 42


def test_a_server_that_stays_away_is_one_line(endpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(send, "LONGEST_WAIT", 0.01)
    endpoint.stop()
    with pytest.raises(UserError, match=r"127\.0\.0\.1:\d+: cannot be reached \(.*0 of 6 responses"):
        exchange_texts(endpoint, tmp_path / "j.jsonl")


def test_a_torn_line_is_asked_for_again_and_the_others_are_not(endpoint, tmp_path):
    journal = tmp_path / "j.jsonl"
    exchange_texts(endpoint, journal)
    journal.write_bytes(journal.read_bytes()[:-20])
    texts, stats = exchange_texts(endpoint, journal)
    assert texts == EXPECTED
    assert stats.calls == 1
    assert len([json.loads(line) for line in journal.read_text().splitlines()]) == 6


def test_the_key_is_read_from_the_environment_and_written_nowhere(endpoint, tmp_path, monkeypatch):
    exchange_texts(endpoint, tmp_path / "j.jsonl")
    assert set(endpoint.keys) == {KEY}
    assert KEY not in (tmp_path / "j.jsonl").read_text()
    monkeypatch.setenv("TEST_KEY", "sk-wrong-9876543210abcdefgh")
    with pytest.raises(UserError, match=r"refuses the key in TEST_KEY \(status 401\)") as caught:
        exchange_texts(endpoint, tmp_path / "k.jsonl")
    assert "9876543210" not in str(caught.value)
    monkeypatch.delenv("TEST_KEY")
    with pytest.raises(UserError, match=r"key_variable: TEST_KEY is not set; set it to the key of"):
        exchange_texts(endpoint, tmp_path / "k.jsonl")
    # what is stored needs no key
    assert exchange_texts(endpoint, tmp_path / "j.jsonl")[0] == EXPECTED


def test_a_message_of_the_endpoint_that_quotes_the_key_is_masked(endpoint, tmp_path):
    endpoint.answer = None
    endpoint.respond = lambda handler: _quote_key(handler)
    with pytest.raises(UserError) as caught:
        exchange_texts(endpoint, tmp_path / "j.jsonl", count=1)
    assert "***" in str(caught.value)
    assert KEY not in str(caught.value)


def _quote_key(handler):
    from tests.loopback_endpoint import send as respond

    respond(handler, 400, {"error": {"message": f"bad {handler.headers['Authorization']}"}})


def test_max_cost_stops_before_it_is_passed_and_keeps_what_was_bought(endpoint, tmp_path):
    price = {"input": 1e6, "output": 1e6}
    card, journal = make_card(endpoint, price=price, concurrency=2), tmp_path / "j.jsonl"
    with pytest.raises(
        UserError, match=r"max_cost=400: the next request could exceed it \(\d+\.\d+ USD"
    ) as caught:
        send_requests("tiny", card, make_requests(card, 90), journal=journal, max_cost=400.0)
    bought = len(journal.read_text().splitlines())
    assert 10 < bought < 90
    assert f"{bought} of 90 responses are stored" in str(caught.value)
    # two input and four output tokens each
    assert bought * 6 <= 400
    _, stats = send_requests("tiny", card, make_requests(card, 90), journal=journal)
    assert stats.calls == 90 - bought
    assert stats.cost == 90 * 6
    # what is bought already counts
    with pytest.raises(UserError, match="could exceed it"):
        send_requests("tiny", card, make_requests(card, 91), journal=journal, max_cost=400.0)


def test_max_cost_without_a_price_is_refused(endpoint, tmp_path):
    card = make_card(endpoint)
    with pytest.raises(UserError, match="price: missing, so max_cost=1 cannot be enforced"):
        send_requests("tiny", card, make_requests(card), journal=tmp_path / "j.jsonl", max_cost=1.0)


def test_concurrency_is_kept(endpoint, tmp_path):
    endpoint.faults.extend([0.02] * 12)
    exchange_texts(endpoint, tmp_path / "j.jsonl", count=12, concurrency=3)
    assert 1 <= endpoint.most_busy <= 3


@pytest.mark.parametrize(
    ("limits", "expected"), [((2, None), [0, 0, 60, 60, 120]), ((None, 25), [0, 0, 60, 60, 120])]
)
def test_limits_of_a_minute_are_kept(limits, expected):
    now = [0.0]

    def pause(seconds):
        now[0] += seconds
        return False

    rate, times = RateLimit(*limits, pause=pause, clock=lambda: now[0]), []
    for _ in range(5):
        rate.wait(10)
        times.append(now[0])
    assert times == expected


def test_a_cut_answer_is_one_that_reached_the_limit(endpoint, tmp_path):
    endpoint.answer = lambda body: {"text": "Half of it", "finish_reason": "length"}
    card = make_card(endpoint)
    exchanges, _ = send_requests("tiny", card, make_requests(card, 1), journal=tmp_path / "j.jsonl")
    assert read_text(card, exchanges[0]) == ("Half of it", "length", 3)


def test_a_replay_sends_nothing(endpoint, tmp_path, monkeypatch):
    journal = tmp_path / "j.jsonl"
    exchange_texts(endpoint, journal)
    monkeypatch.setenv(send.REPLAY, "1")
    monkeypatch.delenv("TEST_KEY")
    assert exchange_texts(endpoint, journal)[0] == EXPECTED
    with pytest.raises(UserError, match="1 of 7 responses are not stored, so they cannot be replayed"):
        exchange_texts(endpoint, journal, count=7)
    assert len(endpoint.bodies) == 6
