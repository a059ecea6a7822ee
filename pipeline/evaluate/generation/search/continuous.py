"""Greedy decoding by transformers' continuous batching: a row that ends makes room for the next prompt at once.

Keys and values lie in pages, so rows of any length share one pass without padding. An answer ends as in our own search:
at an end token, at the limit, or once its text is complete, when its request is cancelled. transformers runs the model in
a thread of its own; see ``ContinuousBatchingManager`` in transformers 5.23,
https://github.com/huggingface/transformers/blob/v5.23.0/src/transformers/generation/continuous_batching/continuous_api.py
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from peft import PeftModel, PeftType
from transformers import ContinuousBatchingConfig, GenerationConfig
from transformers.utils import is_flash_attn_2_available

from pipeline.adapters.precision import compute_in
from pipeline.models.bases.placement import is_spread

# Architectures whose tokens equal those of our search; a test compares them. BLOOM, GPT-J and GPT-Neo are missing: they
# compute attention without transformers' interface for it, so the first two forget the prompt, without an error.
PAGED_ARCHITECTURES = frozenset(
    {"llama", "opt", "gpt2", "gpt_neox", "mistral", "qwen3", "gemma3_text", "olmo2", "phi3"}
)
# Tokens of a page: those of flash-attn's kernels are multiples of it. A row wastes half a page on average.
PAGE_TOKENS = 256
# Tokens of a pass at most, by which the keys and values of long prompts are computed in parts. Without flash-attn, each of
# them has a mask over the keys of all rows.
PASS_TOKENS = 1024
# of a pass; each has a row of logits
MOST_ROWS = 256
# seconds between two looks at whether the thread still runs
POLL_SECONDS = 1.0
# Tokens between two checks for a complete answer. What is generated beyond completion is cut off.
COMPLETION_CHECK_STEPS = 8
# Prompts are passed on in groups of so many times the tokens of the cache: a killed job repeats a group, and only at the
# end of a group are fewer rows in a pass.
GROUP_CACHES = 8


class Pages(NamedTuple):
    """How continuous batching runs.

    Attributes:
        tokens: that the cache holds; a single row may need more.
        dtype: in which the model computes.
    """

    tokens: int
    dtype: str


def continuous_refusal(
    model: Any, *, num_beams: int, masked: bool, dtype: str, sampled: bool = False
) -> str | None:
    """Return why continuous batching cannot answer as our own search does; None: it can.

    Args:
        model: a bare base or a PeftModel with any method.
        num_beams: of the search.
        masked: whether padding is masked.
        dtype: in which the model computes.
        sampled: whether tokens are drawn at random.
    """
    if sampled:
        return "answers are sampled"
    if num_beams > 1:
        return f"the search has {num_beams} beams"
    if not masked:
        return "padding is not masked"
    if is_spread(model):
        return "the base is split over several GPUs"
    architecture = model.config.model_type
    if architecture not in PAGED_ARCHITECTURES:
        return f"no test proves equal answers for {architecture}"
    if isinstance(model, PeftModel):
        method: Any = model.active_peft_config
        if method.is_prompt_learning or method.peft_type == PeftType.ADAPTION_PROMPT:
            return "the method adds tokens to the prompt"
    if model.dtype != getattr(torch, dtype):
        return f"keys are computed in {dtype}, and weights are {model.dtype}".replace("torch.", "")
    return None


def decode_continuously(
    model: Any,
    prompts: Sequence[list[int]],
    config: GenerationConfig,
    completion: Callable[[list[int]], bool] | None,
    pages: Pages,
) -> list[list[int]]:
    """Return the new tokens of each prompt; a row that was complete may have further tokens at its end.

    Args:
        model: one that ``continuous_refusal`` accepts, in eval mode.
        prompts: token ids of each row.
        config: max_new_tokens and eos_token_id (a list) are used.
        completion: ends a row early; None: only the end token does.
        pages: how it runs.

    Raises:
        RuntimeError: raised in the thread, such as torch's when memory runs out.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    rows: list[list[int]] = [[] for _ in prompts]
    # not torch.inference_mode, whose tensors transformers' thread could not use
    with ExitStack() as stack, torch.no_grad():
        stack.enter_context(_thread_computes_in(base, pages.dtype))
        stack.enter_context(_fast_attention(base, pages.dtype))
        manager = stack.enter_context(_manager(base, prompts, config, pages))
        pending = set(range(len(prompts)))
        try:
            for row, tokens, ended in _results(manager, prompts, streaming=completion is not None):
                # the thread may have sent further tokens of a cancelled row
                if row not in pending:
                    continue
                rows[row] = tokens
                checked = completion is not None and len(tokens) % COMPLETION_CHECK_STEPS == 0
                if not ended and checked and completion is not None and completion(tokens):
                    manager.cancel_request(str(row))
                    ended = True
                if ended:
                    pending.discard(row)
                if not pending:
                    break
        finally:
            # leaving the manager waits for all rows that it still has
            for row in pending:
                manager.cancel_request(str(row))
    if pending:
        raise manager.background_thread_status.fatal_error or RuntimeError("continuous batching ended early")
    return rows


