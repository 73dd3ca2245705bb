"""Draw reference images with a stronger model than the policy."""

from advgrpo.reference_images.generation import (
    generate_packed_reference_images,
    generate_reference_images,
)

__all__ = ["generate_packed_reference_images", "generate_reference_images"]
