"""Draw reference images with a stronger model than the policy."""

from advgrpo.reference_images.generation import (
    generate_packed_reference_images,
    generate_reference_images,
)
from advgrpo.runtime.work_queue import Team, team

__all__ = ["Team", "generate_packed_reference_images", "generate_reference_images", "team"]
