"""Frozen weights of a transformer in 8 bits, for GPUs that cannot hold them in 16."""

from importlib.util import find_spec
from typing import Any

from torch import nn

from advgrpo.errors import ConfigError
from advgrpo.models.policies.compilation import repeated_blocks


def check_quantization() -> None:
    """Check that the package is there, before weights are loaded.

    Raises:
        ConfigError: If it is not.
    """
    if find_spec("torchao") is None:
        raise ConfigError(
            "policy.quantization=int8: the package torchao is not installed",
            repair="pip install 'advgrpo[quantize]', or set policy.quantization=none",
        )


def quantize(transformer: Any) -> None:  # noqa: ANN401 - diffusers has no types
    """Quantize the weights of a transformer's blocks in place, without calibration.

    Each row of a weight gets integers of 8 bits and one scale. Activations keep their precision,
    so an image does not depend on the others in its batch. What surrounds the blocks is small and
    stays as it is.
    """
    # An optional package, whose import takes seconds.
    from torchao.quantization import Int8WeightOnlyConfig, quantize_  # noqa: PLC0415

    for block in repeated_blocks(transformer):
        quantize_(block, Int8WeightOnlyConfig())
    # The new weights are trainable by default.
    transformer.requires_grad_(False)


def saved_bytes(transformer: Any) -> int:  # noqa: ANN401
    """Return by how much `quantize` shrinks a transformer."""
    weights = [
        module.weight
        for block in repeated_blocks(transformer)
        for module in block.modules()
        # Layers of an adapter stay as they are.
        if isinstance(module, nn.Linear) and not module.weight.requires_grad
    ]
    return sum((w.itemsize - 1) * w.numel() - w.itemsize * len(w) for w in weights)
