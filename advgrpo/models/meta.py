"""Models without weights, built from their configurations on the meta device."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from diffusers import ConfigMixin
from torch.overrides import TorchFunctionMode

from advgrpo.config.base import Weights
from advgrpo.errors import StorageError, WeightsError
from advgrpo.models.published import PUBLISHED
from advgrpo.storage.fetch import local_file
from advgrpo.storage.locations import join, scheme
from advgrpo.strict_json import load_json_object

META = torch.device("meta")
_REPAIR = "set the location to a folder with the config.json files of the model, without weights"

_RANDOM = (torch.Tensor.uniform_, torch.Tensor.normal_)


class _Uninitialized(TorchFunctionMode):
    """Leaves out the initialization of parameters, which takes most of a model's construction."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        _types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        if getattr(func, "__module__", "") == "torch.nn.init" or func in _RANDOM:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


@contextmanager
def on_meta() -> Iterator[None]:
    """Create modules on the meta device within the context."""
    with META, _Uninitialized():
        yield


def configuration(weights: Weights, part: str = "") -> Mapping[str, Any]:
    """Read a model's configuration, without its weights.

    Args:
        weights: Location of the model.
        part: Folder of a pipeline's component; empty if the location is the model itself.

    Returns:
        Content of its `config.json`, for a model on a hub from `PUBLISHED`.

    Raises:
        WeightsError: If it cannot be read, or the model on the hub is unknown.
    """
    folder = "/".join(name for name in (weights.subfolder.strip("/"), part) if name)
    location = weights.location.rstrip("/")
    if scheme(location) == "hub":
        # A hub may need a login for the file, and a plan must not.
        try:
            return PUBLISHED[location][folder]
        except KeyError as error:
            raise _unknown(join(location, folder)) from error
    path = join(location, folder, "config.json")
    try:
        return load_json_object(local_file(path).read_text(encoding="utf-8"))
    except (StorageError, OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {error}", repair=_REPAIR) from error


def _unknown(location: str) -> WeightsError:
    return WeightsError(f"the shape of {location} is not known without a download", repair=_REPAIR)


def build(model_class: Any, config: Mapping[str, Any]) -> Any:  # noqa: ANN401 - libraries' models
    """Build a model of diffusers or transformers on the meta device.

    Raises:
        WeightsError: If the configuration is not one of this class.
    """
    found = config.get("_class_name", model_class.__name__)
    if found != model_class.__name__:
        raise WeightsError(
            f"config.json is that of a {found}, not of a {model_class.__name__}",
            repair="set policy.type to the family of the weights, or replace the file",
        )
    try:
        with on_meta():
            if issubclass(model_class, ConfigMixin):
                return model_class.from_config(config)
            return model_class(model_class.config_class.from_dict(dict(config)))
    # A damaged configuration may have any value for any key.
    except Exception as error:
        raise WeightsError(
            f"a {model_class.__name__} cannot be built from its config.json: {error}",
            repair="replace the file by that of the published weights",
        ) from error


def parameters(model: torch.nn.Module) -> int:
    """Count the parameters of a model; shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def count(model_class: Any, config: Mapping[str, Any]) -> int:  # noqa: ANN401
    """Count the parameters of a model, which is built once for each configuration.

    Raises:
        WeightsError: If the configuration is not one of this class.
    """
    return _count(model_class, json.dumps(dict(config), sort_keys=True))


def shared(model_class: Any, config: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """Return a model that is built once for each configuration, and must not be changed.

    Raises:
        WeightsError: If the configuration is not one of this class.
    """
    return _shared(model_class, json.dumps(dict(config), sort_keys=True))


@lru_cache(maxsize=16)
def _shared(model_class: Any, config: str) -> Any:  # noqa: ANN401
    return build(model_class, json.loads(config))


@lru_cache(maxsize=64)
def _count(model_class: Any, config: str) -> int:  # noqa: ANN401
    return parameters(build(model_class, json.loads(config)))


def component_names(weights: Weights) -> list[str]:
    """List the folders of a pipeline's models.

    Raises:
        WeightsError: If the pipeline's index cannot be read, or the one on the hub is unknown.
    """
    location = weights.location.rstrip("/")
    if location in PUBLISHED:
        return list(PUBLISHED[location])
    path = join(location, weights.subfolder, "model_index.json")
    if scheme(location) == "hub":
        raise _unknown(location)
    try:
        index = load_json_object(local_file(path).read_text(encoding="utf-8"))
    except (StorageError, OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {error}", repair=_REPAIR) from error
    # An entry is [library, class]; tokenizers and schedulers have no parameters.
    return [
        name
        for name, entry in index.items()
        if isinstance(entry, list)
        and entry[0] in ("diffusers", "transformers")
        and not str(entry[1]).endswith(("Scheduler", "Tokenizer", "TokenizerFast", "Processor"))
    ]
