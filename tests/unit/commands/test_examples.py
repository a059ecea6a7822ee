"""``show`` and ``lengths``: an example's tokens and loss mask, and what a cutoff removes."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from pipeline.commands.app import run_command
from pipeline.commands.look.examples import load_tokenizer
from pipeline.commands.look.lengths import CutoffCounts, count_lengths, table_row
from pipeline.commands.look.show import find_record, print_example, print_tokens
from pipeline.core.errors import UserError
from pipeline.data.rows import RawFile
from pipeline.params.templates import build_prompt
from pipeline.prompts.encode import encode
from tests.conftest import ROOT

ANSI = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture(autouse=True)
def _in_project_root(monkeypatch):
    """Run in the project's root, as commands do, and without the terminal's colour settings."""
    monkeypatch.chdir(ROOT)
    for name in ("NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE"):
        monkeypatch.delenv(name, raising=False)


def record(**changes: str) -> dict:
    fields = {"id": "sums/train/0", "instruction": "how many nuts does tom have?", "input": "", "choices": []}
    return {
        **fields,
        "response": "3 + 2 = 5. the answer is 5.",
        "answer": "5",
        "answer_form": "number",
        **changes,
    }


@pytest.fixture(scope="module")
def tokenizer():
    os.chdir(ROOT)
    return load_tokenizer("tiny-llama")


def show_tokens(capsys, tokenizer, **changes) -> str:
    options = {"template": "strict", "cutoff_len": 256, "train_on_inputs": False, **changes}
    print_tokens(record(), tokenizer, **options)
    return capsys.readouterr().out


def test_the_tokens_equal_those_of_training(capsys, tokenizer):
    out = show_tokens(capsys, tokenizer)
    prompt = build_prompt(record()["instruction"], template="strict")
    prompt_ids, ids = encode(tokenizer, prompt)[0], encode(tokenizer, prompt, record()["response"])[0]
    assert f"no loss, {len(prompt_ids)} tokens:\n<s>|" in out
    assert (
        f"\nloss, {len(ids) - len(prompt_ids)} tokens:\n3|+|2|=|5|.|the|answer|is|5|.|</s>\n{len(ids)} tokens\n"
        in out
    )


def test_with_loss_on_the_prompt_all_tokens_have_loss(capsys, tokenizer):
    out = show_tokens(capsys, tokenizer, train_on_inputs=True)
    assert "no loss" not in out
    assert out.count("loss,") == 1


def test_cut_tokens_are_counted_and_a_cut_example_has_no_end_token(capsys, tokenizer):
    length = int(re.search(r"^(\d+) tokens$", show_tokens(capsys, tokenizer), re.MULTILINE)[1])
    out = show_tokens(capsys, tokenizer, cutoff_len=length - 4)
    assert out.rstrip().endswith(f"{length - 4} tokens; 4 more are cut at {length - 4}")
    assert "</s>" not in out


def test_colours_only_if_the_environment_asks_for_them(capsys, tokenizer, monkeypatch):
    plain = show_tokens(capsys, tokenizer)
    assert not ANSI.search(plain)
    monkeypatch.setenv("FORCE_COLOR", "1")
    coloured = show_tokens(capsys, tokenizer)
    # green: loss
    assert "\x1b[32m3|+|2" in coloured
    assert ANSI.sub("", coloured) == plain
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[32m" not in show_tokens(capsys, tokenizer)


def test_words_unknown_to_the_tokenizer_are_marked(capsys, tokenizer):
    print_tokens(
        record(response="Zanzibar"), tokenizer, template="strict", cutoff_len=99, train_on_inputs=False
    )
    assert "<unk>(Zanzibar)" in capsys.readouterr().out


def train_byte_level_tokenizer(text: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on a text, whose spans leave out the spaces of its tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(special_tokens=["<end>"], initial_alphabet=alphabet, vocab_size=400)
    tokenizer.train_from_iterator([text], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")


def test_tokens_of_a_byte_level_tokenizer_keep_their_spaces_and_bytes(capsys):
    tokenizer = train_byte_level_tokenizer("how many many nuts nuts")
    print_tokens(
        record(response="x many nuts é5"), tokenizer, template="strict", cutoff_len=999, train_on_inputs=False
    )
    (run,) = re.findall(r"^loss.*\n(.*)\n", capsys.readouterr().out, re.MULTILINE)
    pieces = run.split("|")
    assert pieces[:3] == ["x", " many", " nuts"]
    assert pieces[-2:] == ["5", "<end>"]
    # two tokens; the second is printed by its name
    assert pieces.count("é") == 1
    assert len(pieces) == len(tokenizer("x many nuts é5")["input_ids"]) + 1


def test_markup_in_a_question_is_printed_unchanged(capsys):
    print_example(record(instruction="[header] [bold]x[/bold] [/nothing]"), template="paper-eval")
    assert "[header] [bold]x[/bold] [/nothing]" in capsys.readouterr().out


def write_raw(tmp_path: Path, rows: list, **changes) -> list[RawFile]:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [replace(RawFile("sums", "test", path, "number"), **changes)]


ROWS = [{"instruction": f"q{n}", "answer": str(n)} for n in range(3)]


def test_rows_are_numbered_as_in_the_file_including_malformed_rows(tmp_path):
    files = write_raw(tmp_path, [ROWS[0], {"instruction": ""}, ROWS[2]], known_malformed=[1])
    assert find_record(files, 2)["instruction"] == "q2"
    with pytest.raises(UserError, match="row 1 is malformed"):
        find_record(files, 1)


def test_a_missing_row_is_an_error_with_the_number_of_rows(tmp_path):
    with pytest.raises(UserError, match=r"no row 3 \(it has 3"):
        find_record(write_raw(tmp_path, ROWS), 3)
    with pytest.raises(UserError, match="no row -1"):
        find_record(write_raw(tmp_path, ROWS), -1)


def test_rows_of_a_mixture_are_numbered_across_its_parts(tmp_path):
    (file,) = write_raw(tmp_path, ROWS)
    assert find_record([file, replace(file, dataset="more")], 4)["id"] == "more/test/1"


class Letters:
    """A tokenizer of single characters."""

    bos_token_id, eos_token_id = None, 0

    def __call__(self, text: str, add_special_tokens: bool) -> dict:
        return {"input_ids": [ord(letter) for letter in text]}


def count_cut(cutoff_len: int, *responses: str, answer: str = "5.0") -> CutoffCounts:
    rows = [record(response=response, answer=answer) for response in responses]
    prompt = len(build_prompt(record()["instruction"], template="strict"))
    return count_lengths(rows, Letters(), template="strict", cutoff_len=prompt + cutoff_len)


def test_an_example_is_cut_if_its_text_is_longer_than_the_cutoff():
    assert count_cut(4, "5 ab", "5 abc").cut == 1


def test_an_answer_is_lost_if_its_last_mention_is_cut():
    assert count_cut(6, "5 or 5 or more").answer_lost == 0
    assert count_cut(5, "5 or 5 or more").answer_lost == 1
    # an answer that is never mentioned is at the end
    assert count_cut(6, "it is more").answer_lost == 1
    assert count_cut(6, "it is more").response_gone == 0
    assert count_cut(0, "it is more").response_gone == 1


def test_lengths_count_the_end_token_and_print_shares():
    counts = count_cut(9, "5", "55", "5" * 10)
    assert counts.longest - counts.median == 8
    row = table_row("sums", "train", "letters", counts)
    assert row[0] == "sums"
    assert "1 (33.3 %)" in row


def test_without_responses_no_answer_can_be_lost():
    counts = count_cut(-5, "")
    assert (counts.cut, counts.answer_lost, counts.response_gone) == (1, None, None)


def test_examples_without_a_response_are_counted():
    assert count_cut(99, "5", "", " \n").no_response == 2
    assert "2 (66.7 %)" in table_row("sums", "train", "letters", count_cut(99, "5", "", " \n"))


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    status = run_command(arguments)
    out = capsys.readouterr()
    return status, out.out, out.err


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of the test's own for fetched files; nothing is downloaded."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("pipeline.commands.app.project_root", lambda: tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "shipped").symlink_to(ROOT / "data" / "shipped")
    return tmp_path


def test_show_fetches_a_missing_dataset_once(capsys, project):
    status, out, err = run(capsys, "show", "world-svamp", "--row", "7")
    assert status == 0
    assert out.startswith("world-svamp/test/7: answer ")
    assert "### Response:" in out
    assert "150 rows" in err
    status, second_out, err = run(capsys, "show", "world-svamp", "--row", "7")
    assert (status, second_out, err) == (0, out, "")


def test_lengths_prints_a_line_for_each_dataset_and_model(capsys, project):
    status, out, _ = run(
        capsys, "lengths", "world-svamp", "world-addsub", "--model", "tiny-llama", "tiny-gptj"
    )
    assert status == 0
    assert [line.split()[:3] for line in out.splitlines()[2:]] == [
        ["world-svamp", "test", "tiny-llama"],
        ["world-addsub", "test", "tiny-llama"],
        ["world-svamp", "test", "tiny-gptj"],
        ["world-addsub", "test", "tiny-gptj"],
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "gsm9k"], "gsm8k"),
        (["show", "world-boolq", "--split", "train"], "no split 'train'"),
        (["show", "world-svamp", "--row", "150"], "no row 150"),
        (["show", "world-svamp", "--template", "papper"], "paper-train"),
        (["show", "world-svamp", "--tokens", "--model", "tiny-lama"], "tiny-llama"),
        (["show", "world-svamp", "--tokens", "--model", "real-tiny-llama"], "its base is not on disk"),
        (["show", "healthcaremagic"], "data_root"),
        (["lengths", "world-svamp", "--model", "nowhere/at-all"], "no 'nowhere/at-all'"),
    ],
)
def test_mistakes_are_reported_in_one_line(capsys, project, arguments, message):
    status, out, err = run(capsys, *arguments)
    assert status == 1
    assert out == ""
    assert message in err.splitlines()[-1]
    assert "Traceback" not in err
