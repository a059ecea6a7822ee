"""Token ids and labels of prompts: the start token, the end token, the cutoff and the tokens without loss."""

from pipeline.prompts.encode import IGNORED, encode


class Letters:
    """A tokenizer of single characters."""

    bos_token_id, eos_token_id = 1, 2
    adds_start = True

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict:
        start = [1] if self.adds_start and add_special_tokens else []
        return {"input_ids": [*start, *(ord(letter) for letter in text)]}


class WithoutStart(Letters):
    """A tokenizer that has a start token but does not add it, like those of BLOOM and GPT-J."""

    adds_start = False


def test_the_start_token_comes_first_and_once_in_training_and_evaluation():
    prompt_ids, _ = encode(Letters(), "ab")
    example_ids, _ = encode(Letters(), "ab", "c")
    assert prompt_ids == [1, 97, 98]
    assert example_ids == [1, 97, 98, 99, 2]


def test_no_start_token_is_added_if_the_tokenizer_adds_none():
    assert encode(WithoutStart(), "ab") == ([97, 98], [97, 98])
    assert encode(WithoutStart(), "ab", "c", train_on_inputs=False)[1] == [IGNORED] * 2 + [99, 2]


def test_labels_can_exclude_the_prompt():
    assert encode(Letters(), "ab", "c", train_on_inputs=False)[1] == [IGNORED] * 3 + [99, 2]


def test_a_cut_text_has_no_end_token():
    assert encode(Letters(), "ab", "cd", cutoff_len=4)[0] == [1, 97, 98, 99]
