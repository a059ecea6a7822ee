"""The rows of answer files, and what a model is evaluated on. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NotRequired, TypedDict, final

from pipeline.core.work_folder import work_folder
from pipeline.params.protocols import Decoding

# Why generation stopped: the end token, the token limit, or (greedy decoding only) the model began another example.
StopReason = Literal["eos", "length", "complete"]


class FirstAnswer(TypedDict):
    """An unparsed first answer, after which a second stage prompted again."""

    text: str
    stop: StopReason


class Sample(TypedDict):
    """One of several sampled answers to a question."""

    text: str
    # new tokens, the end token included
    tokens: int
    stop: StopReason


# final: a type checker can tell the two kinds of answers apart by their keys
@final
class TextAnswer(TypedDict):
    """A generated answer; of several sampled ones, "text", "tokens" and "stop" are those of the first."""

    id: str
    # in a second stage, it includes the first answer and the closing words
    prompt: str
    text: str
    # new tokens, the end token included
    tokens: int
    stop: StopReason
    # only where a second stage prompted again; a parsed first answer keeps the row of the first stage
    first: NotRequired[FirstAnswer]
    # only under a sampling protocol: the samples behind the first one, in their order
    further_samples: NotRequired[list[Sample]]


def list_samples(answer: TextAnswer) -> list[TextAnswer]:
    """Return the samples of an answer in their order, each as an answer of its own; an answer without others is the only one."""
    first = answer.copy()
    first.pop("further_samples", None)
    samples = [first]
    for sample in answer.get("further_samples", []):
        other = first.copy()
        other["text"], other["tokens"], other["stop"] = sample["text"], sample["tokens"], sample["stop"]
        samples.append(other)
    return samples


def format_texts(answer: TextAnswer) -> str:
    """Return the text of an answer; of several samples, all texts with their numbers."""
    samples = list_samples(answer)
    if len(samples) == 1:
        return answer["text"]
    return "\n".join(f"[{number}] {sample['text']}" for number, sample in enumerate(samples, start=1))


@final
class LikelihoodAnswer(TypedDict):
    """Log-likelihoods of an example's choices; all lists are in the order of ``choices``."""

    id: str
    prompt: str
    choices: list[str]
    # what was scored for each choice
    continuations: list[str]
    # natural logarithms, summed over a continuation's tokens; None where not finite
    loglikelihoods: list[float | None]
    # the same behind the protocol's neutral prompt, where it has one
    unconditional: NotRequired[list[float | None]]
    # lengths of each continuation: tokens, characters, UTF-8 bytes
    tokens: list[int]
    characters: list[int]
    bytes: list[int]


@final
class TextLikelihood(TypedDict):
    """The negative log-likelihood of a text."""

    id: str
    # natural logarithms, summed over the text's tokens; None where not finite
    nats: float | None
    # tokens that count
    tokens: int
    # of the whole text
    characters: int
    bytes: int


class MergeOutcome(TypedDict):
    """Whether an adapter was merged into its base's weights."""

    merged: bool
    # of a merged adapter: the largest change of a log-probability
    difference: NotRequired[float]
    # of an adapter that was not merged: the reason
    why: NotRequired[str]


class ContinuousBatchingOutcome(TypedDict):
    """Whether transformers' continuous batching generated the answers, where the machine asks for it."""

    used: bool
    # where our own search generated them: the reason
    why: NotRequired[str]


class TaskCost(TypedDict):
    """What the answers to a task took, as run.json has it."""

    # examples answered by the last process; an earlier, killed one may have answered the others. Missing for a model
    # behind an endpoint.
    answered: NotRequired[int]
    # of a model behind an endpoint: calls of the last process
    calls: NotRequired[int]
    # rows of the smallest batch, which is smaller than planned if memory was short
    rows_at_once: int
    # prompts that were cut to the model's positions; of references, those that do not fit into the window
    cut_prompts: int
    # rows of the largest batch; in 16 bits an answer may depend on the other rows of its batch. Batches of an earlier,
    # killed process count as they were planned.
    largest_batch: int
    # padded tokens of a batch, or of the pages of continuous batching; missing where the protocol sets the batches
    batch_tokens: NotRequired[int]
    # in which the answers were computed, and to which the base's weights were rounded
    dtype: NotRequired[str]
    weights: NotRequired[str]
    # of the base's linear modules; missing: they are not quantized
    quantization: NotRequired[str]
    seconds: NotRequired[float]
    # of a model behind an endpoint: tokens of all responses as it states them, and what they cost at its card's price
    input_tokens: NotRequired[int]
    output_tokens: NotRequired[int]
    cost: NotRequired[float]
    currency: NotRequired[str]
    merge_adapter: NotRequired[MergeOutcome]
    continuous_batching: NotRequired[ContinuousBatchingOutcome]


@dataclass(frozen=True)
class FirstStage:
    """The first stage of a second stage.

    Attributes:
        answers: the file of the first stage's answers.
        form: the task's answer form.
        shots: number of worked examples in each prompt.
    """

    answers: Path
    form: str
    shots: int


@dataclass(frozen=True)
class GenerationTask:
    """A task under a protocol, as a model is evaluated on it.

    Attributes:
        name: TASK-PROTOCOL, the stem of the answers' file.
        prompts: the prompts file.
        decoding: how answers are generated.
        fingerprint: of the answers: model, prompts and decoding.
        first: for a second stage, its first stage; None: this is no second stage.
    """

    name: str
    prompts: Path
    decoding: Decoding
    fingerprint: str
    first: FirstStage | None = None


@dataclass(frozen=True)
class GenerationRequest:
    """A model and the tasks that it is evaluated on.

    Attributes:
        name: of the model, for messages.
        adapter: directory of the adapter; None: the bare base.
        tasks: to generate answers for.
        output: directory to write.
        siblings: directory whose sub-directories hold answers of the same adapter to other sets of tasks.
    """

    name: str
    adapter: Path | None
    tasks: tuple[GenerationTask, ...]
    output: Path
    siblings: Path


def is_generated(request: GenerationRequest) -> bool:
    """Whether all answers and their run.json are in the work folder, so that only renaming it is left."""
    work = work_folder(request.output)
    return (work / "run.json").exists() and all(answers_file(work, task).exists() for task in request.tasks)


def answers_file(work: Path, task: GenerationTask) -> Path:
    """Return the file of the answers to a task in a work folder."""
    return work / f"{task.name}.jsonl"
