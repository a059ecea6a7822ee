"""A task as requests to an endpoint, and its answers file from their responses. Imports no torch.

The rows are those of a model on this machine (pipeline.evaluate.generation.rows), so that everything after the answers is the
same.
"""

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pipeline.evaluate.endpoints.exchanges import (
    EchoedLikelihood,
    Exchange,
    Request,
    echo_request,
    read_likelihood,
    read_text,
    text_request,
)
from pipeline.evaluate.generation.rows import LikelihoodAnswer, TextAnswer
from pipeline.evaluate.scoring.choices import list_continuations
from pipeline.params.endpoints.cards import EndpointModel
from pipeline.params.protocols import Decoding
from pipeline.prompts.rows import PromptRow, RenderedExample, user_message


class TextTask(NamedTuple):
    """Examples that get generated texts, and the requests of each, in their order; a request for each of ``samples`` texts."""

    examples: list[RenderedExample]
    requests: list[Request]
    samples: int


class LikelihoodTask(NamedTuple):
    """Examples whose choices are compared.

    Attributes:
        examples: in their order.
        continuations: of each example, the text of each choice.
        requests: of each example, one for each choice; then one for each behind the neutral prompt, if there is one.
        starts: of each request, the character at which its continuation begins.
    """

    examples: list[RenderedExample]
    continuations: list[list[str]]
    requests: list[list[Request]]
    starts: list[list[int]]


def render_for_endpoint(row: PromptRow | RenderedExample) -> RenderedExample:
    """Return a row with the text that is sent; under the template "chat" the endpoint itself renders the message."""
    prompt = row["prompt"]
    return {**row, "prompt": user_message(row) if prompt is None else prompt}


def plan_texts(card: EndpointModel, examples: Sequence[RenderedExample], decoding: Decoding) -> TextTask:
    """Return the requests for generated answers to examples.

    Sampled answers to an example have seeds of their own, which depend on the seed, the example's id and the number of the
    answer alone. Whether equal seeds give equal answers is up to the endpoint.
    """
    samples = decoding.get("samples", 1)
    requests = [
        text_request(
            card,
            example["prompt"],
            max_new_tokens=decoding["max_new_tokens"],
            sample=sample,
            seed=_draw_seed(example["id"], sample, decoding["sampling_seed"])
            if "sampling_seed" in decoding
            else None,
            temperature=decoding.get("temperature"),
            top_p=decoding.get("top_p"),
        )
        for example in examples
        for sample in range(samples)
    ]
    return TextTask(list(examples), requests, samples)


def _draw_seed(example: str, sample: int, seed: int) -> int:
    # a text, as for a model on this machine (pipeline.evaluate.generation.search.sampling)
    return random.Random(f"sample {sample} of {example}, seed {seed}").getrandbits(31)


def read_texts(card: EndpointModel, task: TextTask, exchanges: Sequence[Exchange]) -> Iterator[TextAnswer]:
    """Yield the answers to the examples of a task.

    Args:
        card: of the endpoint.
        task: from ``plan_texts``.
        exchanges: one for each request.
    """
    for number, example in enumerate(task.examples):
        own = exchanges[number * task.samples : (number + 1) * task.samples]
        first, *others = (read_text(card, exchange) for exchange in own)
        answer: TextAnswer = {
            "id": example["id"],
            "prompt": example["prompt"],
            "text": first.text,
            "tokens": first.tokens,
            "stop": first.stop,
        }
        if others:
            answer["further_samples"] = [
                {"text": text.text, "tokens": text.tokens, "stop": text.stop} for text in others
            ]
        yield answer


def plan_likelihoods(
    card: EndpointModel, examples: Sequence[RenderedExample], decoding: Decoding
) -> LikelihoodTask:
    """Return the requests for the log-likelihoods of the choices of examples.

    White space at the end of a prompt belongs to the continuation, as for a model on this machine.

    Raises:
        UserError: an example without choices, or without their words where the protocol needs them.
    """
    neutral = decoding.get("unconditional")
    task = LikelihoodTask(list(examples), [], [], [])
    for example in examples:
        texts = list_continuations(example, decoding["continuation"])
        prompts = [example["prompt"], *([] if neutral is None else [neutral])]
        task.continuations.append(texts)
        task.requests.append([echo_request(card, prompt + text) for prompt in prompts for text in texts])
        task.starts.append([len(prompt.rstrip()) for prompt in prompts for _ in texts])
    return task


def read_likelihoods(
    task: LikelihoodTask, exchanges: Sequence[Exchange], *, where: str
) -> Iterator[LikelihoodAnswer]:
    """Yield the log-likelihoods of the examples of a task.

    Args:
        task: from ``plan_likelihoods``.
        exchanges: one for each request of each example.
        where: the model's card, for messages.

    Raises:
        UserError: the endpoint returned no log-probabilities of the prompt.
    """
    remaining = iter(exchanges)
    for example, texts, starts in zip(task.examples, task.continuations, task.starts, strict=True):
        # starts come first: zip would take an exchange too many
        values = [
            read_likelihood(exchange, start=start, where=where)
            for start, exchange in zip(starts, remaining, strict=False)
        ]
        yield _likelihood_answer(example, texts, values)


def _likelihood_answer(
    example: RenderedExample, texts: list[str], values: Sequence[EchoedLikelihood]
) -> LikelihoodAnswer:
    count = len(texts)
    answer: LikelihoodAnswer = {
        "id": example["id"],
        "prompt": example["prompt"],
        "choices": example["choices"],
        "continuations": texts,
        "loglikelihoods": [value.loglikelihood for value in values[:count]],
        "tokens": [value.tokens for value in values[:count]],
        "characters": [len(text) for text in texts],
        "bytes": [len(text.encode()) for text in texts],
    }
    if len(values) > count:
        answer["unconditional"] = [value.loglikelihood for value in values[count:]]
    return answer
