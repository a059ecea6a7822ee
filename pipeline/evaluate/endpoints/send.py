"""Send requests to an endpoint: texts in, responses out, and nothing that is stored is sent again.

``send_requests`` is all that a caller needs. OpenAI's own client sends. A request is repeated after status 408, 409, 429, 5xx, a
broken connection or a malformed response, with growing waits or after as long as Retry-After says. The client's own repetition
is off: it would repeat requests that were too slow, each of which may cost, and give up on a long Retry-After. The key comes
from the environment and is in no file and no message.
"""

import json
import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pipeline.core.errors import UserError, one_line
from pipeline.core.progress import progress_bar
from pipeline.evaluate.endpoints.exchanges import (
    Exchange,
    ExchangeId,
    MalformedResponse,
    Request,
    check_response,
    read_usage,
)
from pipeline.evaluate.endpoints.journal import Journal
from pipeline.evaluate.endpoints.limits import Budget, RateLimit, cost_of
from pipeline.params.endpoints.cards import EndpointModel

if TYPE_CHECKING:
    from openai import APIStatusError, OpenAI

# of a request that fails
RETRIES = 12
# seconds before the first of them; each wait is twice the last, up to the longest: five minutes in all
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0
# of a request that is not answered within the card's timeout, and of one without a readable answer: both may have cost
FEW_RETRIES = 2
# the longest Retry-After, in seconds, that is waited for
LONGEST_RETRY_AFTER = 600.0
# characters of an endpoint's message that an error quotes
LONGEST_CAUSE = 200
# what a key consists of, as in a header: a line break or another character would appear in the client's message
KEY_CHARACTERS = re.compile(r"[!-~]+")
# set by `reproduce`: responses come from the journal alone
REPLAY = "PIPELINE_REPLAY_RESPONSES"


@dataclass(frozen=True)
class SendStats:
    """What requests took.

    Attributes:
        calls: requests that this process sent and that have a response.
        stored: requests whose response was there already.
        input_tokens: of all responses, as far as the endpoint states them.
        output_tokens: the same.
        cost: of all responses, at the card's price; None: it states none.
    """

    calls: int
    stored: int
    input_tokens: int
    output_tokens: int
    cost: float | None


def send_requests(
    name: str,
    card: EndpointModel,
    requests: Sequence[Request],
    *,
    journal: Path,
    stored: Mapping[ExchangeId, Exchange] | None = None,
    max_cost: float | None = None,
    label: str = "",
) -> tuple[list[Exchange], SendStats]:
    """Return the exchange of each request, in their order; requests without a stored response are sent.

    Each response is in the journal before the next one is waited for, so a killed or failing process loses at most the
    responses that are on their way. Equal requests are sent once. A stored response of another model than the card's counts as
    missing.

    Args:
        name: of the model card.
        card: the card.
        requests: from ``text_request`` or ``echo_request``.
        journal: file of the responses; created if it is missing. Another process that uses it makes this one wait.
        stored: further responses, such as those of finished results.
        max_cost: the most that all responses of the journal may cost; None: no limit.
        label: of the progress bar.

    Raises:
        UserError: the key is missing or refused, the endpoint keeps failing, another model answers, or max_cost would be
            passed. What has come is in the journal.
    """
    where = f"params/models/{name}.yaml"
    by_key = {request.key: request for request in requests}
    with Journal(journal) as log:
        known = {**(stored or {}), **log.rows}
        exchanges = {key: row for key in by_key if (row := known.get((key, card.expected_model)))}
        missing = [request for key, request in by_key.items() if key not in exchanges]
        if missing:
            if os.environ.get(REPLAY):
                raise UserError(
                    f"{where}: {len(missing)} of {len(by_key)} responses are not stored, so they cannot be replayed"
                )
            spent = sum(_cost(card, row) for row in log.rows.values())
            budget = Budget(card.price, limit=max_cost, spent=spent, where=where)
            try:
                exchanges |= _Sender(name, card, log, budget).send(missing, total=len(by_key), label=label)
            except UserError as error:
                count = sum((key, card.expected_model) in log.rows or key in exchanges for key in by_key)
                raise UserError(
                    f"{error}; {count} of {len(by_key)} responses are stored: run again to continue"
                ) from None
    usages = [read_usage(exchange["response"]) for exchange in exchanges.values()]
    stats = SendStats(
        calls=len(missing),
        stored=len(by_key) - len(missing),
        input_tokens=sum(usage.input_tokens or 0 for usage in usages),
        output_tokens=sum(usage.output_tokens or 0 for usage in usages),
        cost=sum(_cost(card, exchange) for exchange in exchanges.values()) if card.price else None,
    )
    return [exchanges[request.key] for request in requests], stats


def _cost(card: EndpointModel, exchange: Exchange) -> float:
    request = Request(exchange["request"])
    price = card.price
    bound = price.cost(input_tokens=request.token_bound, output_tokens=request.output_limit) if price else 0.0
    return cost_of(price, read_usage(exchange["response"]), bound)


def read_key(name: str, card: EndpointModel) -> str | None:
    """Return the key of an endpoint from the environment; None: it needs none.

    Raises:
        UserError: the variable is not set, or its value cannot be a key. The message does not repeat it.
    """
    if card.key_variable is None:
        return None
    key = os.environ.get(card.key_variable, "").strip()
    where = f"params/models/{name}.yaml: key_variable: {card.key_variable}"
    if not key:
        raise UserError(f"{where} is not set; set it to the key of {_host(card)}")
    if not KEY_CHARACTERS.fullmatch(key):
        raise UserError(
            f"{where} has a line break, a space or a character outside ASCII, such as a typographic quote; set it to the key of "
            f"{_host(card)} alone"
        )
    return key


