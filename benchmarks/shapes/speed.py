"""Speed of training at assumed shares of a device's peaks."""

from benchmarks.shapes.memory import NF4_BITS, Footprint
from benchmarks.shapes.models import Device
from pipeline.study.costs.footprints import DeviceFootprint

# Shares of the vendor's peaks that large matrix products and simple kernels reach; an assumption.
FLOP_SHARE, BANDWIDTH_SHARE = 0.65, 0.8


def training_seconds(footprint: Footprint, device: Device, *, nf4: bool, checkpointing: bool) -> float:
    """Return the seconds of a pass over a micro-batch at the assumed shares of a device's peaks."""
    bandwidth = device.bandwidth * BANDWIDTH_SHARE
    forward, backward = footprint.counts.seconds(device.flops * FLOP_SHARE, bandwidth)
    # each pass writes a layer's weights in bfloat16 before it reads them
    unpacked = footprint.weights.linear * (NF4_BITS / 8 + 2) / bandwidth if nf4 else 0.0
    return forward * (1 + checkpointing) + backward + unpacked * (2 + checkpointing)


def assume_shares(device: Device) -> DeviceFootprint:
    """Return a device with the shares of its peaks that are assumed."""
    return {
        "memory": device.memory,
        "flops": device.flops * FLOP_SHARE,
        "bandwidth": device.bandwidth * BANDWIDTH_SHARE,
    }
