"""The prompts stage, and the one rule by which text becomes tokens."""

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from functools import lru_cache
from pathlib import Path
from typing import Any, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.rows import Record, records
from pipeline.errors import UserError
from pipeline.io import atomic_file, canonical_json
from pipeline.templates import CHAT, TEMPLATES, build_prompt, with_prompt

__all__ = ["IGNORED", "build_prompt", "encode", "encode_example", "read_prompts", "rendered", "write_prompts"]

CHAT_DATE = "01 Jan 2024"  # what a chat template that states the date is given for it
IGNORED = -100  # label of a token that bears no loss, as transformers has it
ROWS_IN_MEMORY = 4096

_ARROW = {str: pa.string(), list[str]: pa.list_(pa.string())}
# a null prompt: the model's own chat template makes it, when it is encoded
SCHEMA = pa.schema(
    [(name, _ARROW[kind]) for name, kind in get_type_hints(Record).items()] + [("prompt", pa.string())]
)


def write_prompts(
    sources: Sequence[Mapping[str, Any]],
    *,
    template: str,
    output: Path,
    limit: int | None,
    sample_seed: int,
    without: Mapping[str, Any] | None = None,
    ahead: Callable[[Record], str] | None = None,
) -> None:
    """Write the records and prompts of one or more raw files as Parquet; memory does not grow with them.

    Args:
        sources: for each raw file: dataset, split, path, answer_form; perhaps known_malformed, rows to leave out.
        template: as for ``build_prompt``.
        output: the file to write.
        limit: number of rows, drawn without replacement from all of them and kept in file order; None: all.
        sample_seed: of that draw.
        without: of a cleaned training set: under "rows" the ids that are left out (before the draw); the file says all
            of it in its metadata.
        ahead: gives a record the text that stands ahead of its prompt (worked examples); None: nothing.

    Raises:
        UserError: malformed rows (all are reported, the first five in the error), or no row at all.
    """
    left_out = {row for row, _ in without["rows"]} if without else set()
    total = sum(record["id"] not in left_out for record in raw_records(sources))
    if not total:
        raise UserError(f"{', '.join(str(source['path']) for source in sources)}: empty split, no rows")
    kept = None
    if limit is not None and limit < total:
        kept = set(random.Random(sample_seed).sample(range(total), limit))
    nullable = {"prompt"} if template == CHAT else set()
    schema = SCHEMA.with_metadata({"left_out": json.dumps(without)}) if without else SCHEMA
    with atomic_file(output) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        batch: list[dict[str, Any]] = []
        remaining = (record for record in raw_records(sources) if record["id"] not in left_out)
        for number, record in enumerate(remaining):
            if kept is None or number in kept:
                example = with_prompt(record, template=template)
                batch.append({**example, "prompt": ahead(record) + example["prompt"]} if ahead else example)
            if len(batch) == ROWS_IN_MEMORY:
                writer.write_table(_checked(batch, schema, nullable))
                batch = []
        if batch:
            writer.write_table(_checked(batch, schema, nullable))


def _checked(rows: Sequence[Mapping[str, Any]], schema: pa.Schema, nullable: Set[str]) -> pa.Table:
    """Return rows as a table; Arrow itself would fill what is missing, drop what is more and keep None."""
    for row in rows:
        missing = [name for name in schema.names if row.get(name) is None and name not in nullable]
        if missing or len(row) != len(schema.names):
            more = [name for name in row if name not in schema.names]
            raise ValueError(f"{row.get('id')}: not a record (missing: {missing}, unknown: {more})")
    return pa.Table.from_pylist(rows, schema=schema)


def raw_records(sources: Sequence[Mapping[str, Any]]) -> Iterator[Record]:
    """Yield the records of raw files; ``sources`` as for ``write_prompts``."""
    for source in sources:
        if source["answer_form"] is None:
            raise UserError(f"params/datasets/{source['dataset']}.yaml: answer_form is missing")
        with Path(source["path"]).open(encoding="utf-8", newline="\n") as lines:
            rows = (json.loads(line) for line in lines)
            named = {key: source[key] for key in ("split", "answer_form")}
            left_out = source.get("known_malformed", ())
            yield from records(rows, task=source["dataset"], known_malformed=left_out, **named)


def read_prompts(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a prompts file.

    Raises:
        UserError: the file is missing, is not Parquet, or holds other columns.
    """
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (pa.ArrowException, OSError) as error:  # an OSError where a column cannot be unpacked
        raise UserError(f"{path}: not a whole Parquet file ({error})") from None
    absent = [name for name in SCHEMA.names if name not in table.column_names]
    if absent:
        raise UserError(f"{path}: not a prompts file (no column '{absent[0]}')")
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


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
