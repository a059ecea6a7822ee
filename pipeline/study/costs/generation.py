"""Speed of greedy generation at assumed shares of a GPU's peaks."""

from pipeline.study.costs.footprints import RESERVED, DeviceFootprint

# the context of a question and its answer
CONTEXT = 512
# rows that are generated at once
ROWS = 64


def rows_that_fit(device: DeviceFootprint, weights: float, cache: float) -> int:
    """Return how many rows of ``CONTEXT`` tokens fit beside the weights.

    Args:
        device: the GPU.
        weights: bytes of the weights, as they are stored.
        cache: bytes of a token's keys and values.
    """
    return max(0, int((device["memory"] - RESERVED - weights) // (cache * CONTEXT)))


def generation_speed(
    device: DeviceFootprint, weights: float, cache: float, *, rows: int = ROWS, stored: float | None = None
) -> float:
    """Return the tokens per second of ``rows`` rows, or of as many as fit; 0: none fits.

    Args:
        device: the GPU.
        weights: bytes of the weights in 16 bits.
        cache: bytes of a token's keys and values.
        rows: that are generated at once.
        stored: bytes of the weights as they are stored, if they are quantized: a step reads them, and writes and reads them
            in 16 bits.
    """
    count = min(rows, rows_that_fit(device, stored or weights, cache))
    moved = weights if stored is None else stored + 2 * weights
    # a weight of two bytes has two FLOP a token
    seconds = max((moved + count * cache * CONTEXT) / device["bandwidth"], count * weights / device["flops"])
    return count / seconds
