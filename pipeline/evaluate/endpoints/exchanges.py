"""What is sent to an endpoint and what comes back: bodies of requests, responses, and the texts in them. Imports no torch."""

import hashlib
import math
from collections.abc import Mapping
from typing import Any, NamedTuple, NotRequired, TypedDict

from pipeline.core.errors import UserError
from pipeline.core.io import canonical_json
from pipeline.evaluate.generation.rows import StopReason
from pipeline.params.endpoints.cards import EndpointModel

# OpenAI's API; other values of `finish_reason`, such as content_filter, end an answer like "stop"
CUT_BY_LIMIT = "length"
# input tokens that a chat message has besides its text, and the start of the answer; a generous bound
FRAME_TOKENS = 64
# characters of a token, where nothing is measured yet
CHARACTERS_PER_TOKEN = 4


class RequestBody(TypedDict, total=False):
    """The body of a request, as the API names its keys."""

    model: str
    messages: list[dict[str, str]]
    prompt: str
    max_tokens: int
    max_completion_tokens: int
    temperature: float
    top_p: float
    seed: int
    stop: list[str]
    echo: bool
    logprobs: int


class Request(NamedTuple):
    """A request; ``sample`` tells requests with one body apart, each of which gets a response of its own."""

    body: RequestBody
    sample: int = 0

    @property
    def key(self) -> str:
        """16 hex digits that identify the request."""
        content = [self.body, self.sample] if self.sample else self.body
        return hashlib.sha256(canonical_json(content).encode()).hexdigest()[:16]

    @property
    def text(self) -> str:
        """The text that the model reads."""
        return self.body["prompt"] if "prompt" in self.body else self.body["messages"][0]["content"]

    @property
    def output_limit(self) -> int:
        """The most tokens of the response."""
        return self.body.get("max_completion_tokens", self.body.get("max_tokens", 0))

    @property
    def token_estimate(self) -> int:
        """Input tokens, roughly."""
        return len(self.text) // CHARACTERS_PER_TOKEN + 1

    @property
    def token_bound(self) -> int:
        """The most input tokens that the request can have: a token has at least a byte."""
        return len(self.text.encode()) + FRAME_TOKENS


class Exchange(TypedDict):
    """A request with its response, as they are stored."""

    key: str
    sample: NotRequired[int]
    request: RequestBody
    response: dict[str, Any]


# the key of a request, and the model that its response names: an answer of another model is no answer
ExchangeId = tuple[str, str | None]


def identify_exchange(exchange: Exchange) -> ExchangeId:
    """Return what tells a stored exchange apart from all others."""
    return exchange["key"], exchange["response"].get("model")


class Usage(NamedTuple):
    """The tokens of a response; None: the endpoint does not state them."""

    input_tokens: int | None
    output_tokens: int | None


class EndpointText(NamedTuple):
    """A generated text: why it ended, and its tokens (0 where the endpoint does not state them)."""

    text: str
    stop: StopReason
    tokens: int


class MalformedResponse(ValueError):
    """The response is no JSON object with an answer; the request may be repeated."""


def text_request(
    card: EndpointModel,
    prompt: str,
    *,
    max_new_tokens: int,
    sample: int = 0,
    seed: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
) -> Request:
    """Return the request for a generated text.

    Args:
        card: of the endpoint.
        prompt: continued by the API completions; one user message of the API chat.
        max_new_tokens: the longest answer.
        sample: number of the answer, where several to one prompt are wanted.
        seed: replaces that of the card.
        temperature: the same.
        top_p: the same; None: none is sent.
    """
    body: RequestBody = {"model": card.model}
    if card.api == "chat":
        body["messages"] = [{"role": "user", "content": prompt}]
    else:
        body["prompt"] = prompt
    if card.token_limit_key == "max_tokens":
        body["max_tokens"] = max_new_tokens
    else:
        body["max_completion_tokens"] = max_new_tokens
    chosen_temperature = card.temperature if temperature is None else temperature
    if chosen_temperature is not None:
        body["temperature"] = chosen_temperature
    if top_p is not None:
        body["top_p"] = top_p
    chosen_seed = card.seed if seed is None else seed
    if chosen_seed is not None:
        body["seed"] = chosen_seed
    if card.stop:
        body["stop"] = card.stop
    return Request(body, sample)


def echo_request(card: EndpointModel, text: str) -> Request:
    """Return the request for the log-probabilities of a text: nothing is generated."""
    return Request(
        {
            "model": card.model,
            "prompt": text,
            "max_tokens": 0,
            "echo": True,
            "logprobs": 1,
            "temperature": 0.0,
        }
    )


def check_response(card: EndpointModel, response: object, *, where: str) -> dict[str, Any]:
    """Return a response that has an answer of the card's model.

    Raises:
        MalformedResponse: it has no answer.
        UserError: it is of another model.
    """
    if not isinstance(response, dict):
        raise MalformedResponse("the response is not a JSON object")
    try:
        _read_choice(card.api, response)
    except (KeyError, IndexError, TypeError, AttributeError):
        raise MalformedResponse("the response has no answer (choices)") from None
    name = response.get("model")
    if name != card.expected_model:
        raise UserError(
            f"{where}: response_model: the endpoint answered as '{name}', not as '{card.expected_model}'; answers of another "
            "model are refused; if this is the right model, set response_model to its name"
        )
    return response


def _read_choice(api: str, response: Mapping[str, Any]) -> tuple[str, str | None]:
    choice = response["choices"][0]
    # the chat API has null where the model refuses
    text = choice["message"]["content"] or "" if api == "chat" else choice["text"]
    return text + "", choice.get("finish_reason")


def read_text(card: EndpointModel, exchange: Exchange) -> EndpointText:
    """Return the generated text of an exchange."""
    text, reason = _read_choice(card.api, exchange["response"])
    tokens = read_usage(exchange["response"]).output_tokens
    return EndpointText(text, "length" if reason == CUT_BY_LIMIT else "eos", tokens or 0)


def read_usage(response: Mapping[str, Any]) -> Usage:
    """Return the tokens that a response states."""
    usage = response.get("usage") or {}
    return Usage(usage.get("prompt_tokens"), usage.get("completion_tokens"))


class EchoedLikelihood(NamedTuple):
    """The log-likelihood of the end of a text (natural logarithm, None: not finite), and its tokens."""

    loglikelihood: float | None
    tokens: int


def read_likelihood(exchange: Exchange, *, start: int, where: str) -> EchoedLikelihood:
    """Return the log-likelihood of a text from its character ``start`` on.

    A token that begins before ``start`` belongs to the prompt, as in pipeline.evaluate.generation.likelihood.

    Raises:
        UserError: the endpoint returned no log-probabilities of the prompt.
    """
    text = exchange["request"]["prompt"]
    logprobs = exchange["response"]["choices"][0].get("logprobs") or {}
    values, offsets = logprobs.get("token_logprobs") or [], logprobs.get("text_offset") or []
    counted = [value for value, offset in zip(values, offsets, strict=False) if start <= offset < len(text)]
    if values and not counted:
        raise UserError(
            f"{where}: echo: no token begins within the continuation '{text[start:]}', so it has no likelihood"
        )
    if not values or len(values) != len(offsets):
        raise UserError(
            f"{where}: echo: the endpoint returns no log-probabilities of the prompt; set echo: false, and leave likelihood "
            "protocols out of the study"
        )
    finite = all(isinstance(value, int | float) and math.isfinite(value) for value in counted)
    return EchoedLikelihood(sum(counted) if finite else None, len(counted))
