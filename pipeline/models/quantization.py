"""Loading a base whose linear modules are quantized by bitsandbytes, straight from its files.

Each tensor is quantized as it is read, so the whole base never lies in memory in full precision. Embeddings, norms and the head
stay in the training's dtype, as on an unquantized base of this dtype: ``pipeline.adapters.precision`` says where sums are taken
in float32. Frozen weights need no other preparation, and checkpointing without re-entry needs no gradient of the embeddings.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.core.errors import UserError
from pipeline.params.base import Quantization
from pipeline.params.peft.quantization import require_bitsandbytes


def load_quantized(
    weights: Path,
    quantization: Quantization,
    *,
    stored_in: torch.dtype,
    dtype: torch.dtype,
    device_map: Mapping[str, str | torch.device],
) -> Any:
    """Return a base on its device or cards, with its linear modules but the head quantized.

    Args:
        weights: directory of the model's files.
        quantization: "nf4" (blocks of 64 weights; the scales of the blocks are quantized, too) or "int8" (vectors; inputs above 6
            are multiplied in 16 bits, as in arXiv:2208.07339).
        stored_in: dtype that the weights are rounded to before they are quantized.
        dtype: of the weights that are not quantized, and of the products with the quantized ones.
        device_map: name of a module -> its device; "": that of all others.

    Raises:
        UserError: bitsandbytes is missing or cannot run here, or no module is quantized.
    """
    require_bitsandbytes(str(weights))
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    # it would say at the first product that inputs are cast, as they are meant to be
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    if quantization == "nf4":
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    else:
        config = BitsAndBytesConfig(load_in_8bit=True)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            weights,
            dtype=stored_in,
            quantization_config=config,
            device_map=dict(device_map),
            local_files_only=True,
            trust_remote_code=False,
        )
    except (RuntimeError, NotImplementedError) as error:
        # bitsandbytes without a library for this device
        raise UserError(
            f"{weights}: quantization: bitsandbytes cannot quantize on {next(iter(device_map.values()))} ({str(error).splitlines()[0]})"
        ) from error
    if dtype != stored_in:
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(dtype)
    if not any(is_quantized(module) for module in model.modules()):
        raise UserError(f"{weights}: quantization: the model has no linear module that can be quantized")
    _keep_layout(model)
    return model


def _keep_layout(model: Any) -> None:
    """Keep bitsandbytes from repacking 4-bit weights in the first evaluation on a CPU with bfloat16 instructions.

    The kernel for that layout rounds the scales, multiplies in bfloat16, and fails if a row is shorter than a block of 64 weights.
    It also computes no gradients: after a validation, adapters below a repacked module would get none through it.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def is_quantized(module: nn.Module) -> bool:
    """Return whether bitsandbytes holds a module's weight."""
    # by name, so that bitsandbytes need not be installed
    return type(module).__name__ in ("Linear4bit", "Linear8bitLt")
