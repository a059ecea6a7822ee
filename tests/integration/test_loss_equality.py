"""Shortcuts of the loss change no bit: the head in pieces, no attention mask, and indices computed on the host."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from pipeline.adapters import add_adapter
from pipeline.adapters.precision import compute_in
from pipeline.models import head
from pipeline.models.batches import collate, pack_example
from pipeline.models.loss import ignores_padding, summed_loss
from pipeline.params.architectures import LINEAR_MODULES
from tests.tiny import model_of

CPU = torch.device("cpu")
WORDS = 500
# 63 is the longest, so that the short ones are mostly padding
LENGTHS = (63, 20, 33, 7, 2)


def make_examples(lengths):
    ids = [[(7 * n + 3 * i) % 60 + 4 for i in range(length)] for n, length in enumerate(lengths)]
    return [pack_example(tokens, [-100] * (n % 3) + tokens[n % 3 :]) for n, tokens in enumerate(ids)]


def make_method(kind, modules, head_name=None):
    lora = {"kind": "peft", "peft_type": "LORA", "r": 4, "target_modules": list(modules)}
    bottleneck = {"kind": "bottleneck", "target_modules": [modules[-1]], "bottleneck_size": 4}
    return {
        "lora": lora,
        "trained head": {**lora, "modules_to_save": [head_name]},
        "series": {**bottleneck, "placement": "after"},
        "parallel": {**bottleneck, "placement": "parallel"},
        "prefix": {"kind": "peft", "peft_type": "PREFIX_TUNING", "num_virtual_tokens": 3},
        "full": {"kind": "full"},
    }[kind]


def make_model(architecture, kind, **changes):
    base = model_of(architecture, sharpness=2.0, **changes)
    output_layer = base.get_output_embeddings()
    (head_name,) = (name for name, module in base.named_modules() if module is output_layer)
    method = make_method(kind, LINEAR_MODULES[architecture], head_name)
    model = add_adapter(base, method, architecture=architecture, seed=3).train()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        # parameters that are 0 would hide a gradient
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


def plain_loss(model, examples):
    """The loss with a mask, from the logits of all tokens that bear loss, as a single tensor."""
    ids, mask, labels = collate(examples, pad=0)
    targets = torch.full_like(labels, -100)
    targets[:, :-1] = labels[:, 1:]
    supervised = targets != -100
    base = getattr(model, "get_base_model", lambda: model)()
    hook = base.get_output_embeddings().register_forward_pre_hook(
        lambda _, inputs: (inputs[0][:, -ids.shape[1] :][supervised],)
    )
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    hook.remove()
    return cross_entropy(logits.float(), targets[supervised], reduction="sum")


def gradients(model, loss):
    model.zero_grad()
    # a factor, as that of the mean over tokens
    (loss * 0.37).backward()
    trained = {
        name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    return loss.detach(), {
        name: gradient.clone() for name, gradient in trained.items() if gradient is not None
    }


def check_equal(model):
    examples = make_examples(LENGTHS)
    expected_loss, expected = gradients(model, plain_loss(model, examples))
    loss, computed = gradients(model, summed_loss(model, examples, pad=0, device=CPU))
    assert torch.equal(loss, expected_loss)
    assert computed.keys() == expected.keys()
    different = [name for name, gradient in computed.items() if not torch.equal(gradient, expected[name])]
    assert not different


@pytest.mark.parametrize("architecture", LINEAR_MODULES)
@pytest.mark.parametrize("kind", ["lora", "series", "parallel", "full", "prefix"])
def test_the_loss_of_a_padded_batch_has_the_bits_of_the_plain_one(architecture, kind):
    model = make_model(architecture, kind)
    shares_keys = architecture in ("mistral", "qwen3", "gemma3_text", "phi3")
    assert ignores_padding(model, CPU) == (kind != "prefix" and architecture != "gpt2" and not shares_keys)
    check_equal(model)


@pytest.mark.parametrize("architecture", ["llama", "bloom", "gptj"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["lora", "prefix", "trained head", "full"])
def test_a_head_in_pieces_has_the_bits_of_the_undivided_one(monkeypatch, architecture, tied, kind):
    model = make_model(architecture, kind, vocab_size=WORDS, tie_word_embeddings=tied)
    most = 40 * WORDS
    for function in (head.needs_pieces, head.loss_of_hidden):
        monkeypatch.setitem(function.__kwdefaults__, "most", most)
    sizes = []
    base = getattr(model, "get_base_model", lambda: model)()
    base.get_output_embeddings().register_forward_hook(lambda _, inputs, output: sizes.append(output.numel()))
    summed_loss(model, make_examples(LENGTHS), pad=0, device=CPU)
    # the weights of a trained head have a gradient that pieces would round differently
    assert (max(sizes) <= most) == (kind in ("lora", "prefix"))
    check_equal(model)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_pieces_of_a_trained_head_change_the_gradient_of_its_weights_by_rounding_only(dtype):
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(shape, generator=generator) for shape in ((300, 32), (WORDS, 32)))
    # few words, so that many pieces change the same weights
    targets = torch.randint(3, (300,), generator=generator)

    def gradient(loss_of, dtype):
        layer = torch.nn.Linear(32, WORDS, bias=False)
        layer.weight.data = weight.clone()
        with compute_in(dtype, CPU, cache=False):
            loss_of(layer).backward()
        return layer.weight.grad

    def in_pieces(layer):
        return head.loss_of_hidden(layer, hidden, targets, words=WORDS, most=WORDS)

    exact = gradient(lambda layer: head.loss_of_logits(layer(hidden), targets), "float32")
    undivided = gradient(lambda layer: head.loss_of_logits(layer(hidden), targets), dtype)
    # 300 pieces: summed in bfloat16, they would be 1.6 times as far from the exact gradient as the undivided product
    error, undivided_error = (
        float((value - exact).norm() / exact.norm()) for value in (gradient(in_pieces, dtype), undivided)
    )
    assert error <= max(1.1 * undivided_error, 2e-6)


def test_a_trained_head_is_cut_off_the_cpu_only():
    model = model_of("llama", vocab_size=4096)
    cut = [head.needs_pieces(model.requires_grad_(trained), 8193) for trained in (False, True)]
    assert cut == [True, False]
    assert head.needs_pieces(model.to("meta"), 8193)


def test_logits_that_are_capped_after_the_head_are_not_cut(monkeypatch):
    for function in (head.needs_pieces, head.loss_of_hidden):
        monkeypatch.setitem(function.__kwdefaults__, "most", 40 * WORDS)
    check_equal(make_model("gemma3_text", "lora", vocab_size=WORDS, final_logit_softcapping=2.0))


def test_few_words_are_never_cut():
    # the words and the budget of the default study
    model = model_of("llama", vocab_size=4096).requires_grad_(False)
    assert not head.needs_pieces(model, 4096)
    assert head.needs_pieces(model, 8193)
