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


class OperatorCounter(TorchDispatchMode):
    """Counts operators on tensors of the device `meta`.

    Attributes:
        eager: One kernel for each operator.
        fused: All elementwise work between two products as one kernel, which reads its inputs once
            and writes what a later kernel reads: what a compiler aims at.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.eager, self.fused = Work(), Work()
        self._group, self._group_bytes = 0, 0
        self._read: set[int] = set()
        # Tensor -> number of the group that computes it; absent once it is in memory.
        self._pending: Any = WeakTensorKeyDictionary()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is _aten._local_scalar_dense.default:
            return 1  # Without values; asked for masks that keep everything.
        found = function(*args, **(kwargs or {}))
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        outputs = [t for t in tree_leaves(found) if isinstance(t, Tensor)]
        if function.is_view or function in (_aten.detach.default, _aten._unsafe_view.default):
            # A view of a pending tensor is pending.
            for tensor in outputs:
                if inputs[0] in self._pending:
                    self._pending[tensor] = self._pending[inputs[0]]
            return found
        size = sum(map(_nbytes, (*inputs, *outputs)))
        formula = flop_registry.get(function._overloadpacket)
        if formula is None:
            self.eager.kernels[Operator("elementwise", 0, size)] += 1
            self._fuse(inputs, outputs)
        else:
            operations = int(formula(*args, **(kwargs or {}), out_val=found))
            attention = "attention" in function._schema.name
            kind = "attention" if attention else str(outputs[0].dtype).removeprefix("torch.")
            self.eager.kernels[Operator(kind, operations, size)] += 1
            for tensor in inputs:
                self._materialize(tensor)
            self.flush()
            self.fused.kernels[Operator(kind, operations, size)] += 1
        return found

    def _fuse(self, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        for tensor in inputs:
            group = self._pending.get(tensor)
            if group == self._group:
                continue
            if group is not None:
                self._materialize(tensor)
            if id(tensor) not in self._read:
                self._read.add(id(tensor))
                self._group_bytes += _nbytes(tensor)
        for tensor in outputs:
            self._pending[tensor] = self._group

    def _materialize(self, tensor: Tensor) -> None:
        if self._pending.pop(tensor, None) is not None:
            self._group_bytes += _nbytes(tensor)

    def flush(self) -> None:
        """End the current group of elementwise operators."""
        if self._group_bytes:
            self.fused.kernels[Operator("elementwise", 0, self._group_bytes)] += 1
        self._group, self._group_bytes = self._group + 1, 0
        self._read.clear()


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
