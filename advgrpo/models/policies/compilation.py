"""Compilation of the transformer with `torch.compile`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._dynamo.exc import TorchDynamoException

from advgrpo.errors import ConfigError

MOST_VARIANTS = 32
"""Limit of the compiled variants of a transformer: one for each combination of batch size,
gradients and adapter."""

_MESSAGE_LENGTH = 300


def compile_in_place(module: torch.nn.Module, backend: str) -> None:
    """Compile a module's forward pass when it is next called.

    Args:
        module: Stays the same object, so that all references to it run the compiled pass.
        backend: A backend of torch.
    """
    # Beyond the limit torch would continue uncompiled, and rollout and update would round apart.
    torch._dynamo.config.recompile_limit = MOST_VARIANTS
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    module.compile(backend=backend)


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
            + ("there is no working C++ compiler" if no_compiler else message[:_MESSAGE_LENGTH]),
            repair=("install one, such as g++, or " if no_compiler else "")
            + "set training.compile=none",
        ) from error
