"""Prompt templates: the text that a model reads, by name. A study is checked against the names before it is planned."""

from pipeline.core.errors import UserError

_TASK = "Below is an instruction that describes a task"
_PAIRED = f"{_TASK}, paired with an input that provides further context."
_ASK = "Write a response that appropriately completes the request."
_INDENT = " " * 16

# (without input, with input). The published code's triple-quoted strings carry their indentation and trailing blanks,
# and training and evaluation differ in them: kept byte by byte. Source: AGI-Edgerunners/LLM-Adapters at commit
# 8166572, finetune.py and evaluate.py.
TEMPLATES: dict[str, tuple[str, str]] = {
    "paper-train": (
        f"{_TASK}. {_ASK}  \n\n{_INDENT}### Instruction:\n{_INDENT}{{instruction}}\n{_INDENT}\n"
        f"{_INDENT}### Response:\n{_INDENT}",
        f"{_PAIRED} {_ASK} \n\n{_INDENT}### Instruction:\n{_INDENT}{{instruction}}\n{_INDENT}\n"
        f"{_INDENT}### Input:\n{_INDENT}{{input}}\n{_INDENT}\n{_INDENT}### Response:\n{_INDENT}",
    ),
    "paper-eval": (
        f"{_TASK}. {_ASK} \n\n{_INDENT}### Instruction:\n{_INDENT}{{instruction}}\n\n{_INDENT}### Response:\n{_INDENT}",
        f"{_PAIRED} {_ASK}\n\n{_INDENT}### Instruction:\n{_INDENT}{{instruction}}\n\n"
        f"{_INDENT}### Input:\n{_INDENT}{{input}}\n\n{_INDENT}### Response:\n{_INDENT}",
    ),
    "strict": (
        f"{_TASK}. {_ASK}\n\n### Instruction:\n{{instruction}}\n\n### Response:\n",
        f"{_PAIRED} {_ASK}\n\n### Instruction:\n{{instruction}}\n\n### Input:\n{{input}}\n\n### Response:\n",
    ),
}
# The Alpaca authors' text, the published templates' model: no indentation.
TEMPLATES["alpaca"] = TEMPLATES["strict"]

# The model's own, which its tokenizer has: rendered where text becomes tokens, since prompts are of no one model.
CHAT = "chat"
NAMES = (*TEMPLATES, CHAT)


def build_prompt(instruction: str, input: str = "", *, template: str, response: str | None = None) -> str:
    """Return the text that a model reads, with the response behind it if one is given.

    Args:
        instruction: what is asked.
        input: further context; empty: none.
        template: "paper-train", "paper-eval", "strict" or "alpaca"; "chat" is the model's own, and needs its tokenizer.
        response: what the model is to say; None: the prompt ends where the response begins.

    Raises:
        UserError: unknown template, or the model's own.
    """
    if template == CHAT:
        raise UserError(
            f"template: '{CHAT}' is the model's own; its tokenizer makes it (pipeline.prompts.encode.render_example)"
        )
    if template not in TEMPLATES:
        raise UserError(f"template: unknown '{template}' (choices: {', '.join(NAMES)})")
    text = TEMPLATES[template][bool(input)]
    # by hand, since the texts themselves may hold braces
    head, rest = text.split("{instruction}")
    prompt = head + instruction + rest.replace("{input}", input) if input else head + instruction + rest
    return prompt + (response or "")


def question(prompt: str) -> str:
    """Return what a prompt asks, without its template: the last instruction, of worked examples too, and its input.

    For people: a question that holds the template's marks itself is cut at them, a chat template stays as it is.
    """
    asked = prompt.rpartition("### Instruction:")[2]
    lines = (line.strip() for line in (asked.rpartition("### Response:")[0] or asked).splitlines())
    return "\n".join(line for line in lines if line)
