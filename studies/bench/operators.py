"""Operators of a model's passes, without running them: operations, bytes and kernels."""

# ruff: noqa: ANN401 - operators of torch take and return anything

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakTensorKeyDictionary

from advgrpo.planning.cards import Card

# Shares of a data sheet's rates that large operators reach, assumed for every card.
PRODUCTS, PLAIN_PRODUCTS, ATTENTION, BANDWIDTH = 0.61, 0.75, 0.46, 0.78
LARGE_MATMUL = 0.8
"""Share that one large matrix product reaches: the unit of "share of the matmul rate"."""
LAUNCH_SECONDS = 3e-6

_aten = torch.ops.aten


@dataclass(frozen=True)
class Operator:
    """One kernel."""

    kind: str
    """`bfloat16`, `tf32` or `float32` product, `attention`, or `elementwise`."""

    operations: int
    bytes: int

    def seconds(self, card: Card) -> float:
        """Estimate its time on a card."""
        rate = {
            "bfloat16": PRODUCTS * card.bfloat16,
            # On every card of the table TF32 has half of bfloat16's rate.
            "tf32": PRODUCTS * card.bfloat16 / 2,
            "float32": PLAIN_PRODUCTS * card.float32,
            "attention": ATTENTION * card.bfloat16,
            "elementwise": float("inf"),
        }[self.kind]
        return max(self.operations / rate, self.bytes / BANDWIDTH / card.bandwidth) + LAUNCH_SECONDS


@dataclass
class Work:
    """Kernels of a pass, one after the other."""

    kernels: Counter[Operator] = field(default_factory=Counter)

    def seconds(self, card: Card) -> float:
        """Estimate the time of all kernels on a card."""
        return sum(count * kernel.seconds(card) for kernel, count in self.kernels.items())

    def in_tf32(self) -> "Work":
        """Return the same kernels with float32 products in TF32."""
        kinds = {"float32": "tf32"}
        return Work(
            Counter(
                {
                    replace(kernel, kind=kinds.get(kernel.kind, kernel.kind)): count
                    for kernel, count in self.kernels.items()
                }
            )
        )

    @property
    def operations(self) -> int:
        """Floating point operations of products, convolutions and attention."""
        return sum(count * kernel.operations for kernel, count in self.kernels.items())


class _Value:
    """The result of an elementwise operator, which a compiler need not write to memory."""

    def __init__(self, size: int, inputs: list["_Value | Tensor"]) -> None:
        self.size, self.inputs = size, inputs
        self.is_computed = self.is_stored = False


_Reads = dict[object, int]
"""Bytes that a kernel reads, by what they belong to."""


class OperatorCounter(TorchDispatchMode):
    """Counts operators on tensors of the device `meta`.

    Attributes:
        eager: One kernel for each operator.
        fused: Elementwise work is part of the kernel that first needs it in memory, for a product;
            this reads what lies in memory and writes what a later kernel reads. As compilers do, it
            computes a value again where that reads less than the value has bytes to write and read.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.eager, self.fused = Work(), Work()
        self._values: Any = WeakTensorKeyDictionary()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is _aten._local_scalar_dense.default:
            return 1  # Without values; asked for masks that keep everything.
        found = function(*args, **(kwargs or {}))
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        outputs = [t for t in tree_leaves(found) if isinstance(t, Tensor)]
        if function.is_view or function in (_aten.detach.default, _aten._unsafe_view.default):
            for tensor in outputs:
                if inputs[0] in self._values:
                    self._values[tensor] = self._values[inputs[0]]
            return found
        size = sum(map(_nbytes, (*inputs, *outputs)))
        formula = flop_registry.get(function._overloadpacket)
        if formula is None:
            self.eager.kernels[Operator("elementwise", 0, size)] += 1
            read = [self._values.get(tensor, tensor) for tensor in inputs]
            for tensor in outputs:
                self._values[tensor] = _Value(_nbytes(tensor), read)
        else:
            operations = int(formula(*args, **(kwargs or {}), out_val=found))
            attention = "attention" in function._schema.name
            kind = "attention" if attention else str(outputs[0].dtype).removeprefix("torch.")
            self.eager.kernels[Operator(kind, operations, size)] += 1
            for tensor in inputs:
                if tensor in self._values:
                    self._store(self._values[tensor])
            self.fused.kernels[Operator(kind, operations, size)] += 1
        return found

    def flush(self) -> None:
        """Compute what nothing has read yet."""
        for value in list(self._values.values()):
            if not value.is_computed:
                self._store(value)

    def _store(self, value: _Value) -> None:
        if value.is_stored:
            return
        kernel: dict[_Value, _Reads] = {}
        # What was computed before is written there.
        read = 0 if value.is_computed else sum(self._reads(value, kernel).values())
        written = value.size + sum(each.size for each in kernel if each.is_stored)
        value.is_stored = True
        for each in kernel:
            each.is_computed = True
        self.fused.kernels[Operator("elementwise", 0, read + written)] += 1

    def _reads(self, value: _Value, kernel: dict[_Value, _Reads]) -> _Reads:
        """Return what a kernel reads to compute a value; notes each value that it computes."""
        if value in kernel:
            return kernel[value]
        reads: _Reads = {}
        for each in value.inputs:
            if isinstance(each, Tensor):
                place = (each.untyped_storage()._cdata, each.storage_offset(), _nbytes(each))
                reads[place] = place[2]
            elif each.is_stored and each not in kernel:
                reads[each] = each.size
            else:
                reads |= self._reads(each, kernel)
        if value.is_computed and sum(reads.values()) > 2 * value.size:
            # Cheaper to write where it was computed, which is counted here, and to read.
            value.is_stored, reads = True, {value: value.size}
        kernel[value] = reads
        return reads


def _nbytes(tensor: Tensor) -> int:
    # What is read: an expanded axis lies in memory once.
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    return prod(size for size, stride in sizes if stride) * tensor.itemsize


@contextmanager
def counted_operators() -> Iterator[OperatorCounter]:
    """Count the operators within the context; attention is one fused kernel."""
    with patch("torch.nn.functional.scaled_dot_product_attention", _attention):
        with OperatorCounter() as counter:
            yield counter
        counter.flush()


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **options: Any) -> Tensor:
    # On `meta` torch would choose the kernel of a CPU. Masks only hide padding.
    if options.get("enable_gqa"):
        repeats = query.shape[1] // key.shape[1]
        key, value = (each.repeat_interleave(repeats, dim=1) for each in (key, value))
    attended: Tensor = _aten._scaled_dot_product_flash_attention(query, key, value)[0]
    return attended
