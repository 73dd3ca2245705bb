"""Plugin with a fixture that reads models of libraries from their files once in a process."""

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_loaded: dict[object, "_Copies"] = {}


@pytest.fixture(scope="module")
def loaded_once() -> Iterator[None]:
    """Return copies of the models that were loaded from the same files before."""
    with reading_models_once():
        yield


@contextmanager
def reading_models_once() -> Iterator[None]:
    """Copy models that were loaded from the same files before, in this process or its parent.

    Loading its models takes a tiny run longer than an update, because the libraries inspect them.
    """
    from diffusers import ModelMixin
    from transformers import PreTrainedModel

    with pytest.MonkeyPatch.context() as patch:
        for base in (PreTrainedModel, ModelMixin):
            load = base.from_pretrained.__func__
            patch.setattr(base, "from_pretrained", classmethod(_remembering(load)))
        yield


def _remembering(load: Callable[..., object]) -> Callable[..., object]:
    import torch

    def from_pretrained(cls: type, folder: str | Path, **options: object) -> object:
        if not all(isinstance(value, bool | str | torch.dtype) for value in options.values()):
            return load(cls, folder, **options)
        files = [(path, path.stat()) for path in sorted(Path(folder).rglob("*"))]
        key = (
            cls,
            *((path, stat.st_mtime_ns, stat.st_size) for path, stat in files),
            *sorted(options.items()),
            torch.get_default_dtype(),
            torch.get_default_device(),
        )
        if key not in _loaded:
            _loaded[key] = _Copies(load(cls, folder, **options))
        return _loaded[key].another()

    return from_pretrained


class _Copies:
    """Copies of a model, in a quarter of the time of `deepcopy`."""

    def __init__(self, model: object) -> None:
        self._tensors: list[object] = []
        file = io.BytesIO()
        _Pickler(file, self._tensors).dump(model)
        self._rest = file.getvalue()

    def another(self) -> object:
        return _Unpickler(self._rest, self._tensors).load()


class _Pickler(pickle.Pickler):
    """Collects tensors, which a pickle would hold as files of torch."""

    def __init__(self, file: io.BytesIO, tensors: list[object]) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._tensors = tensors
        self._numbers: dict[int, int] = {}

    def persistent_id(self, part: object) -> int | None:
        import torch

        if not isinstance(part, torch.Tensor):
            return None
        if id(part) not in self._numbers:
            self._numbers[id(part)] = len(self._tensors)
            self._tensors.append(part)
        return self._numbers[id(part)]


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, tensors: list[object]) -> None:
        super().__init__(io.BytesIO(data))
        self._tensors, self._copied = tensors, dict[int, object]()

    def persistent_load(self, number: int) -> object:
        # Parts that share a tensor share its copy.
        if number not in self._copied:
            self._copied[number] = copy.deepcopy(self._tensors[number])
        return self._copied[number]