def _host(card: EndpointModel) -> str:
    return urlsplit(card.base_url).netloc


class _Sender:
    """Sends the requests of one process to an endpoint."""

    def __init__(self, name: str, card: EndpointModel, journal: Journal, budget: Budget) -> None:
        self.card, self.journal, self.budget = card, journal, budget
        self.where = f"params/models/{name}.yaml"
        self.key = read_key(name, card)
        self.client = _open_client(card, self.key)
        self.lock, self.stopped = threading.Lock(), threading.Event()
        self.rate = RateLimit(card.requests_per_minute, card.tokens_per_minute, pause=self.stopped.wait)

    def send(self, requests: Sequence[Request], *, total: int, label: str) -> dict[str, Exchange]:
        """Return the exchanges by key.

        Raises:
            UserError: a request failed for good; those on their way have been waited for.
        """
        exchanges: dict[str, Exchange] = {}
        with (
            ThreadPoolExecutor(self.card.concurrency) as pool,
            progress_bar(total, label=label, unit="responses", initial=total - len(requests)) as bar,
        ):
            futures: list[Future[Exchange | None]] = [
                pool.submit(self._send_one, request) for request in requests
            ]
            try:
                for future in as_completed(futures):
                    if exchange := future.result():
                        exchanges[exchange["key"]] = exchange
                        bar.update(1)
            finally:
                self._stop()
        return exchanges

    def _stop(self) -> None:
        """Let no request begin that has not begun, and none wait for its turn."""
        self.stopped.set()
        self.budget.stop()

    def _send_one(self, request: Request) -> Exchange | None:
        bound, usage = 0.0, None
        try:
            bound = self.budget.reserve(request)
            self.rate.wait(request.token_estimate + request.output_limit)
            if self.stopped.is_set():
                return None
            response = self._receive(request)
            usage = read_usage(response)
            exchange: Exchange = {"key": request.key, "request": request.body, "response": response}
            if request.sample:
                exchange["sample"] = request.sample
            with self.lock:
                self.journal.append(exchange)
        except BaseException:
            # before the budget is settled: a waiting request must not begin, nor fail for another reason
            self._stop()
            raise
        finally:
            self.budget.settle(bound, usage)
        return exchange

    def _receive(self, request: Request) -> dict[str, Any]:
        """Return the response to a request, which is repeated where that may help."""
        import openai

        api = self.client.chat.completions if self.card.api == "chat" else self.client.completions
        create: Callable[..., Any] = api.with_raw_response.create
        for attempt in range(RETRIES + 1):
            delay: float | None = None
            retries = RETRIES
            try:
                return check_response(self.card, _parse(create(**request.body).text), where=self.where)
            except MalformedResponse as error:
                cause, retries = str(error), FEW_RETRIES
            except openai.APITimeoutError:
                cause, retries = f"no response within {self.card.timeout:g} s; raise timeout", FEW_RETRIES
            except openai.APIConnectionError as error:
                cause = f"cannot be reached ({self._quote(error.__cause__ or error)})"
            except openai.APIStatusError as error:
                cause, delay = self._describe_status(error), _retry_after(error)
                if not _is_transient(error):
                    retries = 0
                elif delay is not None and delay > LONGEST_RETRY_AFTER:
                    cause, retries = f"{cause}; it asks to wait {delay:.0f} s", 0
            if attempt >= retries or self.stopped.is_set():
                break
            self.stopped.wait(min(LONGEST_WAIT, FIRST_WAIT * 2**attempt) if delay is None else delay)
        attempts = f", {attempt + 1} times" if attempt else ""
        raise UserError(f"{self.where}: {_host(self.card)}: {cause}{attempts}")

    def _describe_status(self, error: "APIStatusError") -> str:
        if error.status_code in (401, 403):
            # the endpoint's own message may quote the key
            variable = self.card.key_variable
            refusal = (
                f"refuses the key in {variable}"
                if variable
                else "wants a key: write its variable into key_variable"
            )
            return f"{refusal} (status {error.status_code})"
        return f"status {error.status_code} ({self._quote(error)})"

    def _quote(self, error: BaseException) -> str:
        text = one_line(error)
        return (text.replace(self.key, "***") if self.key else text)[:LONGEST_CAUSE] or type(error).__name__


def _is_transient(error: "APIStatusError") -> bool:
    # an account without credit is no matter of waiting
    return error.code != "insufficient_quota" and (
        error.status_code in (408, 409, 429) or error.status_code >= 500
    )


def _retry_after(error: "APIStatusError") -> float | None:
    """Return the seconds that a response asks to wait (RFC 9110, 10.2.3: a number or a date); None: it does not say."""
    text = error.response.headers.get("retry-after", "")
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None


def _parse(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        raise MalformedResponse("the response is not JSON") from None


def _open_client(card: EndpointModel, key: str | None) -> "OpenAI":
    try:
        import openai
    except ImportError:
        raise UserError(
            "endpoints need the package openai: pip install -c constraints.txt -e '.[endpoints]'"
        ) from None
    # without organisation and project, which the client would take from the environment
    client = openai.OpenAI(base_url=card.base_url, api_key=key or "none", timeout=card.timeout, max_retries=0)
    client.organization = client.project = None
    return client
