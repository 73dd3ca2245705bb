"""Where a trained adapter is registered."""

from typing import Annotated

from pydantic import Field

from advgrpo.config.base import Section


class PromotionConfig(Section):
    """The model registry."""

    registered_model: Annotated[str, Field(min_length=1, pattern=r"^[^/:]+$")] = "advgrpo"
    """Name of the registered model."""

    alias: Annotated[str, Field(min_length=1, pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")] = "candidate"
    """Alias that is set on the new version."""
