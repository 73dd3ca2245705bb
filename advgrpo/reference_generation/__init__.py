"""Draw reference images with a stronger model than the policy."""

from advgrpo.reference_generation.generate import (
    generate_packed_reference_images,
    generate_reference_images,
)
from advgrpo.reference_generation.team import Team, team

__all__ = ["Team", "generate_packed_reference_images", "generate_reference_images", "team"]
