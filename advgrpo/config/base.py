"""The base classes of settings sections, and the types of single settings."""

import re
from abc import ABC, abstractmethod
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    """An immutable group of settings that refuses unknown keys."""

    model_config = ConfigDict(
        # A misspelled key would otherwise be ignored, and its default used.
        extra="forbid",
        # Sections are default values of other sections, which share the instance.
        frozen=True,
        # The string below a field becomes its description in docs/configuration.md.
        use_attribute_docstrings=True,
        # By default pydantic does not validate default values.
        validate_default=True,
        # Tasks receive their settings as JSON, which has neither.
        allow_inf_nan=False,
    )


BUILT_IN_PREFIXES = ("distance", "diversity", "image", "manifold")
"""First parts of the names of metrics that need no scorer."""

SCHEMES = ("s3", "package", "hub")
"""Schemes of locations; `advgrpo.storage.files` has the backends of those that can be written."""


# A scheme that lacks slashes, as in `s3:/bucket`: a shell or `pathlib` drops repeated ones.
_BROKEN_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]*):[/\\](?![/\\])")
_BARE_SCHEME = re.compile(rf"\s*(?i:{'|'.join(SCHEMES)})(:(?!//)|//)")


def find_malformed(location: str) -> str:
    """Return why a location is neither a path nor a URI; empty if it is one."""
    broken = _BROKEN_SCHEME.match(location)
    if broken or _BARE_SCHEME.match(location):
        kind = broken[1].lower() if broken and broken[1].lower() in SCHEMES else "s3"
        return (
            f"{location!r} is neither a local path nor a URI; write two slashes, as in "
            f"{kind}://bucket/key, or ./ before a path with a colon"
        )
    scheme, separator, rest = location.partition("://")
    if separator and scheme == "s3" and rest.startswith("/"):
        return f"{location!r} has no bucket; write s3://bucket/key"
    return ""


def known_scheme(uri: str) -> str:
    """Return a location as it was given.

    Raises:
        ValueError: If it is malformed, or of an unknown scheme.
    """
    if problem := find_malformed(uri):
        raise ValueError(problem)
    scheme, separator, rest = uri.partition("://")
    if separator and scheme not in SCHEMES:
        raise ValueError(
            f"'{scheme}://' is not a supported scheme; use a local path, s3://bucket/key, "
            "package://python.package/folder or hub://owner/name"
        )
    if separator and not rest:
        raise ValueError(f"'{uri}' has nothing after '{scheme}://'")
    # Locations are written to logs, MLflow parameters and result files.
    if separator and "@" in rest.partition("/")[0]:
        raise ValueError(
            "a location must not contain a user or a password; set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY for S3, HF_TOKEN for a hub"
        )
    # open() raises ValueError for it, which no caller expects.
    if "\0" in uri:
        raise ValueError("a location must not contain the character NUL")
    # `Path("")` is the working directory, which is never meant.
    if not uri.strip():
        raise ValueError("a location must not be empty")
    return uri


Location = Annotated[str, AfterValidator(known_scheme)]
"""A local path, `s3://bucket/key`, `package://python.package/folder` (files that an installed
package ships) or `hub://owner/name` (a model hub)."""

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
"""SHA-256 in hexadecimal, in the format of `sha256sum`."""

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


_COMMIT_HASH = re.compile(r"[0-9a-f]{40}")


FrozenPrecision = Literal["auto", "float32"]
"""Precision of float32 products in frozen models; `auto` is TF32 on GPUs that have it."""


class Weights(Section):
    """The location of a pre-trained model; on a hub, pinned to a commit."""

    location: Location
    """Folder in the library's own `save_pretrained` layout, or a hub id."""

    revision: str | None = None
    """Commit of a hub repository: required for a hub location, not allowed for others."""

    subfolder: str = ""
    """Folder inside the location."""

    @model_validator(mode="after")
    def _check_pin(self) -> Self:
        is_hub = self.location.startswith("hub://")
        # Branches and tags can move, and an abbreviated hash can become ambiguous.
        if is_hub and not _COMMIT_HASH.fullmatch(self.revision or ""):
            raise ValueError(
                f"{self.location} is not pinned to a commit (revision={self.revision!r}), so its "
                "owner could change it; set `revision` to the full hash of a commit, 40 characters"
            )
        if not is_hub and self.revision is not None:
            raise ValueError(
                f"{self.location} has no revisions (revision={self.revision!r}); only hub:// "
                "locations have one"
            )
        return self


class AlgorithmConfig(Section, ABC):
    """Settings of an RL algorithm: what planning and the loop need to know of any."""

    type: str

    @property
    @abstractmethod
    def trained_steps(self) -> int:
        """Backward passes of one image in an update."""

    @property
    @abstractmethod
    def recorded_latents(self) -> int:
        """Latents of one image that a rollout records."""

    @property
    def learns_from_any_image(self) -> bool:
        """Whether its losses may be computed on images that another policy or model generated."""
        return False

    def extra_passes(self, optimizer_steps: int) -> float:
        """Return the forward passes without gradient that a trained step needs besides its own.

        On average over the optimizer steps that share a rollout.
        """
        del optimizer_steps
        return 0.0

    def rollout_passes(self, num_inference_steps: int, *, guided: int) -> tuple[float, float]:
        """Return the forward passes of an image in a rollout, on average over rollouts.

        Args:
            num_inference_steps: Denoising steps.
            guided: Passes of a guided denoising step.

        Returns:
            Those that images of a group share, and the others.
        """
        return 0.0, float(guided * num_inference_steps)

    def trained_passes(self, num_inference_steps: int, *, guided: int) -> float:
        """Return the forward passes of an image in the trained steps, on average over updates."""
        del num_inference_steps
        return float(guided * self.trained_steps)

    @property
    def adapter_copies(self) -> int:
        """Copies of the adapter that the algorithm keeps, on each GPU and in a checkpoint."""
        return 0

    def check_sampling(self, num_inference_steps: int, *, guided: bool) -> None:
        """Raise ValueError if the sampling of rollouts does not suit the algorithm.

        Args:
            num_inference_steps: Denoising steps.
            guided: Whether classifier-free guidance is on.
        """
