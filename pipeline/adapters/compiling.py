"""Decoder layers compiled by torch, each separately: layers of equal structure share one compiled graph.

A layer is compiled in place, so the names of its tensors, and those in checkpoints and adapter files, stay the same.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException
from transformers.modeling_layers import GradientCheckpointingLayer

from pipeline.core.errors import UserError, one_line

BACKEND = "inductor"
# Graphs of one layer at most. It needs one for a pass over several examples, one for a single example, and the same again
# for the validation loss and for layers of another kind; each at the first such pass.
MOST_GRAPHS = 64


def check_compiler(device: torch.device, *, backend: str = BACKEND) -> None:
    """Refuse a machine on which torch compiles nothing, before a training starts.

    Raises:
        UserError: no working compiler.
    """
    try:
        torch.compile(_smallest, backend=backend)(torch.zeros(2, device=device))
    except (TorchDynamoException, RuntimeError, OSError) as error:
        raise UserError(
            f"compile: torch cannot compile on this machine ({_reason(error)}); install a C++ compiler (g++), on a GPU "
            "triton too, or run without compile=true"
        ) from None


def _smallest(x: Tensor) -> Tensor:
    return x + 1


def compile_layers(model: Any, probe: Callable[[], Tensor], *, backend: str = BACKEND) -> str | None:
    """Compile a model's decoder layers, each as a full graph for any number of examples and tokens.

    Where that is not possible, the layers stay as they are.

    Args:
        model: a base with its adapter, in training mode.
        probe: returns the loss of a pass. It is called once, with its backward pass, since torch compiles then. Random
            generators are left as they were, and gradients are dropped.
        backend: of torch.compile.

    Returns:
        Why the layers are not compiled; None: they are.
    """
    if isinstance(model, PeftModel):
        method: Any = model.active_peft_config
        if method.is_prompt_learning and method.peft_type.value == "PREFIX_TUNING":
            return "each layer reads a separate prefix"
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        return "the model has no decoder layers that torch can compile separately"
    # random numbers as without compilation, so that dropout draws the same masks
    options = {"options": {"fallback_random": True}} if backend == BACKEND else {}
    for layer in layers:
        layer.compile(backend=backend, fullgraph=True, dynamic=True, recompile_limit=MOST_GRAPHS, **options)
    try:
        _run_probe(model, probe)
    except TorchDynamoException as error:
        _restore(layers)
        return _reason(error)
    return None


def _reason(error: BaseException) -> str:
    """Return the first sentences of torch's message, without its advice on debugging."""
    return one_line(error).partition(" Set TORCHDYNAMO_VERBOSE")[0][:200]


def _run_probe(model: Any, probe: Callable[[], Tensor]) -> None:
    devices = [model.device] if model.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            torch.autograd.backward(probe())
    finally:
        for parameter in model.parameters():
            parameter.grad = None


def _restore(layers: Sequence[Any]) -> None:
    """Let layers run uncompiled again. torch has no function for it; a module calls this attribute if it is set."""
    for layer in layers:
        layer._compiled_call_impl = None
