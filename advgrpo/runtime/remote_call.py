"""Calls of functions in other processes: a function by name, its arguments as JSON."""

import importlib
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import validate_call
from pydantic_core import to_jsonable_python

from advgrpo.storage.files import read_bytes, write_bytes
from advgrpo.storage.locations import join

WORKER = "advgrpo.runtime.worker"
"""Module that makes the call, as `python -m advgrpo.runtime.worker TASK FUNCTION FOLDER`."""

ARGUMENTS_FILE = "arguments.json"


def reference_to(function: Callable[..., object]) -> str:
    """Return the name by which another process finds a function, as `module:name`.

    Raises:
        ValueError: If the function is not an attribute of its module.
    """
    module, name = function.__module__, function.__qualname__
    # Also refuses a function that a decorator or a test has replaced: the other process would call
    # another one.
    if getattr(sys.modules[module], name, None) is not function:
        raise ValueError(f"another process cannot import {name} from {module}")
    return f"{module}:{name}"


def load_function(reference: str) -> Callable[..., Any]:
    """Import a function.

    Args:
        reference: What `reference_to` returned.
    """
    module, _, name = reference.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def write_arguments(folder: str, arguments: Mapping[str, object]) -> None:
    """Write the arguments of a call.

    Args:
        folder: Local path or `s3://` location.
        arguments: Plain data, dataclasses and pydantic models by parameter.
    """
    content = json.dumps(to_jsonable_python(dict(arguments))).encode()
    write_bytes(join(folder, ARGUMENTS_FILE), content)


def read_arguments(folder: str) -> dict[str, Any]:
    """Read the arguments of a call, as JSON values."""
    arguments: dict[str, Any] = json.loads(read_bytes(join(folder, ARGUMENTS_FILE)))
    return arguments


def call(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """Call a function with JSON values, converted to the types of its annotations.

    Args:
        function: Its parameters are annotated with types that pydantic knows.
        arguments: What `read_arguments` returned.
    """
    # Not in strict mode: JSON has neither tuples nor paths.
    return validate_call(function)(**arguments)


def check_arguments(function: Callable[..., object], arguments: Mapping[str, object]) -> None:
    """Raise in this process what a call with these arguments would raise in the other one.

    Raises:
        TypeError: If an argument is missing or the function has no such parameter.
    """
    inspect.signature(function).bind(**arguments)
