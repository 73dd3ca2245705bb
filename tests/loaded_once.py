"""Plugin with a fixture that reads models of libraries from their files once in a process."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_loaded: dict[object, object] = {}


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
            _loaded[key] = load(cls, folder, **options)
        return copy.deepcopy(_loaded[key])

    return from_pretrained
