"""A base whose decoder layers are sharded over the processes of a training, by torch's ``fully_shard`` (FSDP2, arXiv:2304.11277).

Only frozen weights of the base are sharded. A layer's weights are gathered just before it computes, in the forward and in the
backward pass, and freed afterwards. What is trained stays whole in each process: it is small, its gradients are summed as
without sharding, and checkpoints and adapters hold plain tensors. Embeddings and the output layer stay whole too.
"""

from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers.modeling_layers import GradientCheckpointingLayer

from pipeline.core.errors import UserError


def layer_weights(base: Any) -> set[Tensor]:
    """Return the weights of a base that are in its decoder layers and nowhere else; call it before an adapter is added.

    Raises:
        UserError: transformers has no decoder layers in it that can be sharded.
    """
    layers = _decoder_layers(base)
    inside = {parameter for layer in layers for parameter in layer.parameters()}
    if not inside:
        raise UserError(
            f"shard: a model of type {base.config.model_type} has no decoder layers that can be sharded; use shard=false"
        )
    within = {id(module) for layer in layers for module in layer.modules()}
    outside = {
        parameter
        for module in base.modules()
        if id(module) not in within
        for parameter in module.parameters(recurse=False)
    }
    return inside - outside


def shard_layers(base: Any, weights: set[Tensor], group: PartialState) -> None:
    """Give each process its share of the frozen weights of the decoder layers, and all the rest, on its device.

    Each layer goes from the host to the device by itself, so the device never holds the whole base.

    Args:
        base: the base, without the wrapper of its adapter, on the host.
        weights: of its decoder layers, before the adapter was added (``layer_weights``).
        group: the processes; all call this with the same base.
    """
    mesh = init_device_mesh(group.device.type, (group.num_processes,))
    for layer in _decoder_layers(base):
        whole = {
            parameter
            for parameter in layer.parameters()
            if parameter.requires_grad or parameter not in weights
        }
        fully_shard(layer, mesh=mesh, ignored_params=whole)
    decoder = base.base_model
    # it has no weights to shard; as the root, it lets layers gather their weights while others compute
    fully_shard(decoder, mesh=mesh, ignored_params=set(decoder.parameters()))


def move_whole_tensors(model: Any, device: torch.device) -> None:
    """Move what is not sharded, such as embeddings and the adapter, to a device."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device != device:
            tensor.data = tensor.data.to(device)


def _decoder_layers(base: Any) -> list[Any]:
    return [module for module in base.modules() if isinstance(module, GradientCheckpointingLayer)]
