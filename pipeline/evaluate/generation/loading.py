"""Models to ask: a base with an adapter, and one load of a base for one adapter after the other."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.core.errors import UserError, one_line
from pipeline.evaluate.generation.origin import refuse_other_base
from pipeline.models.base import load_base


def load_model(base: Path, adapter: Path | None, dtype: str, device: str) -> tuple[Any, Any]:
    """Return a base with its adapter, if one is given, in eval mode, and its tokenizer.

    A fully trained model, which lies where an adapter would, needs no base.

    Raises:
        UserError: base or adapter is not there or broken, or they do not belong together.
    """
    return Base(base, device).take(adapter, dtype)


class Base:
    """A base that models are made of, one at a time; ``loads`` counts how often it was read.

    Args:
        path: directory of the base model.
        device: torch's name of it.
        reused: whether ``give_back`` keeps the base for the next adapter. Whether it is as it was is checked by all of its
            weights, which takes a pass over them for each adapter.
    """

    def __init__(self, path: Path, device: str, *, reused: bool = False) -> None:
        self.path, self.device, self.reused, self.loads = path, device, reused, 0
        self._kept: dict[str, tuple[Any, Any]] = {}
        self._states: dict[str, Mapping[str, Any]] = {}
        self._generation: dict[str, Any] = {}

    def take(self, adapter: Path | None, dtype: str) -> tuple[Any, Any]:
        """Return what ``load_model`` does."""
        kept, self._kept = self._kept.get(dtype), {}  # two bases at once may be more than memory holds
        if adapter is not None and (adapter / "config.json").is_file():
            del kept
            return load_base(adapter, dtype=dtype, device=self.device)
        model, tokenizer = kept or self._bare(dtype)
        if adapter is not None:
            refuse_other_base(adapter, self.path, tokenizer)
            from peft import PeftModel
            from safetensors import SafetensorError

            try:
                model = PeftModel.from_pretrained(model, str(adapter), torch_device=self.device)
            except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
                reason = one_line(error, 300)
                raise UserError(
                    f"{adapter}: the adapter cannot be loaded onto {self.path}: {reason}"
                ) from error
        return model.eval(), tokenizer

    def _bare(self, dtype: str) -> tuple[Any, Any]:
        self.loads += 1
        model, tokenizer = load_base(self.path, dtype=dtype, device=self.device)
        if self.reused:
            self._states[dtype] = _state(model)
            self._generation[dtype] = copy.deepcopy(model.generation_config)
        return model, tokenizer

    def give_back(self, model: Any, tokenizer: Any, dtype: str) -> None:
        """Take the adapter off a model that ``take`` returned, and keep the base if it is what was loaded, bit by bit."""
        if not self.reused:
            return
        from peft import PeftModel

        if isinstance(model, PeftModel):
            prompts = model.active_peft_config.is_prompt_learning
            try:
                model = model.get_base_model() if prompts else model.unload()
            except (AttributeError, NotImplementedError, ValueError):  # a tuner without; the next loads anew
                return
        vars(model).pop("peft_config", None)
        if dtype in self._states and _state(model) == self._states[dtype]:
            model.generation_config = copy.deepcopy(self._generation[dtype])  # decoding puts its own there
            self._kept = {dtype: (model, tokenizer)}


def _state(model: Any) -> dict[str, Any]:
    """Return all that answers depend on: modules, hooks, settings, and a sum over the bits of every tensor."""
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    hooks = ("_forward_hooks", "_forward_pre_hooks")
    return {
        "modules": [
            (name, type(module), *(len(getattr(module, hook)) for hook in hooks))
            for name, module in model.named_modules()
        ],
        "tensors": {name: (tensor.dtype, tensor.shape, _sum_of_bits(tensor)) for name, tensor in tensors},
        "config": model.config.to_dict(),
    }


def _sum_of_bits(tensor: Tensor) -> int:
    """Return the sum of a tensor's bytes taken as 64-bit numbers: as fast as memory is read, thirty times as fast as others."""
    found = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    found = found.clone() if found.storage_offset() % 8 else found
    whole = len(found) // 8 * 8
    return int(found[:whole].view(torch.int64).sum()) + int(found[whole:].sum())
