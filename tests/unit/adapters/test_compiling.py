"""Compiled decoder layers: full graphs, for any batch, with the loss and the gradients of the uncompiled ones."""

import pytest
import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from pipeline.adapters import add_adapter
from pipeline.adapters.compiling import check_compiler, compile_layers
from pipeline.core.errors import UserError
from tests.tiny import linear_modules, model_of

LORA = {"kind": "peft", "peft_type": "LORA", "r": 4, "lora_alpha": 32, "lora_dropout": 0.1}
SERIES = {"kind": "bottleneck", "placement": "after", "bottleneck_size": 4, "init_weights": "normal"}
# tracing takes tens of seconds
pytestmark = pytest.mark.slow
METHODS = {"lora": LORA, "series": SERIES, "parallel": {**SERIES, "placement": "parallel"}}
SHAPES = ((3, 7), (2, 11))


def adapted(method, architecture="llama", *, checkpointing=False):
    model = model_of(architecture)
    if checkpointing:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    targets = sorted(linear_modules(model))[:3]
    return add_adapter(
        model, {**method, "target_modules": targets}, architecture=architecture, seed=3
    ).train()


def loss_of(model, shape):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 64, shape, generator=generator)
    torch.manual_seed(1)
    return model(input_ids=ids, labels=ids, use_cache=False).loss


def gradients(model, shape):
    model.zero_grad()
    loss = loss_of(model, shape)
    torch.autograd.backward(loss)
    return loss, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("method", "architecture", "checkpointing"),
    [
        ("lora", "llama", False),
        *[
            pytest.param(*case, marks=pytest.mark.exhaustive)
            for case in (
                ("series", "llama", False),
                ("parallel", "llama", False),
                ("lora", "llama", True),
                ("lora", "bloom", False),
                ("lora", "gptj", False),
            )
        ],
    ],
)
def test_compiled_layers_have_the_loss_and_the_gradients_of_plain_ones(method, architecture, checkpointing):
    torch.compiler.reset()
    model = adapted(METHODS[method], architecture, checkpointing=checkpointing)
    names = list(model.state_dict())
    expected = [gradients(model, shape) for shape in SHAPES]
    state = torch.get_rng_state()
    assert compile_layers(model, lambda: loss_of(model, (2, 5)), backend="aot_eager") is None
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())
    assert list(model.state_dict()) == names
    # a further graph would be an error here: one serves all lengths and numbers of examples
    with torch.compiler.set_stance("fail_on_recompile"):
        actual = [gradients(model, shape) for shape in SHAPES]
    for (loss, grads), (other, others) in zip(expected, actual, strict=True):
        assert torch.allclose(loss, other, atol=1e-5)
        assert grads.keys() == others.keys()
        assert all(torch.allclose(grads[name], others[name], rtol=1e-3, atol=1e-4) for name in grads)


def test_layers_that_do_not_compile_stay_as_they_are():
    torch.compiler.reset()
    model = adapted(LORA)
    layer = next(module for module in model.modules() if isinstance(module, GradientCheckpointingLayer))

    def break_graph(_, inputs):
        torch._dynamo.graph_break()

    layer.mlp.register_forward_pre_hook(break_graph)
    expected = gradients(model, (3, 7))[0]
    reason = compile_layers(model, lambda: loss_of(model, (2, 5)), backend="aot_eager")
    assert reason
    assert torch.equal(gradients(model, (3, 7))[0], expected)


def test_a_machine_without_a_compiler_is_refused():
    def broken(*_):
        raise OSError("no g++")

    torch.compiler.reset()
    with pytest.raises(UserError, match=r"compile: torch cannot compile on this machine .*no g..\); install"):
        check_compiler(torch.device("cpu"), backend=broken)
