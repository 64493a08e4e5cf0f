"""A GPU that is not there: tensors of PyTorch's FakeTensorMode have shapes and devices but no values.

Operations on tensors of two devices raise, as does reading a value (`.item()`, `bool(tensor)`, `tensor[mask]`).
`StrictMode` adds what a fake tensor would let pass: copies for which the host waits, and float64 where the device has
none.

MPS is stood in for by a fake CUDA device without float64: PyTorch indexes MPS tensors, and records operations on them,
only where it is built for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from model.commands import evaluate
from model.evaluation import metrics
from model.training import meters
from model.training.precision import widest_float

P = ParamSpec("P")
T = TypeVar("T")
aten = torch.ops.aten
COPIES = (aten._to_copy, aten.copy, aten.copy_)
# These copy an index that is on the CPU, and turn a mask into indices, whose number the host has to know.
INDEXINGS = (aten.index, aten.index_put, aten.index_put_, aten._unsafe_index, aten._unsafe_index_put)
CHECKED_ON_THE_HOST = (aten._linalg_check_errors, aten.is_nonzero, aten.equal, aten._local_scalar_dense)
FLOAT64 = (torch.float64, torch.complex128)


class Synchronisation(AssertionError):
    """The host waits for the device."""


class StrictMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Raises where the host would wait for the device, and where a tensor has a type that the device lacks.

    Args:
        without_float64: The type of devices that lack it; None for none.
    """

    def __init__(self, *, without_float64: str | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.without_float64, self.in_step = without_float64, False

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.in_step:
            refuse_synchronisation(func, args, kwargs)
        if func.overloadpacket is aten._fused_sgd_:  # works in place, and has no kernel for fake tensors
            require_one_device(args)
            return None
        result = func(*args, **kwargs)
        for tensor in tensors_of(result):
            if tensor.device.type == self.without_float64 and tensor.dtype in FLOAT64:
                raise TypeError(f"{func}: {tensor.dtype} on a device that does not have it")
        return result


def tensors_of(tree: object) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def require_one_device(args: Sequence[Any]) -> None:
    if len(devices := {tensor.device for tensor in tensors_of(args)}) > 1:
        raise RuntimeError(f"tensors on {', '.join(map(str, devices))}")


def refuse_synchronisation(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    packet = func.overloadpacket
    devices = {tensor.device for tensor in tensors_of((args, kwargs))}
    if packet in COPIES:
        source = args[1] if packet is not aten._to_copy else args[0]
        target = kwargs.get("device", source.device) if packet is aten._to_copy else args[0].device
        is_blocking = not (kwargs.get("non_blocking", False) or (packet is not aten._to_copy and args[2:] == (True,)))
        if source.device != target and (is_blocking or target.type == "cpu"):
            raise Synchronisation(f"a copy from {source.device} to {target} that the host waits for")
    elif packet in CHECKED_ON_THE_HOST and devices != {torch.device("cpu")}:
        raise Synchronisation(f"{func} reads a value")
    elif packet in INDEXINGS and args[0].device.type != "cpu":
        for index in tensors_of(args[1]):
            if index.device != args[0].device:
                raise Synchronisation(f"{func} with an index on {index.device}")
            if index.dtype in (torch.bool, torch.uint8):
                raise Synchronisation(f"{func} with a mask")


# The backward pass ----------------------------------------------------------------------------------------------------


def backward(tensors: Any, grad_tensors: Any = None, *_: Any, **__: Any) -> None:
    """Replaces torch.autograd.backward, which asks the device's driver for its streams, for one scalar.

    As PyTorch's engine, it refuses gradients on another device than the value that they belong to.
    """
    (root,) = [tensors] if isinstance(tensors, Tensor) else tensors
    dependencies: Counter[Any] = Counter()
    first: Any = root.grad_fn
    found, stack = {first}, [first]
    while stack:
        for following, _number in stack.pop().next_functions:
            if following is None:
                continue
            dependencies[following] += 1
            if following not in found:
                found.add(following)
                stack.append(following)
    gradients: dict[Any, list[Tensor | None]] = {first: [torch.ones_like(root)]}
    ready = [first]
    while ready:
        node = ready.pop()
        run = node if callable(node) else node.apply  # PyTorch's own functions, and those that Python defines
        with torch.no_grad():
            results = run(*gradients.pop(node))
        results = results if isinstance(results, tuple) else (results,)
        for (following, number), gradient in zip(node.next_functions, results, strict=False):
            if following is None:
                continue
            described = following._input_metadata
            inputs = gradients.setdefault(following, [None] * len(described))
            if gradient is not None:
                inputs[number] = add(inputs[number], as_described(gradient, described[number], node.name()))
            dependencies[following] -= 1
            if not dependencies[following]:
                ready.append(following)


def as_described(gradient: Tensor, described: Any, name: str) -> Tensor:
    if gradient.device != described.device:
        raise RuntimeError(f"{name}: a gradient on {gradient.device} of a value on {described.device}")
    return gradient.sum_to_size(tuple(described.shape)).to(described.dtype)


def add(total: Tensor | None, gradient: Tensor) -> Tensor:
    return gradient if total is None else total + gradient


# The device -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FakeDevice:
    """A fake device, in the block of `fake_device`.

    Args:
        device: With its index, as of tensors.
    """

    device: torch.device
    strict: StrictMode

    @contextmanager
    def step(self) -> Iterator[None]:
        """A block in which the host must not wait for the device."""
        self.strict.in_step = True
        try:
            yield
        finally:
            self.strict.in_step = False

    def holds(self, module: nn.Module) -> bool:
        """Whether all parameters, gradients and buffers are on the device."""
        parameters = list(module.parameters())
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        return {tensor.device for tensor in (*parameters, *gradients, *module.buffers())} <= {self.device}


def with_real_tensors(function: Callable[P, T]) -> Callable[P, T]:
    """The function, whose calls make real tensors: for what a run does on the CPU before it moves the result."""

    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        with unset_fake_temporarily():
            return function(*args, **kwargs)

    return call


def sum_as_on_mps(patch: pytest.MonkeyPatch) -> None:
    """Let every device be one without float64, for the code that asks."""
    for module in (meters, metrics, evaluate):
        patch.setattr(module, "widest_float", lambda device: widest_float(torch.device("mps")))


@contextmanager
def fake_device(*, has_float64: bool = True) -> Iterator[FakeDevice]:
    """A block in which tensors are fake, apart from those of functions `with_real_tensors`."""
    if not torch.backends.cuda.is_built():  # type: ignore[no-untyped-call]
        pytest.skip("PyTorch is built without CUDA: it aborts where it records operations on fake tensors of a GPU")
    fake = FakeTensorMode(allow_non_fake_inputs=True)  # modules that were made outside are moved to the device
    strict = StrictMode(without_float64=None if has_float64 else "cuda")
    swap_tensors = torch.utils.swap_tensors

    def swap_without_memo(one: Tensor, other: Tensor) -> None:
        fake.fake_tensor_converter.tensor_memo.clear()  # its weak references would forbid it
        swap_tensors(one, other)  # type: ignore[no-untyped-call]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.autograd, "backward", backward)
        patch.setattr(torch.utils, "swap_tensors", swap_without_memo)
        patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
        patch.setattr(torch.cuda, "default_generators", (torch.Generator(),))
        if not has_float64:
            sum_as_on_mps(patch)
        with fake, strict:
            yield FakeDevice(torch.device("cuda", 0), strict)
