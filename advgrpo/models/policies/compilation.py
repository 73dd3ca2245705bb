"""`torch.compile` for the transformer, and what its errors mean."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch._dynamo.exc import TorchDynamoException

from advgrpo.errors import ConfigError

MOST_VARIANTS = 32
"""Compiled variants of the transformer: batch sizes, with gradients and without, with adapter and
without."""

_WORDS = 300


def compile_in_place(module: torch.nn.Module, backend: str) -> None:
    """Compile a module's forward pass when it is next called.

    Args:
        module: Stays the same object, so that whoever holds it runs the compiled pass as well.
        backend: One of torch's.
    """
    # Beyond the limit torch would go on uncompiled, and rollout and update would round apart.
    torch._dynamo.config.recompile_limit = MOST_VARIANTS
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    module.compile(backend=backend)


@contextmanager
def compiler_errors() -> Iterator[None]:
    """Say of what the compiler raises which setting it is about.

    Raises:
        ConfigError: In place of the compiler's own error.
    """
    try:
        yield
    except TorchDynamoException as error:
        said = str(error).strip()
        without = "No working C" in said or "Failed to find C compiler" in said
        raise ConfigError(
            "training.compile: the transformer cannot be compiled: "
            + ("there is no working C++ compiler here" if without else said[:_WORDS]),
            repair=("install one, such as g++, or " if without else "")
            + "set training.compile=none",
        ) from error
