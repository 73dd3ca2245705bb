"""The interface of frozen measures."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Scorer(Protocol):
    """Measures images; never trained on by the run that it measures."""

    name: str

    def score(
        self, images: Float[Tensor, "batch 3 height width"], prompts: Sequence[str]
    ) -> Mapping[str, Float[Tensor, "batch"]]:
        """Measure each image against its prompt.

        Args:
            images: RGB in [0, 1].
            prompts: One per image.

        Returns:
            One value per image for each measure, higher is better, on the CPU.
        """
        ...
