"""What all sections of the configuration share."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A group of settings: unknown keys are refused and values never change once read."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        validate_default=True,
        # JSON, as which tasks get their settings, has neither.
        allow_inf_nan=False,
    )


def known_scheme(uri: str) -> str:
    """Refuse what is not spelled as a location."""
    scheme, separator, rest = uri.partition("://")
    if separator and scheme not in {"s3", "package", "hub"}:
        raise ValueError(
            f"'{scheme}://' is not a kind of location; use a local path, s3://bucket/key, "
            "package://python.package/folder or hub://owner/name"
        )
    if separator and not rest:
        raise ValueError(f"'{uri}' names no location after '{scheme}://'")
    if separator and "@" in rest.partition("/")[0]:
        raise ValueError(
            "a location must not hold a user or a password; access to S3 is given by "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, to a hub by HF_TOKEN"
        )
    if "\0" in uri:
        raise ValueError("a location must not hold the character NUL")
    if not uri.strip():
        raise ValueError("a location must not be empty")
    return uri


Location = Annotated[str, AfterValidator(known_scheme)]
"""A local path, `s3://bucket/key`, `package://python.package/folder` (files that an installed
package ships) or `hub://owner/name` (a model hub)."""

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
"""SHA-256 in hexadecimal, as `sha256sum` prints it."""

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Weights(Section):
    """Where a pre-trained model lies."""

    location: Location
    """Folder in the library's own `save_pretrained` layout, or a hub id."""

    revision: str | None = None
    """Commit of a hub repository; a hub location must pin one, other locations have none."""

    subfolder: str = ""
    """Folder inside the location."""
