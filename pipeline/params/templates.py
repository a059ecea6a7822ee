"""Prompt templates by name, and the prompts made from them."""

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
# The text of the Alpaca authors, which the published templates are copies of: no indentation.
TEMPLATES["alpaca"] = TEMPLATES["strict"]

# Prompts to a teacher. Another wording is another version, under another name: data keep the one that they were made with.
# Source of the words: Kojima et al. 2022, arXiv:2205.11916 (zero-shot-CoT); arXiv:2304.01933 made math_10k with such a prompt.
TEMPLATES["zero-shot-cot-v1"] = (
    "Q: {instruction}\nA: Let's think step by step.",
    "Q: {instruction}\n{input}\nA: Let's think step by step.",
)

# The chat template of a model is part of its tokenizer, so it is rendered when text becomes tokens: a prompts file is
# shared by all models.
CHAT = "chat"
TEMPLATE_NAMES = (*TEMPLATES, CHAT)


def build_prompt(instruction: str, input: str = "", *, template: str, response: str | None = None) -> str:
    """Return the prompt of an instruction, with the response after it if there is one.

    Args:
        instruction: the question or task.
        input: further context; empty: none.
        template: a key of TEMPLATES; "chat" is refused: it needs the model's tokenizer.
        response: the wanted answer, in training; None: the prompt ends where the response begins.

    Raises:
        UserError: unknown template, or "chat".
    """
    if template == CHAT:
        raise UserError(
            f"template: '{CHAT}' needs the model's tokenizer; use pipeline.prompts.encode.render_example"
        )
    if template not in TEMPLATES:
        raise UserError(f"template: unknown '{template}' (choices: {', '.join(TEMPLATE_NAMES)})")
    text = TEMPLATES[template][bool(input)]
    # not str.format, since the texts may contain braces
    before, after = text.split("{instruction}")
    prompt = before + instruction + (after.replace("{input}", input) if input else after)
    return prompt + (response or "")


def extract_question(prompt: str) -> str:
    """Return the question of a prompt without its template: the last instruction and its input.

    It is for display: a question that contains the template's marks is cut at them, and a chat template is kept whole.
    """
    instruction = prompt.rpartition("### Instruction:")[2]
    body = instruction.rpartition("### Response:")[0] or instruction
    return "\n".join(line.strip() for line in body.splitlines() if line.strip())
