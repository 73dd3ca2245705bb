"""The interface of reference image sources."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class ReferenceImageSource(Protocol):
    """A model or renderer that draws images for prompts."""

    @property
    def provenance(self) -> Mapping[str, str | int | float]:
        """Type and settings of the source; equal provenance means equal images."""
        ...

    def draw(
        self, prompts: Sequence[str], seeds: Sequence[int]
    ) -> Float[Tensor, "batch 3 height width"]:
        """Draw one image for each prompt.

        Args:
            prompts: One per image.
            seeds: One per image, in [0, 2**63). An image depends on its prompt and seed only.

        Returns:
            RGB in [0, 1], float32.
        """
        ...
