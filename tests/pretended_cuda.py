"""A pretended GPU: tensors that claim to be on CUDA, and whose values are computed on the CPU.

They refuse what a GPU would refuse or be slow at: operands on two devices, a CPU generator, `numpy`
without `cpu`, and float64. torch's own `FakeTensorMode` does so too, but without values, which
sampling, rewards and reports need.
"""

# ruff: noqa: ANN401 - operators of torch take and return anything

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

CUDA = torch.device("cuda", 0)
_aten = torch.ops.aten
_COPIES = {_aten.copy_.default, _aten._to_copy.default}
# A GPU takes indices from the CPU, but not the reverse.
_INDEXED = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default}


class CudaTensor(torch.Tensor):
    """A CPU tensor that claims to be on CUDA."""

    leaving = False

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return CUDA

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy: use Tensor.cpu() first")

    def to(self, *args: Any, **kwargs: Any) -> torch.Tensor:  # type: ignore[override]
        # In C++ the tensor is on the CPU, where a move there returns the tensor itself.
        if args and isinstance(args[0], torch.Tensor):
            device, dtype = args[0].device, args[0].dtype
        else:
            device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
        moved = self if dtype is None else super().to(dtype)
        if device is None or device.type == "cuda":
            return moved
        CudaTensor.leaving = True
        try:
            return _aten._to_copy(moved, device=device)
        finally:
            CudaTensor.leaving = False

    def tolist(self) -> Any:
        return self.to("cpu").tolist()

    def __format__(self, spec: str) -> str:
        return self.to("cpu").__format__(spec)

    def cpu(self) -> torch.Tensor:  # type: ignore[override]
        return self.to("cpu")

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _call(function, args, kwargs or {})

    __torch_function__ = torch._C._disabled_torch_function_impl


class _Pretence(TorchDispatchMode):
    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _call(function, args, kwargs or {})


class _Composites(TorchFunctionMode):
    """Also claims what torch's composite functions allocate where they believe the tensors are."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            # Moves past all dispatch modes.
            device = torch.device(kwargs.pop("device"))
            return function(*args, **kwargs).to(device)
        found = function(*args, **kwargs)
        stays = type(found) is torch.Tensor and not CudaTensor.leaving
        if stays and any(isinstance(t, CudaTensor) for t in tree_leaves(args)):
            return found.as_subclass(CudaTensor)
        return found


def _call(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    # torch itself passes the device that it sees along, so CPU alone says nothing.
    on_cuda = any(isinstance(t, CudaTensor) for t in tensors) and not CudaTensor.leaving
    if kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cuda":
        on_cuda, kwargs = True, {**kwargs, "device": torch.device("cpu")}
        if kwargs.get("generator") is not None:
            raise RuntimeError(f"{function}: expected a 'cuda' generator, found 'cpu'")
    if function not in _COPIES and not (function in _INDEXED and isinstance(args[0], CudaTensor)):
        _check_devices(function, tensors)
    kwargs.pop("pin_memory", None)
    with no_dispatch():
        found = function(*args, **kwargs)
        if function._schema.name.endswith("_") and isinstance(args[0], torch.Tensor):
            return args[0]
        if not on_cuda:
            return found
        return tree_map_only(torch.Tensor, lambda t: _claimed(function, t), found)


def _claimed(function: Any, tensor: torch.Tensor) -> torch.Tensor:
    if tensor.dtype == torch.float64 and tensor.numel() > 1 and not _called_by_diffusers():
        raise TypeError(f"{function} gave float64 on a GPU")
    return torch.Tensor._make_subclass(CudaTensor, tensor)


def _called_by_diffusers() -> bool:
    # Its rotary embeddings are tables of float64.
    files = (frame.filename for frame in reversed(traceback.extract_stack(limit=40)))
    return "/diffusers/" in next(f for f in files if "/torch/" not in f and f != __file__)


def _check_devices(function: Any, tensors: list[torch.Tensor]) -> None:
    # A GPU takes single numbers from the CPU.
    places = {isinstance(t, CudaTensor) for t in tensors if t.ndim > 0}
    places |= {True for t in tensors if isinstance(t, CudaTensor)}
    if len(places) > 1:
        raise RuntimeError(f"{function}: expected all tensors on one device, found cuda:0 and cpu")


@contextmanager
def pretended_cuda() -> Iterator[torch.device]:
    """Pretend within the context that the machine has a GPU; yields its device."""
    with pytest.MonkeyPatch.context() as patch, _Pretence(), _Composites():
        patch.setattr(torch.cuda, "_lazy_init", lambda: None)
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        patch.setattr(torch.cuda, "current_device", lambda: 0)
        patch.setattr(torch.cuda, "set_device", lambda _: None)
        patch.setattr(torch.cuda, "synchronize", lambda *_: None)
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        try:
            yield CUDA
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(False)
