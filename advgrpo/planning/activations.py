"""Memory of activations, counted by running models without weights."""

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from advgrpo.models.meta import META
from advgrpo.models.policies.compilation import repeated_blocks
from advgrpo.models.policies.transformer_policy import TransformerPolicy


def saved_bytes(
    policy: TransformerPolicy, *, images: int, guidance_scale: float
) -> tuple[int, int]:
    """Count the bytes that an update keeps from its forward pass for the backward pass.

    Args:
        policy: On the meta device, without gradient checkpointing.
        images: In one microbatch.
        guidance_scale: Of the training.

    Returns:
        The bytes without gradient checkpointing, and those with it, which keeps the inputs of all
        blocks and recomputes one block at a time.
    """
    weights = {_key(each) for each in policy.transformer.parameters()}
    saved: dict[int, Tensor] = {}
    inputs: dict[int, Tensor] = {}
    before: list[tuple[int, int]] = []
    outside, in_blocks, in_inputs, largest = 0, 0, 0, 0

    def save(tensor: Tensor) -> Tensor:
        if _key(tensor) not in weights:
            saved.setdefault(_key(tensor), tensor)
        return tensor

    def enter(_block: torch.nn.Module, args: Any, kwargs: Any) -> None:  # noqa: ANN401 - any model
        before.append((_total(saved), _total(inputs)))
        for each in tree_leaves((args, kwargs)):
            if isinstance(each, Tensor):
                inputs.setdefault(_key(each), each)

    def leave(block: torch.nn.Module, *_: object) -> None:
        nonlocal outside, in_blocks, in_inputs, largest
        saved_before, inputs_before = before.pop()
        size = _total(saved) - saved_before
        outside -= size
        in_blocks += times[block] * size
        in_inputs += times[block] * (_total(inputs) - inputs_before)
        largest = max(largest, size)

    latents = torch.empty((images, *policy.latent_shape), device=META)
    with (
        _without_equal_blocks(policy.transformer) as times,
        _hooks(times, enter, leave),
        saved_tensors_hooks(save, lambda tensor: tensor),
        _FlashAttention(),
    ):
        embeddings = policy.embed(["a prompt"] * images)
        policy.velocity(latents, 0.5, embeddings, guidance_scale=guidance_scale)
    outside += _total(saved)
    return outside + in_blocks, outside + in_inputs + largest


def peak_bytes(run: Callable[[], object]) -> int:
    """Return the most bytes that tensors of a computation without gradients take at once."""
    with torch.no_grad(), _FlashAttention(), _Alive() as alive:
        run()
        peak: int = alive.peak
    return peak


@contextmanager
def _without_equal_blocks(transformer: Any) -> Iterator[dict[torch.nn.Module, int]]:  # noqa: ANN401
    """Keep two of successive blocks of equal shape within the context, since others only repeat.

    Two, because the first may be the first to see an input, and its own needs no gradient.

    Yields:
        How many blocks each of the kept ones stands for.
    """
    repeated = set(repeated_blocks(transformer))
    times: dict[torch.nn.Module, int] = {}
    lists = [
        (parent, name, child)
        for parent in list(transformer.modules())
        for name, child in parent.named_children()
        if isinstance(child, torch.nn.ModuleList) and repeated & set(child)
    ]
    for parent, name, child in lists:
        kept: list[torch.nn.Module] = []
        for _, group in groupby(child, key=lambda block: [p.shape for p in block.parameters()]):
            equal = list(group)
            kept += equal[:2]
            times |= {equal[0]: 1} | {block: len(equal) - 1 for block in equal[1:2]}
        setattr(parent, name, torch.nn.ModuleList(kept))
    try:
        yield times
    finally:
        for parent, name, child in lists:
            setattr(parent, name, child)


@contextmanager
def _hooks(
    modules: Iterable[torch.nn.Module],
    enter: Callable[..., None],
    leave: Callable[..., None],
) -> Iterator[None]:
    handles = [
        handle
        for module in modules
        for handle in (
            module.register_forward_pre_hook(enter, with_kwargs=True),
            module.register_forward_hook(leave),
        )
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _key(tensor: Tensor) -> int:
    key: int = tensor.untyped_storage()._cdata
    return key


def _total(tensors: Mapping[int, Tensor]) -> int:
    return sum(each.untyped_storage().nbytes() for each in tensors.values())


class _Attention(torch.autograd.Function):
    """Saves what a fused kernel saves: its inputs, its output and one number per query."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:  # noqa: ANN401
        output = query.new_empty(*query.shape[:-1], value.shape[-1])
        sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, output, sums)
        return output


class _FlashAttention(TorchFunctionMode):
    """Replaces attention, which the meta device computes with all pairs of tokens in memory."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        _types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        if func is scaled_dot_product_attention:
            named = dict(zip(("query", "key", "value"), args, strict=False)) | (kwargs or {})
            attention: Callable[..., Tensor] = _Attention.apply
            return attention(named["query"], named["key"], named["value"])
        return func(*args, **(kwargs or {}))


class _Alive(TorchDispatchMode):
    """Adds up the storages that exist, as operations create them and Python frees them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._alive, self._known = 0, weakref.WeakSet[torch.UntypedStorage]()
        self.peak = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        _types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        output: object = func(*args, **(kwargs or {}))
        for each in tree_leaves(output):
            if isinstance(each, Tensor):
                self._add(each.untyped_storage())
        return output

    def _add(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        self._alive += storage.nbytes()
        self.peak = max(self.peak, self._alive)
        weakref.finalize(storage, partial(self._free, storage.nbytes()))

    def _free(self, count: int) -> None:
        self._alive -= count
