"""Draw reference images with a stronger model than the policy."""

from advgrpo.reference_generation.generate import generate_reference_images

__all__ = ["generate_reference_images"]
