"""The chat template of a model's own tokenizer: its text and tokens, and the rules of the other templates."""

import pytest
from transformers import AutoTokenizer

from pipeline.commands.look.lengths import count_lengths
from pipeline.commands.look.show import print_tokens
from pipeline.core.errors import UserError
from pipeline.params.templates import build_prompt
from pipeline.prompts.encode import IGNORED, encode_example, render_example
from pipeline.prompts.rows import add_prompt
from tests.tiny import CHAT, save_base

RECORD = {
    "instruction": "w1 w2",
    "input": "w3",
    "response": "w4 w5",
    "answer": "w5",
    "choices": [],
    "answer_form": "text",
}
QUESTION_TOKENS = ["w10", "w1", "w2", "w3", "</s>", "w12", "w11"]
ANSWER_TOKENS = ["w4", "w5", "</s>", "w12"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    save_base("llama", folder, chat_template=CHAT)
    return folder


@pytest.fixture
def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


def example(**changes):
    return add_prompt({**RECORD, **changes}, template="chat")


def words(tokenizer, ids):
    return tokenizer.convert_ids_to_tokens(ids)


def test_the_prompt_equals_the_chat_template_of_the_tokenizer(tokenizer):
    ids, _ = encode_example(tokenizer, example(), with_response=False)
    messages = [{"role": "user", "content": "w1 w2\n\nw3"}]
    assert ids == tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    # no start token: this template writes none
    assert words(tokenizer, ids) == QUESTION_TOKENS
    assert words(tokenizer, encode_example(tokenizer, example(input=""))[0])[:4] == [
        "w10",
        "w1",
        "w2",
        "</s>",
    ]


def test_the_loss_covers_the_response_and_the_end_of_its_turn(tokenizer):
    ids, labels = encode_example(tokenizer, example(), train_on_inputs=False)
    assert words(tokenizer, ids) == [*QUESTION_TOKENS, *ANSWER_TOKENS, "</s>"]
    assert labels == [IGNORED] * len(QUESTION_TOKENS) + ids[len(QUESTION_TOKENS) :]
    assert encode_example(tokenizer, example())[1] == ids


def test_a_turn_that_ends_in_the_end_token_gets_no_second_end_token(tokenizer):
    # the line break after the end token is dropped
    tokenizer.chat_template = CHAT.replace(" w12", "")
    ids, _ = encode_example(tokenizer, example())
    assert words(tokenizer, ids)[-3:] == ["w4", "w5", "</s>"]


def test_an_example_longer_than_the_cutoff_is_cut_on_the_right(tokenizer):
    ids, labels = encode_example(tokenizer, example(), cutoff_len=9, train_on_inputs=False)
    assert words(tokenizer, ids) == [*QUESTION_TOKENS, "w4", "w5"]
    assert sum(label != IGNORED for label in labels) == 2


def test_a_start_token_written_by_the_template_is_not_repeated(tokenizer):
    tokenizer.chat_template = "{{ bos_token }} " + CHAT
    assert words(tokenizer, encode_example(tokenizer, example())[0])[:2] == ["<s>", "w10"]


def test_a_template_with_the_date_renders_the_same_date_every_day(tokenizer):
    dated = "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    tokenizer.chat_template = dated + "w1 {{ date_string }} " + CHAT
    rendered = render_example(tokenizer, example())
    assert rendered["prompt"].startswith("w1 01 Jan 2024 w10 ")
    assert rendered["response"].startswith("w4 w5")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "is missing; use another template"),
        ("{{ raise_exception('only system messages') }}", "fails: only system messages"),
        ("{{ messages | length }}{{ messages[-1].content }}", "renders a conversation differently"),
        ("{% if %}", "fails: "),
        ("{{ strftime_now('%Y') }}" + CHAT, "prints today's date .*change from day to day"),
    ],
)
def test_an_unusable_chat_template_is_reported_in_one_line(tokenizer, template, message):
    tokenizer.chat_template = template
    with pytest.raises(UserError, match=r"^template 'chat': the chat template of .*" + message) as error:
        encode_example(tokenizer, example())
    assert "\n" not in str(error.value)


def test_other_templates_do_not_depend_on_the_tokenizer(tokenizer):
    strict = add_prompt(RECORD, template="strict")
    assert strict["prompt"] == build_prompt("w1 w2", "w3", template="strict")
    assert render_example(tokenizer, strict) == strict
    with pytest.raises(UserError, match="'chat' needs the model's tokenizer"):
        build_prompt("w1", template="chat")
    with pytest.raises(UserError, match=r"unknown 'chatty' \(choices: .*strict.*chat\)"):
        add_prompt(RECORD, template="chatty")


def test_show_and_lengths_encode_as_training_does(tokenizer, capsys):
    record = {**RECORD, "id": "sums/train/0", "answer_form": "option"}
    print_tokens(record, tokenizer, template="chat", cutoff_len=99, train_on_inputs=False)
    out = capsys.readouterr().out
    assert f"no loss, {len(QUESTION_TOKENS)} tokens:\n{'|'.join(QUESTION_TOKENS)}\n" in out
    assert f"\nloss, {len(ANSWER_TOKENS) + 1} tokens:\n{'|'.join(ANSWER_TOKENS)}|</s>\n" in out
    counts = count_lengths([record], tokenizer, template="chat", cutoff_len=len(QUESTION_TOKENS) + 1)
    assert (counts.longest, counts.cut) == (len(QUESTION_TOKENS) + len(ANSWER_TOKENS) + 1, 1)
    assert (counts.answer_lost, counts.response_gone) == (1, 0)