def _results(
    manager: Any, prompts: Sequence[list[int]], *, streaming: bool
) -> Iterator[tuple[int, list[int], bool]]:
    """Yield (row, its new tokens so far, whether it has ended) until the thread ends or fails."""
    for row, prompt in enumerate(prompts):
        manager.add_request(prompt, request_id=str(row), streaming=streaming)
    while True:
        result = manager.get_result(timeout=POLL_SECONDS)
        if result is None:
            if not manager.is_running():
                return
            continue
        if result.error is not None:
            return
        yield int(result.request_id), list(result.generated_tokens), result.is_finished()


@contextmanager
def _manager(
    base: Any, prompts: Sequence[list[int]], config: GenerationConfig, pages: Pages
) -> Iterator[Any]:
    """Yield a manager whose thread runs, and end it afterwards."""
    # layers with a window have pages of their own
    rows = [2 * -(-(len(prompt) + int(config.max_new_tokens or 0)) // PAGE_TOKENS) for prompt in prompts]
    options = ContinuousBatchingConfig(
        page_size=PAGE_TOKENS,
        # no more than the rows can use: a batch that does not fit in memory is divided, and its cache with it
        num_blocks=max(min(-(-pages.tokens // PAGE_TOKENS), sum(rows) + 2), max(rows) + 2),
        max_batch_tokens=PASS_TOKENS,
        max_requests_per_batch=min(len(prompts), MOST_ROWS),
        # it would also take kernels from the hub
        auto_switch_to_flash=False,
    )
    search = GenerationConfig(
        do_sample=False,
        max_new_tokens=config.max_new_tokens,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    )
    with base.continuous_batching_context_manager(
        generation_config=search, continuous_batching_config=options
    ) as manager:
        yield manager


@contextmanager
def _thread_computes_in(base: Any, dtype: str) -> Iterator[None]:
    """Let a model compute in a dtype in any thread: autocast holds only in the thread that enters it."""
    entered = []

    def enter(*_: Any) -> None:
        context = compute_in(dtype, base.device)
        context.__enter__()
        entered.append(context)

    def leave(*_: Any) -> None:
        entered.pop().__exit__(None, None, None)

    handles = (
        base.register_forward_pre_hook(enter),
        base.register_forward_hook(leave, always_call=True),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _fast_attention(base: Any, dtype: str) -> Iterator[None]:
    """Let a model on a GPU use flash-attn, if it is installed: it reads the keys of a row alone, in 16 bits only."""
    before = base.config._attn_implementation
    is_usable = base.device.type == "cuda" and dtype != "float32" and is_flash_attn_2_available()
    if is_usable:
        base.set_attn_implementation("flash_attention_2")
    try:
        yield
    finally:
        if is_usable:
            base.set_attn_implementation(before)
