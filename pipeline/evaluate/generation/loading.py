"""Load a base model and put one adapter after the other onto it.

Loading a large base takes long, so the adapters of a base can share one load. ``BaseLoader.load`` returns the base
with an adapter, ``BaseLoader.release`` takes the adapter off again and keeps the base for the next one. This is only
correct if the base is unchanged afterwards: some methods train biases or whole modules of the base, and some cannot be
taken off at all. So ``release`` compares the base with its state when it was loaded: its modules, hooks and config,
and a sum over the bits of every tensor. If anything differs, the base is dropped, and the next adapter loads it again.
A shared load therefore never changes an answer; it only saves time (tests compare the answers).

An adapter whose manifest says that it was trained on another base, or with another tokenizer, is refused. Shapes alone
would let a base of the same size pass, and the answers would be noise. An adapter without a manifest, made elsewhere,
is accepted.

Trained tensors are loaded in float32, as they were trained, even beside a base of 16-bit weights: in bfloat16 a change of
1e-3 on a norm's weight of 1 vanishes. So a 16-bit model computes under ``pipeline.adapters.precision.compute_in``.
"""

import copy
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pipeline.adapters.precision import avoid_casts, convert_to_float32
from pipeline.core.errors import UserError, one_line
from pipeline.core.io import read_json
from pipeline.models.base import load_base
from pipeline.models.bases import placement
from pipeline.params.base import Quantization
from pipeline.prompts.encode import hash_tokenizer

_FINGERPRINT = re.compile(r"[0-9a-f]{12}")
# the dtypes of the computation and of the base's weights, and how the base is quantized
_Precision = tuple[str, str, Quantization | None]


class _ModelState(NamedTuple):
    """Everything that a model's answers depend on.

    Attributes:
        modules: name, type and numbers of hooks of each module.
        tensors: of each parameter and buffer: dtype, shape and the sum of its bits.
        config: the model's.
    """

    modules: list[tuple[Any, ...]]
    tensors: dict[str, tuple[torch.dtype, torch.Size, int]]
    config: dict[str, Any]


def load_model(
    base: Path,
    adapter: Path | None,
    dtype: str,
    device: str,
    *,
    weights: str | None = None,
    quantization: Quantization | None = None,
    gpus: int = 1,
) -> tuple[Any, Any]:
    """Return a base with its adapter, if there is one, in eval mode, and its tokenizer.

    A fully trained model, which is stored where an adapter would be, needs no base.

    Args:
        base: directory of the base model.
        adapter: directory of the adapter; None: the bare base.
        dtype: that the model is going to compute in, under ``compute_in``. Trained tensors are float32 in any.
        device: a torch device, such as "cpu" or "cuda:0".
        weights: dtype that the base's weights are rounded to; None: ``dtype``. With a ``dtype`` of float32 they take up
            float32's memory all the same.
        quantization: "nf4" or "int8": as the base was quantized in training; None: it is not quantized.
        gpus: how many GPUs the base is split over.

    Raises:
        UserError: base or adapter is missing or broken, or the adapter belongs to another base.
    """
    return BaseLoader(base, device, gpus=gpus).load(adapter, dtype, weights, quantization)


class BaseLoader:
    """Loads a base for one adapter at a time.

    Args:
        path: directory of the base model.
        device: a torch device, such as "cpu" or "cuda:0".
        gpus: how many GPUs the base is split over.
        reuse: whether ``release`` keeps the base for the next adapter; checking it reads all its weights once.

    Attributes:
        cards: GPUs that the base is split over; empty: it is on ``device``.
        loads: how often the base was read from disk.
    """

    def __init__(self, path: Path, device: str, *, gpus: int = 1, reuse: bool = False) -> None:
        self.cards = placement.list_cards(device, gpus)
        self.path, self.device, self.reuse, self.loads = path, device, reuse, 0
        self._idle: dict[_Precision, tuple[Any, Any]] = {}
        self._states: dict[_Precision, _ModelState] = {}
        self._generation_configs: dict[_Precision, Any] = {}

    def load(
        self,
        adapter: Path | None,
        dtype: str,
        weights: str | None = None,
        quantization: Quantization | None = None,
    ) -> tuple[Any, Any]:
        """Return what ``load_model`` does."""
        precision = (dtype, weights or dtype, quantization)
        # a base of another precision is dropped first: memory may not hold two
        idle, self._idle = self._idle.get(precision), {}
        if adapter is not None and (adapter / "config.json").is_file():
            del idle
            return _load_full(adapter, dtype, self.device, self.cards)
        model, tokenizer = idle or self._load_bare(precision)
        if adapter is not None:
            _refuse_foreign_adapter(adapter, self.path, tokenizer)
            model = _attach_adapter(model, adapter, self.path, self.device)
            if dtype != "float32":
                avoid_casts(model)
        return model.eval(), tokenizer

    def _load_bare(self, precision: _Precision) -> tuple[Any, Any]:
        self.loads += 1
        dtype, weights, quantization = precision
        model, tokenizer = load_base(
            self.path,
            dtype=dtype if dtype == "float32" else weights,
            device=self.device,
            rounded_to=weights,
            quantization=quantization,
            cards=self.cards,
        )
        if self.reuse:
            self._states[precision] = _model_state(model)
            self._generation_configs[precision] = copy.deepcopy(model.generation_config)
        return model, tokenizer

    def release(
        self,
        model: Any,
        tokenizer: Any,
        dtype: str,
        weights: str | None = None,
        quantization: Quantization | None = None,
    ) -> None:
        """Take the adapter off a model that ``load`` returned, and keep the base if it is unchanged, bit by bit."""
        if not self.reuse:
            return
        from peft import PeftModel

        if isinstance(model, PeftModel):
            in_prompt = model.active_peft_config.is_prompt_learning
            try:
                model = model.get_base_model() if in_prompt else model.unload()
            except (AttributeError, NotImplementedError, ValueError):
                # this method cannot be taken off, so the next adapter loads the base again
                return
        # peft leaves its config on the base when the adapter is taken off
        vars(model).pop("peft_config", None)
        precision = (dtype, weights or dtype, quantization)
        if precision in self._states and _model_state(model) == self._states[precision]:
            # decoding replaced it
            model.generation_config = copy.deepcopy(self._generation_configs[precision])
            self._idle = {precision: (model, tokenizer)}


