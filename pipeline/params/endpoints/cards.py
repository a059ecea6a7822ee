"""The card of a model behind an endpoint, and the rule that no card holds a key."""

import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from pipeline.params.base import Strict

# Keys of a card in which other programs keep a key. Those of this card that end so are not among them.
_KEY_FIELDS = re.compile(
    r"(?i)^(?!key_variable$|max_tokens|tokens_per_minute$).*(key|token|secret|password|auth)"
)
# what providers' keys begin with, and long runs of letters and digits
_KEY_VALUES = (
    re.compile(r"\b(sk|pk|rk|gsk|hf|xai|key|nvapi|r8|pplx|fw|tgp|csk)[-_][A-Za-z0-9_-]{12,}"),
    re.compile(r"\bAIza[A-Za-z0-9_-]{20,}"),
    re.compile(r"(?i)\bbearer\s+\S{8,}"),
    re.compile(r"\b(?=[A-Za-z0-9]*\d)(?=[A-Za-z0-9]*[A-Za-z])[A-Za-z0-9]{32,}\b"),
)
_VARIABLE = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
USE_ENVIRONMENT = (
    "a card must not hold a key; export it in an environment variable and write the variable's name: "
    "key_variable: OPENAI_API_KEY"
)


def looks_like_key(text: str) -> bool:
    """Return whether a text contains what may be the key of an endpoint."""
    return any(pattern.search(text) for pattern in _KEY_VALUES)


def _check_address(address: str) -> str:
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be an address such as https://api.openai.com/v1")
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError("must have no user, password or query: a key belongs in the environment")
    return address.rstrip("/")


class Price(Strict):
    """What tokens cost."""

    input: float = Field(ge=0, description="price per million input tokens")
    output: float = Field(ge=0, description="price per million output tokens")
    currency: str = Field("USD", description="currency of both prices")

    def cost(self, *, input_tokens: float, output_tokens: float) -> float:
        """Return what tokens cost, in the price's currency."""
        return (input_tokens * self.input + output_tokens * self.output) / 1e6


class EndpointModel(Strict):
    """A model behind an address that speaks OpenAI's API; it is evaluated as a bare base, and never trained."""

    name: str = Field(description="as it appears in tables")
    kind: Literal["endpoint"]
    base_url: Annotated[str, AfterValidator(_check_address)] = Field(
        description="address of the API, up to and including /v1; part of no fingerprint"
    )
    api: Literal["chat", "completions"] = Field(
        description="chat: /chat/completions, the prompt is one user message; completions: /completions, the prompt is continued"
    )
    model: str = Field(min_length=1, description="model name in requests")
    response_model: str | None = Field(
        None,
        min_length=1,
        description="model name that responses must contain, such as a dated version; null: the same as model",
    )
    key_variable: str | None = Field(
        None, description="environment variable that contains the key; null: the endpoint needs no key"
    )
    seed: int | None = Field(None, description="seed sent with each request; null: no seed is sent")
    temperature: float | None = Field(
        0.0,
        ge=0,
        description="temperature sent with each request; 0: greedy; null: not sent, for models with a fixed temperature",
    )
    stop: list[str] = Field(
        default_factory=list, max_length=4, description="texts at which the endpoint ends an answer"
    )
    max_tokens: int | None = Field(
        None,
        gt=0,
        description="longest answer in tokens; replaces the limits of protocols and study, for models that reason first",
    )
    token_limit_key: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens", description="name of the API's token limit; part of no fingerprint"
    )
    echo: bool = Field(
        False,
        description="for api: completions: whether the endpoint returns the log-probabilities of a prompt (echo), which likelihood protocols need",
    )
    concurrency: int = Field(4, gt=0, le=256, description="parallel requests; part of no fingerprint")
    requests_per_minute: int | None = Field(
        None, gt=0, description="most requests per minute; null: no limit; part of no fingerprint"
    )
    tokens_per_minute: int | None = Field(
        None,
        gt=0,
        description="most tokens per minute, input and output together; null: no limit; part of no fingerprint",
    )
    timeout: float = Field(600.0, gt=0, description="seconds to wait for a response; part of no fingerprint")
    price: Price | None = Field(None, description="price of tokens; null: not stated; part of no fingerprint")
    licence: str = Field("", description="terms of the service")
    source: str = Field("", description="page of the model")
    notes: str = ""

    @property
    def identity(self) -> dict[str, object]:
        """What decides the answers and enters their fingerprints, without prompts and decoding: no key that is unused.

        The address is not among it: the same model may move to another port, proxy or region.
        """
        values = {
            "api": self.api,
            "model": self.model,
            "response_model": self.response_model,
            "seed": self.seed,
            "stop": self.stop or None,
            "max_tokens": self.max_tokens,
        }
        used: dict[str, object] = {key: value for key, value in values.items() if value is not None}
        # none at all is another decoding than the default
        return used if self.temperature == 0.0 else used | {"temperature": self.temperature}

    @property
    def expected_model(self) -> str:
        """The name that responses must carry."""
        return self.response_model or self.model

    @model_validator(mode="before")
    @classmethod
    def _refuse_keys(cls, data: Any) -> Any:
        # before all other checks, whose messages quote values
        for name, value in data.items() if isinstance(data, dict) else ():
            is_key_field = name not in cls.model_fields and _KEY_FIELDS.search(str(name))
            if is_key_field or any(map(looks_like_key, _list_texts(value))):
                raise ValueError(f"{name}: {USE_ENVIRONMENT}")
        variable = data.get("key_variable") if isinstance(data, dict) else None
        if variable is not None and not _VARIABLE.match(str(variable)):
            raise ValueError(f"key_variable: not the name of a variable; {USE_ENVIRONMENT}")
        return data

    @model_validator(mode="after")
    def _check_echo(self) -> "EndpointModel":
        if self.echo and self.api != "completions":
            raise ValueError(
                "echo: only with api: completions; the chat API returns no log-probabilities of a prompt"
            )
        return self


def _list_texts(value: object) -> list[str]:
    if isinstance(value, dict):
        return [text for part in value.values() for text in _list_texts(part)]
    if isinstance(value, list):
        return [text for part in value for text in _list_texts(part)]
    return [value] if isinstance(value, str) else []
