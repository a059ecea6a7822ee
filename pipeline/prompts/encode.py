"""From text to token ids: chat templates, the start and end tokens, truncation and loss labels."""

import hashlib
from functools import lru_cache
from typing import Any

from pipeline.core.errors import UserError, one_line
from pipeline.core.io import canonical_json
from pipeline.params.templates import CHAT, TEMPLATES
from pipeline.prompts.rows import PromptRow, RenderedExample, user_message

# the date passed to a chat template that prints today's date
CHAT_DATE = "01 Jan 2024"
# label of a token that is excluded from the loss, as in transformers
IGNORED = -100


def render_example(
    tokenizer: Any, row: PromptRow | RenderedExample, *, with_response: bool = True
) -> RenderedExample:
    """Return a row with the exact prompt and response texts to encode.

    A row that has a prompt is returned as it is. If the prompt is None, the chat template of the model renders both
    texts, and ``add_start`` is False. The prompt is one user message: the instruction, then a blank line and the input.
    The response is everything that the template writes after the prompt, including the end-of-turn marker but without
    trailing white space.

    Args:
        tokenizer: the tokenizer of the model.
        row: a row of a prompts file.
        with_response: False for evaluation, so that a template that cannot render an assistant turn still works.

    Raises:
        UserError: the tokenizer has no chat template, or its template cannot render a question and an answer.
    """
    if (prompt := row["prompt"]) is not None:
        return {**row, "prompt": prompt}
    question = [{"role": "user", "content": user_message(row)}]
    prompt = _apply_chat_template(tokenizer, question, add_generation_prompt=True)
    rendered: RenderedExample = {**row, "prompt": prompt, "add_start": False}
    if not with_response or not row["response"]:
        return rendered
    conversation = [*question, {"role": "assistant", "content": row["response"]}]
    text = _apply_chat_template(tokenizer, conversation, add_generation_prompt=False)
    if not text.startswith(prompt):
        raise UserError(
            f"{_chat_template_of(tokenizer)} renders a conversation differently with and without its answer, so "
            "training and evaluation prompts would differ; use another template"
        )
    return {**rendered, "response": text[len(prompt) :].rstrip()}


def _apply_chat_template(
    tokenizer: Any, messages: list[dict[str, str]], *, add_generation_prompt: bool
) -> str:
    from jinja2 import TemplateError

    if not getattr(tokenizer, "chat_template", None):
        raise UserError(
            f"{_chat_template_of(tokenizer)} is missing; use another template, or a model that has one"
        )
    options: dict[str, Any] = {"tokenize": False}
    if add_generation_prompt:
        options["add_generation_prompt"] = True
    try:
        fixed_date = _fixed_date(tokenizer, tokenizer.get_chat_template())
        text: str = tokenizer.apply_chat_template(messages, **fixed_date, **options)
    except (TemplateError, ValueError) as error:
        raise UserError(f"{_chat_template_of(tokenizer)} fails: {one_line(error)}") from error
    return text


def _fixed_date(tokenizer: Any, template: str) -> dict[str, str]:
    """Return the date argument of a template that prints today's date (Llama 3.2 does); prompts must not change daily."""
    if "strftime_now" not in template:
        return {}
    if "date_string" not in template:
        raise UserError(
            f"{_chat_template_of(tokenizer)} prints today's date (strftime_now) and takes no fixed date (date_string), "
            "so its prompts would change from day to day; use another template"
        )
    return {"date_string": CHAT_DATE}


def _chat_template_of(tokenizer: Any) -> str:
    return f"template '{CHAT}': the chat template of {tokenizer.name_or_path or 'this model'}"


def encode_example(
    tokenizer: Any,
    row: PromptRow | RenderedExample,
    *,
    with_response: bool = True,
    cutoff_len: int | None = None,
    train_on_inputs: bool = True,
) -> tuple[list[int], list[int]]:
    """Return the token ids and labels of a row of a prompts file, by the rules of ``encode``.

    With a chat template, the start token is present only if the template writes it.
    """
    example = render_example(tokenizer, row, with_response=with_response)
    return encode(
        tokenizer,
        example["prompt"],
        example["response"] if with_response else None,
        cutoff_len=cutoff_len,
        train_on_inputs=train_on_inputs,
        add_start=example.get("add_start", True),
    )


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
    """Return the token ids and labels of a prompt and its response, by the published rules.

    Training and evaluation use the same rules.

    Args:
        tokenizer: the tokenizer of the model.
        prompt: the text before the response.
        response: None for evaluation: the prompt alone, without an end token.
        cutoff_len: most tokens of prompt and response; the rest is cut on the right. None: no limit.
        train_on_inputs: False masks the labels of the prompt with ``IGNORED``; otherwise the labels are the ids.
        add_eos: append the end token to a response that was not cut and does not already end in it.
        add_start: put the start token first, exactly once, for a tokenizer that adds it (LLaMA's does; BLOOM's and
            GPT-J's have a start token but do not add it).

    Source: AGI-Edgerunners/LLM-Adapters at commit 8166572, finetune.py (tokenize, generate_and_tokenize_prompt).
    """
    ids = _tokenize(tokenizer, prompt + (response or ""), add_start)[:cutoff_len]
    if response is None:
        return ids, list(ids)
    if add_eos and ids[-1] != tokenizer.eos_token_id and (cutoff_len is None or len(ids) < cutoff_len):
        ids.append(tokenizer.eos_token_id)
    if train_on_inputs:
        return ids, list(ids)
    # the prompt is tokenized on its own, as in the published code, although a token may span its end
    masked = min(len(_tokenize(tokenizer, prompt, add_start)), len(ids))
    return ids, [IGNORED] * masked + ids[masked:]


def hash_tokenizer(tokenizer: Any) -> str:
    """Return 12 hex digits that identify how a tokenizer encodes text.

    They cover its vocabulary, its special tokens, the ids of a sample text and its chat template.
    """
    special = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id)
    # accents, digits and indentation are where tokenizers with one vocabulary still differ
    sample = tokenizer(TEMPLATES["paper-eval"][1] + " Ünï 3,141.5 (B)")["input_ids"]
    chat = [tokenizer.chat_template] if getattr(tokenizer, "chat_template", None) else []
    content = canonical_json([sorted(tokenizer.get_vocab().items()), special, sample, *chat])
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def _tokenize(tokenizer: Any, text: str, add_start: bool) -> list[int]:
    # Tokenizers differ in the special tokens that they add by themselves; here one rule adds the start token.
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    start = tokenizer.bos_token_id
    return [start, *ids] if add_start and _adds_start(tokenizer) and ids[:1] != [start] else ids


@lru_cache(maxsize=4)
def _adds_start(tokenizer: Any) -> bool:
    start = tokenizer.bos_token_id
    return start is not None and tokenizer("")["input_ids"][:1] == [start]
