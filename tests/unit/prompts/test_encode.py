"""Token ids and labels of prompts: the start token, the end token, the cut and what bears no loss."""

from pipeline.prompts.encode import IGNORED, encode


class Letters:
    """A tokenizer of single characters."""

    bos_token_id, eos_token_id = 1, 2
    adds_start = True

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict:
        start = [1] if self.adds_start and add_special_tokens else []
        return {"input_ids": [*start, *(ord(letter) for letter in text)]}


class WithoutStart(Letters):
    """One that has a start token and does not put it ahead, as BLOOM's and GPT-J's."""

    adds_start = False


def test_start_token_stands_first_once_in_training_and_evaluation():
    asked, _ = encode(Letters(), "ab")
    trained, _ = encode(Letters(), "ab", "c")
    assert asked == [1, 97, 98]
    assert trained == [1, 97, 98, 99, 2]


def test_a_tokenizer_that_puts_no_start_token_ahead_gets_none():
    assert encode(WithoutStart(), "ab") == ([97, 98], [97, 98])
    assert encode(WithoutStart(), "ab", "c", train_on_inputs=False)[1] == [IGNORED] * 2 + [99, 2]


def test_labels_leave_the_prompt_out_when_told():
    assert encode(Letters(), "ab", "c", train_on_inputs=False)[1] == [IGNORED] * 3 + [99, 2]


def test_a_cut_text_has_no_end_token():
    assert encode(Letters(), "ab", "cd", cutoff_len=4)[0] == [1, 97, 98, 99]