def _load_full(directory: Path, dtype: str, device: str, cards: Sequence[torch.device]) -> tuple[Any, Any]:
    """Return a fully trained model and its tokenizer."""
    model, tokenizer = load_base(directory, dtype="float32", device=device, cards=cards)
    embedding = model.get_input_embeddings().weight
    for module in model.modules():
        # Autocast would cast these weights, to the same values, at each token. Embeddings stay in float32.
        if isinstance(module, nn.Linear) and module.weight is not embedding:
            module.to(getattr(torch, dtype))
    return model, tokenizer


def _attach_adapter(model: Any, adapter: Path, base: Path, device: str) -> Any:
    from peft import PeftModel
    from safetensors import SafetensorError

    try:
        adapted = PeftModel.from_pretrained(model, str(adapter), torch_device=device)
        if placement.is_spread(model):
            placement.move_to_first_card(adapted)
        _restore_float32(adapted, adapter, device)
        return adapted
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        reason = one_line(error, 300)
        raise UserError(f"{adapter}: the adapter cannot be loaded onto {base}: {reason}") from error


def _restore_float32(model: Any, adapter: Path, device: str) -> None:
    """Give the adapter's tensors the float32 values of its file, where peft rounded them to the base's dtype.

    peft does so with tensors that replace some of the base's, such as norms, biases and ``modules_to_save``.
    """
    from peft import get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict

    saved = get_peft_model_state_dict(model, save_embedding_layers=False).values()
    addresses = {tensor.data_ptr() for tensor in saved}
    trained = [parameter for parameter in model.parameters() if parameter.data_ptr() in addresses]
    if any(parameter.dtype != torch.float32 for parameter in trained):
        convert_to_float32(model, trained)
        set_peft_model_state_dict(model, load_peft_weights(str(adapter), device=device))


def _refuse_foreign_adapter(adapter: Path, base: Path, tokenizer: Any) -> None:
    """Refuse an adapter whose manifest says that it was trained on another base, or with another tokenizer.

    Args:
        adapter: its directory.
        base: directory of the base; its name or its manifest has the base's fingerprint.
        tokenizer: the base's, loaded.

    Raises:
        UserError: naming both.
    """
    if not (adapter / "manifest.json").is_file():
        return
    manifest = read_json(adapter / "manifest.json")
    trained_on, present = manifest.get("inputs", {}).get("base"), _base_fingerprint(base)
    if trained_on and present and trained_on != present:
        raise UserError(
            f"{adapter}: was trained on the base {trained_on}, not on {present} ({base}); use its own base"
        )
    trained_with, present_sum = manifest.get("tokenizer"), hash_tokenizer(tokenizer)
    if trained_with and trained_with != present_sum:
        raise UserError(
            f"{adapter}: was trained with the tokenizer {trained_with}, not with {present_sum} ({base}), "
            "so its token ids mean different text; restore the base's tokenizer files"
        )


def _base_fingerprint(base: Path) -> str | None:
    manifest = read_json(base / "manifest.json") if (base / "manifest.json").is_file() else {}
    recorded: str | None = manifest.get("fingerprint")
    return recorded or (base.name if _FINGERPRINT.fullmatch(base.name) else None)


def _model_state(model: Any) -> _ModelState:
    # tied weights under each of their names: untying them would be a change too
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    hooks = ("_forward_hooks", "_forward_pre_hooks")
    return _ModelState(
        modules=[
            (name, type(module), *(len(getattr(module, hook)) for hook in hooks))
            for name, module in model.named_modules()
        ],
        tensors={name: (tensor.dtype, tensor.shape, _sum_bits(tensor)) for name, tensor in tensors},
        config=model.config.to_dict(),
    )


def _sum_bits(tensor: Tensor) -> int:
    """Return the sum of a tensor's bytes taken as 64-bit integers: as fast as memory can be read."""
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    # a view as int64 must begin at a multiple of 8 bytes
    flat = flat.clone() if flat.storage_offset() % 8 else flat
    aligned = len(flat) // 8 * 8
    return int(flat[:aligned].view(torch.int64).sum()) + int(flat[aligned:].sum())
