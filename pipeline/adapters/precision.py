"""In which precision a model computes, and in which precision what is trained is stored.

A study's ``dtype`` is that of the frozen base's weights. What is trained is always stored in float32, in training and
in evaluation alike: in bfloat16 a change of 1e-3 on a norm's weight of 1 vanishes. Beside a 16-bit base, matrix
products run in the study's dtype under autocast (``compute_in``), which casts float32 weights where they are used. With
float32 there is no autocast, and nothing to cast.
"""

from contextlib import AbstractContextManager, nullcontext

import torch


def compute_in(dtype: str, device: torch.device | str) -> AbstractContextManager[object]:
    """Return a context in which a model computes in a dtype, whichever dtypes its weights have.

    Args:
        dtype: "float32" (the context does nothing), "bfloat16" or "float16" (torch's autocast).
        device: of the model, such as "cpu" or "cuda:0".

    Example:
        with compute_in("bfloat16", model.device):
            logits = model(input_ids=ids).logits
    """
    if dtype == "float32":
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype=getattr(torch, dtype))
