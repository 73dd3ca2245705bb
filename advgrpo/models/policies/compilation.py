"""Compilation of the transformer with `torch.compile`."""

import importlib.util
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._dynamo.exc import TorchDynamoException

from advgrpo.errors import ConfigError

MOST_VARIANTS = 64
"""Limit of the compiled variants of a kind of layer: one for each combination of batch size,
gradients, adapter and position in the transformer."""

_MESSAGE_LENGTH = 300


def compile_layers(transformer: torch.nn.Module, backend: str | None) -> None:
    """Compile the layers of a transformer when they are next called.

    Each layer by itself, because equal layers share what is compiled: a pass of all of them at once
    takes many times as long to compile and is hardly faster.

    Args:
        transformer: Its layers stay the same objects, so that all references to them run the
            compiled passes.
        backend: A backend of torch; None undoes the compilation.
    """
    # Beyond the limit torch would continue uncompiled, and rollout and update would round apart.
    torch._dynamo.config.recompile_limit = MOST_VARIANTS
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    # The compiler reads the gradients of a layer's inputs, which belong to other layers.
    warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
    for layer in repeated_blocks(transformer) or [transformer]:
        if backend is None:
            layer._compiled_call_impl = None
        else:
            layer.compile(backend=backend)


def check_compiler(backend: str, *, on_gpu: bool) -> None:
    """Check that this machine has the compiler that a backend of torch calls.

    Raises:
        ConfigError: If it is `inductor` and there is none.
    """
    if backend != "inductor":
        return
    missing = [] if not on_gpu or importlib.util.find_spec("triton") else ["triton"]
    # As Triton searches for a C compiler, and torch for one of C++.
    variable, *names = ("CC", "gcc", "clang") if on_gpu else ("CXX", "g++", "clang++")
    if not (os.environ.get(variable) or any(map(shutil.which, names))):
        missing.append(names[0])
    if missing:
        raise ConfigError(
            f"training.compile={backend}: this machine lacks {' and '.join(missing)}",
            repair="install what is missing, or set training.compile=none",
        )


def repeated_blocks(transformer: Any) -> list[torch.nn.Module]:  # noqa: ANN401 - diffusers has no types
    """Return the blocks of a transformer, which have the same few shapes."""
    # Of SD3, diffusers lists them under the second name alone.
    names = transformer._repeated_blocks or transformer._no_split_modules or ()
    return [each for each in transformer.modules() if type(each).__name__ in names]


@contextmanager
def compiler_errors() -> Iterator[None]:
    """Convert errors of the compiler, which name no setting.

    Raises:
        ConfigError: Instead of the compiler's own error.
    """
    try:
        yield
    except TorchDynamoException as error:
        # The compiler's error arrives wrapped in a generic one, so only its text distinguishes
        # them.
        message = str(error).strip()
        no_compiler = "No working C" in message or "Failed to find C compiler" in message
        raise ConfigError(
            "training.compile: the transformer cannot be compiled: "
            + ("there is no working compiler" if no_compiler else message[:_MESSAGE_LENGTH]),
            repair=("install one, such as gcc or g++, or " if no_compiler else "")
            + "set training.compile=none",
        ) from error
