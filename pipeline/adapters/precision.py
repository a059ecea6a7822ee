"""The precision in which a model computes, and that in which trained tensors are stored.

A study's ``dtype`` is that of the frozen base's weights. Trained tensors are always stored in float32, in training and
in evaluation alike: in bfloat16 a change of 1e-3 on a norm's weight of 1 vanishes. Beside a 16-bit base, matrix
products run in the study's dtype under autocast (``compute_in``), which casts float32 weights where they are used. With
float32 there is no autocast, and nothing to cast.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from pipeline.adapters.bottleneck import BottleneckLinear

# bytes of a float32 number
WIDTH = torch.float32.itemsize


def compute_in(
    dtype: str, device: torch.device | str, *, cache: bool = True
) -> AbstractContextManager[object]:
    """Return a context in which a model computes in a dtype, whichever dtypes its weights have.

    Args:
        dtype: "float32" (the context does nothing), "bfloat16" or "float16" (torch's autocast).
        device: of the model, such as "cpu" or "cuda:0".
        cache: whether uses of a trained tensor share its cast, and sum their gradients in ``dtype``.

    Example:
        with compute_in("bfloat16", model.device):
            logits = model(input_ids=ids).logits
    """
    if dtype == "float32":
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype=getattr(torch, dtype), cache_enabled=cache)


def convert_to_float32(model: nn.Module, parameters: Iterable[Tensor]) -> None:
    """Give 16-bit parameters of a model float32 storage with the same values.

    If there is one, all layer norms compute in float32, as autocast has them on a GPU. On a CPU it has no rule for them:
    beside a trained bias or behind a trained embedding they would fail, and the gradients of their own weights would
    be summed in 16 bits.
    """
    narrow = [
        parameter for parameter in parameters if parameter.is_floating_point() and parameter.itemsize < WIDTH
    ]
    for parameter in narrow:
        parameter.data = parameter.data.float()
    for module in model.modules() if narrow else ():
        if isinstance(module, nn.LayerNorm):
            module.float().register_forward_pre_hook(_widen_input)


def _widen_input(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (inputs[0].float(), *inputs[1:])


def avoid_casts(model: Any) -> None:
    """Prepare a model on a 16-bit base for training and evaluation under autocast.

    - peft casts the input of an adapter to float32, and autocast casts it back for each matrix product. LoRA and
      bottleneck adapters need no such cast. Other layers compute more than products with it, so they keep it.
    - The network that computes a soft prompt stays in float32: it is small, and what is saved is the prompt that it
      computes outside of autocast.
    """
    if not isinstance(model, PeftModel):
        return
    for module in model.modules():
        if isinstance(module, BottleneckLinear) or (
            isinstance(module, LoraLayer) and not getattr(module, "lora_variant", None)
        ):
            module.cast_input_dtype_enabled = False
    for encoder in getattr(model, "prompt_encoder", {}).values():
        device = next(encoder.parameters()).device.type
        encoder.forward = torch.autocast(device, enabled=False)(encoder.forward)


def training_memory_gib(parameters: Iterable[Tensor]) -> float:
    """Return the memory of parameters, their gradients and the two moments of AdamW, in GiB."""
    return 4 * sum(parameter.nbytes for parameter in parameters) / 2**30
