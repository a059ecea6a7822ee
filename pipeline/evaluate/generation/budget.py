"""How many padded tokens a batch of an evaluation may have."""

from typing import Any

from pipeline.core.hardware.accelerators import free_bytes
from pipeline.evaluate.generation.cache import bytes_per_token
from pipeline.models.bases.placement import devices_of

# without a value of the machine or of the task
CPU_TOKENS = 8192
# Larger batches than this are no faster on a CPU, where no error reports that memory runs out: the keys and values of
# all rows and beams stay within CPU_CACHE_BYTES.
CPU_TEXT_TOKENS = 16384
CPU_CACHE_BYTES = 8 * 2**30
# On a GPU keys and values get this share of the free memory; activations and logits need the rest. A batch that does
# not fit is divided all the same.
CACHE_SHARE = 0.5
MIN_GPU_TOKENS, MAX_GPU_TOKENS = 2048, 2**19


def gpu_tokens(free_bytes: int, token_bytes: int) -> int:
    """Return the tokens of a batch on a GPU, a power of two, so that a little more or less memory changes no batch.

    Args:
        free_bytes: of the GPU, with the model loaded.
        token_bytes: of the keys and values of a token.
    """
    tokens = int(free_bytes * CACHE_SHARE) // token_bytes
    return min(MAX_GPU_TOKENS, max(MIN_GPU_TOKENS, 1 << max(0, tokens.bit_length() - 1)))


def batch_budget(model: Any, *, chosen: int | None, rows: int | None) -> int:
    """Return the padded tokens of a batch, new ones included.

    Args:
        model: loaded.
        chosen: by the machine or the task; None: from the memory.
        rows: beams or samples of a prompt, which share its tokens; None: likelihoods.
    """
    gpus = devices_of(model, model.device)
    if chosen is not None:
        tokens = chosen
    elif gpus:
        # each card stores the keys and values of its own layers, about as many as the others
        tokens = gpu_tokens(min(map(free_bytes, gpus)) * len(gpus), bytes_per_token(model))
    elif rows is not None:
        return min(CPU_TEXT_TOKENS, CPU_CACHE_BYTES // bytes_per_token(model) // rows)
    else:
        tokens = CPU_TOKENS
    return tokens // (rows or 1)
