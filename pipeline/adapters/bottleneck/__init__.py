"""Bottleneck adapters as a peft tuner; importing this package registers it."""

from pipeline.adapters._peft_registry import register_tuner
from pipeline.adapters.bottleneck.config import BottleneckConfig
from pipeline.adapters.bottleneck.layer import BottleneckLinear
from pipeline.adapters.bottleneck.model import BottleneckModel

register_tuner("bottleneck", BottleneckConfig, BottleneckModel)

__all__ = ["BottleneckConfig", "BottleneckLinear", "BottleneckModel"]
