"""The prompts stage, and the one rule by which text becomes tokens."""

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from pipeline.core.errors import UserError
from pipeline.core.io import canonical_json
from pipeline.params.templates import CHAT, TEMPLATES

CHAT_DATE = "01 Jan 2024"  # what a chat template that states the date is given for it
IGNORED = -100  # label of a token that bears no loss, as transformers has it


def rendered(tokenizer: Any, example: Mapping[str, Any], *, with_response: bool = True) -> dict[str, Any]:
    """Return an example with its prompt and response as they are encoded: as they are, if it has a prompt.

    If that is None, the two are texts of the model's own chat template, and "add_start" is False. The prompt is one
    message of the user: the instruction and, a blank line below it, the input. The response is all that the template puts
    behind the prompt, the mark of its turn's end included, white space behind that left out.

    Args:
        tokenizer: of the model.
        example: instruction, input, response and prompt, as a row of a prompts file has them.
        with_response: False where a model is asked, so that a template which takes no answers will do.

    Raises:
        UserError: the tokenizer has no chat template, or one that does not fit a question and an answer.
    """
    if example["prompt"] is not None:
        return dict(example)
    instruction, context = example["instruction"], example["input"]
    asked = [{"role": "user", "content": f"{instruction}\n\n{context}" if context else instruction}]
    prompt = _in_chat(tokenizer, asked, add_generation_prompt=True)
    found = {**example, "prompt": prompt, "add_start": False}
    if not with_response or not example["response"]:
        return found
    whole = _in_chat(tokenizer, [*asked, {"role": "assistant", "content": example["response"]}])
    if not whole.startswith(prompt):
        raise UserError(
            f"{_chat_of(tokenizer)} writes a conversation with its answer otherwise than the prompt for that answer, "
            "so what is learnt would not be what is asked; use another template"
        )
    return {**found, "response": whole[len(prompt) :].rstrip()}


def _in_chat(tokenizer: Any, messages: list[dict[str, str]], **options: Any) -> str:
    from jinja2 import TemplateError

    if not getattr(tokenizer, "chat_template", None):
        raise UserError(f"{_chat_of(tokenizer)} is missing; use another template, or a model that has one")
    try:
        dated = _dated(tokenizer, tokenizer.get_chat_template())
        text: str = tokenizer.apply_chat_template(messages, tokenize=False, **dated, **options)
    except (TemplateError, ValueError) as error:
        raise UserError(f"{_chat_of(tokenizer)} refuses: {' '.join(str(error).split())}") from error
    return text


def _dated(tokenizer: Any, template: str) -> dict[str, str]:
    """Return the date for a template that would state today's (Llama 3.2's does): prompts must not change from day to day."""
    if "strftime_now" not in template:
        return {}
    if "date_string" not in template:
        raise UserError(
            f"{_chat_of(tokenizer)} states today's date (strftime_now) and takes no other (date_string), so its prompts "
            "would change from day to day; use another template"
        )
    return {"date_string": CHAT_DATE}


def _chat_of(tokenizer: Any) -> str:
    return f"template '{CHAT}': the chat template of {tokenizer.name_or_path or 'this model'}"


def encode_example(
    tokenizer: Any, example: Mapping[str, Any], *, with_response: bool = True, **options: Any
) -> tuple[list[int], list[int]]:
    """Return token ids and labels of a row of a prompts file, by the rules of ``encode``, which takes the ``options``.

    In the model's own chat template the start token is there only if the template writes it.
    """
    given = rendered(tokenizer, example, with_response=with_response)
    response = given["response"] if with_response else None
    return encode(tokenizer, given["prompt"], response, add_start=given.get("add_start", True), **options)


def encode(
    tokenizer: Any,
    prompt: str,
    response: str | None = None,
    *,
    cutoff_len: int | None = None,
    train_on_inputs: bool = True,
    add_eos: bool = True,
    add_start: bool = True,
) -> tuple[list[int], list[int]]:
    """Return token ids and labels of a prompt with its response, by the published rules.

    The start token stands first, exactly once, in training and evaluation alike, if the tokenizer puts it there by itself
    (LLaMA's does; BLOOM's and GPT-J's have one and do not) and ``add_start``. What goes beyond ``cutoff_len`` tokens is
    cut on the right. With a response the end token is added if the text has not been cut and does not end in it. Labels are the ids; without ``train_on_inputs`` the prompt's are ``IGNORED``.

    Source: AGI-Edgerunners/LLM-Adapters at commit 8166572, finetune.py (tokenize, generate_and_tokenize_prompt).
    """
    ids = _tokens(tokenizer, prompt + (response or ""), add_start)[:cutoff_len]
    if response is None:
        return ids, list(ids)
    if add_eos and ids[-1] != tokenizer.eos_token_id and (cutoff_len is None or len(ids) < cutoff_len):
        ids.append(tokenizer.eos_token_id)
    if train_on_inputs:
        return ids, list(ids)
    masked = min(len(_tokens(tokenizer, prompt, add_start)), len(ids))
    return ids, [IGNORED] * masked + ids[masked:]


def tokenizer_sum(tokenizer: Any) -> str:
    """Return 12 hex digits of what a tokenizer makes of text: its tokens, its special ones, a sample's ids, its chat template."""
    special = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id)
    sample = tokenizer(TEMPLATES["paper-eval"][1] + " Ünï 3,141.5 (B)")["input_ids"]
    chat = [tokenizer.chat_template] if getattr(tokenizer, "chat_template", None) else []
    content = canonical_json([sorted(tokenizer.get_vocab().items()), special, sample, *chat])
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def _tokens(tokenizer: Any, text: str, add_start: bool) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    start = tokenizer.bos_token_id
    return [start, *ids] if add_start and _adds_start(tokenizer) and ids[:1] != [start] else ids


@lru_cache(maxsize=4)
def _adds_start(tokenizer: Any) -> bool:
    start = tokenizer.bos_token_id
    return start is not None and tokenizer("")["input_ids"][:1] == [start]
