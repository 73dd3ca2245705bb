"""The pocket world's source of reference images: a renderer in the crisp style."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from advgrpo.pocket.captions import parse_caption
from advgrpo.pocket.pictures import RESOLUTION_PIXELS, render

REFERENCE_STYLE = 1.0


class PocketRenderer:
    """A reference image source that renders captions in the crisp style."""

    resolution_pixels = RESOLUTION_PIXELS

    @property
    def provenance(self) -> dict[str, str | int | float]:
        """Origin of the images, for the manifest."""
        return {
            "model": "advgrpo.pocket.PocketRenderer",
            # Raise it when `render` changes: the manifest records it as the origin of the images.
            "revision": "1",
            "style": REFERENCE_STYLE,
            "resolution_pixels": RESOLUTION_PIXELS,
        }

    def draw(
        self, prompts: Sequence[str], seeds: Sequence[int]
    ) -> Float[Tensor, "batch 3 height width"]:
        """Draw one picture per prompt.

        Args:
            prompts: Pocket captions.
            seeds: One per prompt; a picture depends only on its own prompt and seed.

        Returns:
            RGB pictures in [0, 1], 32 x 32.

        Raises:
            ValueError: If a prompt is not a pocket caption, or prompts and seeds differ in number.
        """
        captions = [parse_caption(prompt) for prompt in prompts]
        return render(captions, REFERENCE_STYLE, seeds)
