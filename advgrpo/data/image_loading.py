"""Reading of images of a validated reference image set."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from advgrpo.data.images import read_image
from advgrpo.errors import ReferenceImageError
from advgrpo.records import ReferenceImageSet
from advgrpo.storage.locations import join


def load_images(
    reference_images: ReferenceImageSet, prompt: str, variations: Sequence[int]
) -> Float[Tensor, "variation 3 height width"]:
    """Read reference images of a prompt.

    Args:
        reference_images: A validated set.
        prompt: One of its prompts.
        variations: Positions among the images of the prompt.

    Returns:
        RGB in [0, 1], in the requested order.

    Raises:
        ReferenceImageError: If the prompt or a variation is not part of the set, or a file was
            damaged after validation.
        StorageError: If a file cannot be read.
    """
    files = reference_images.files.get(prompt, ())
    # Negative positions, too: Python would count them from the end.
    beyond = [variation for variation in variations if not 0 <= variation < len(files)]
    if beyond or not variations:
        raise ReferenceImageError(
            f"reference images {list(variations)} of {prompt!r} are requested, but the set in "
            f"{reference_images.root} has {len(files)}",
            repair="set reference_images.images_per_prompt to the number of existing images, or "
            "generate more of them",
        )
    return torch.stack(
        [
            read_image(
                join(str(reference_images.root), files[variation]),
                reference_images.resolution_pixels,
            )
            for variation in variations
        ]
    )
