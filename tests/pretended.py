"""Pretended cards: devices "cpu:0", "cpu:1", ... that compute on the CPU, and refuse what real cards refuse.

Every storage has a device, and an operation whose tensors lie on several is an error, in forward and backward passes alike, as
it is between cards of one machine. Only a copy gets a tensor to another device. Tensors without a pretended device lie on the
host.
"""

import contextlib

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

HOST = torch.device("cpu")
READ_DEVICE = torch.Tensor.device.__get__


class WrongDevice(AssertionError):
    """An operation got tensors of several devices."""


class _Places:
    """The device of each storage. Weak references keep an address from being used again."""

    def __init__(self):
        self.devices = {}

    def of(self, tensor):
        if tensor.is_meta:
            return torch.device("meta")
        return self.devices.get(_address(tensor), (HOST,))[0]

    def put(self, tensor, device):
        if not tensor.is_meta and tensor.layout == torch.strided:
            self.devices[_address(tensor)] = (device, StorageWeakRef(tensor.untyped_storage()))


def _address(tensor):
    return tensor.untyped_storage()._cdata


class _Check(TorchDispatchMode):
    """Refuses operations across devices, and puts their results on the device of their operands."""

    def __init__(self, places):
        super().__init__()
        self.places, self.used = places, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.name()
        if "_foreach_" in name or "_fused_" in name:
            return self._run_foreach(func, args, kwargs)
        device = self._common_device(name, args, kwargs)
        out = func(*args, **kwargs)
        inputs = {_address(t) for t in _tensors((args, kwargs)) if not t.is_meta}
        for tensor in _tensors(out):
            # views and results in place stay where they are
            if not tensor.is_meta and _address(tensor) not in inputs:
                self.places.put(tensor, device)
        return out

    def _common_device(self, name, args, kwargs):
        tensors, indices = [t for t in _tensors((args, kwargs)) if not t.is_meta], set()
        if name in ("aten::copy_", "aten::_to_copy"):
            return self.places.of(tensors[0]) if tensors else HOST
        if name.startswith(("aten::index.", "aten::index_put", "aten::_index_put")):
            indices = {id(t) for t in _tensors(args[1])}
        # scalars and indices on the host go with any device
        devices = {
            self.places.of(t)
            for t in tensors
            if self.places.of(t) != HOST or (t.dim() and id(t) not in indices)
        }
        if len(devices) > 1:
            raise WrongDevice(f"{name}: {sorted(map(str, devices))}")
        device = next(iter(devices), HOST)
        self.used.add(device)
        return device

    def _run_foreach(self, func, args, kwargs):
        # torch groups such lists by device; here only tensors at equal places of the lists must agree
        lists = [a for a in args if isinstance(a, (list, tuple)) and a and isinstance(a[0], torch.Tensor)]
        devices = []
        for row in zip(*lists, strict=True):
            found = {self.places.of(t) for t in row}
            if len(found) > 1:
                raise WrongDevice(f"{func.name()}: {sorted(map(str, found))}")
            devices.append(found.pop())
        out = func(*args, **kwargs)
        for tensor, device in zip(out or (), devices, strict=False):
            self.places.put(tensor, device)
        return out


class _Move(torch.autograd.Function):
    """Copies a tensor to a device, and its gradient back."""

    @staticmethod
    def forward(context, tensor, places, device):
        context.places, context.device = places, places.of(tensor)
        out = tensor.clone()
        places.put(out, device)
        return out

    @staticmethod
    def backward(context, gradient):
        out = gradient.clone()
        context.places.put(out, context.device)
        return out, None, None


class _Names(TorchFunctionMode):
    """Lets torch's functions know the names of pretended devices."""

    def __init__(self, places):
        super().__init__()
        self.places = places

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func == READ_DEVICE:
            return self.places.of(args[0])
        name = getattr(func, "__name__", "")
        if name == "to" and isinstance(args[0], torch.Tensor):
            return self._to(func, args, kwargs)
        if name == "cpu":
            return self._move(args[0], HOST)
        device = kwargs.get("device")
        if device is None or torch.device(device).type != "cpu":
            return func(*args, **kwargs)
        kwargs["device"] = HOST
        out = func(*args, **kwargs)
        for tensor in _tensors(out):
            self.places.put(tensor, torch.device(device))
        return out

    def _to(self, func, args, kwargs):
        tensor, device = args[0], None
        rest = []
        for value in args[1:]:
            if isinstance(value, torch.Tensor):
                device, kwargs["dtype"] = self.places.of(value), value.dtype
            elif isinstance(value, (str, torch.device)):
                device = torch.device(value)
            else:
                rest.append(value)
        if kwargs.get("device") is not None:
            device = torch.device(kwargs.pop("device"))
        kwargs.pop("device", None)
        if device is not None and (device.type != "cpu" or tensor.is_meta):
            return func(tensor, device, *rest, **kwargs)
        if device is not None:
            tensor = self._move(tensor, device)
        rest = [value for value in rest if isinstance(value, torch.dtype)]
        kwargs = {key: value for key, value in kwargs.items() if key in ("dtype", "copy")}
        return func(tensor, *rest, **kwargs) if rest or kwargs.get("dtype") is not None else tensor

    def _move(self, tensor, device):
        return tensor if self.places.of(tensor) == device else _Move.apply(tensor, self.places, device)


def _tensors(tree):
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, torch.Tensor)]


@contextlib.contextmanager
def pretended_cards():
    """Let the devices "cpu:0", "cpu:1", ... count as cards; yield the devices that operations have run on."""
    places = _Places()
    with _Names(places), _Check(places) as check:
        yield check.used
