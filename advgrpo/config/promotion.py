"""Where a trained adapter is registered, and what it must be to become the champion."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from advgrpo.config.base import Section

STAND_INS = ("distance", "alignment")
"""Names that stand for whichever measure the evaluation takes for the distance to the reference
images, and for `evaluation.alignment`."""

ALWAYS_MEASURED = ("distance", "diversity", "image", "manifold")
"""First parts of the names of measures that need no scorer."""


class Gate(Section):
    """A condition that a trained adapter must meet to become the champion.

    It is judged on the unfavourable edge of the difference's interval, never on the mean: an
    adapter that was measured on too few images to tell does not pass.
    """

    metric: Annotated[str, Field(min_length=1)]
    """As `scorer.measure`, or `distance` or `alignment` for the measures that stand for them."""

    against: Literal["base", "champion"] = "base"
    """What the trained model is compared with, on the same prompts and seeds."""

    comparison: Literal["at_least", "at_most"]
    """`at_least` asks that the lower edge of the difference (trained minus other) reaches the
    bound, `at_most` that the upper edge does not exceed it."""

    bound: Annotated[float, Field(allow_inf_nan=False)]
    """Of the difference: -0.01 with `at_least` lets the measure fall by at most 0.01."""

    relative: bool = False
    """Whether the bound is a share of the other model's mean: -0.05 with `at_most` asks for a
    measure that is at least 5 % smaller. The mean itself is taken as known."""

    without_champion: Literal["pass", "fail"] = "pass"
    """What a gate against the champion says while there is none: the first one can only be compared
    with the base."""


def _not_reserved(alias: str) -> str:
    if alias in {"champion", "previous"}:
        raise ValueError(
            f"the alias {alias} is moved by a promotion only, which checks the gates; use another, "
            "such as candidate"
        )
    return alias


class PromotionConfig(Section):
    """The model registry."""

    registered_model: Annotated[str, Field(pattern=r"^[^/:.%\"'@]+$")] = "advgrpo"
    """Name of the registered model; MLflow allows no `/ : . %` or quotation marks in it."""

    alias: Annotated[
        str,
        Field(min_length=1, pattern=r"^[A-Za-z][A-Za-z0-9_-]*$"),
        AfterValidator(_not_reserved),
    ] = "candidate"
    """Alias that is set on a new version that passed all gates."""

    base_model_licence: str = ""
    """Licence of the base model in `policy.weights`, for the model card."""

    gates: tuple[Gate, ...] = ()
    """What a version must meet to become the champion. Without any, none can be promoted but by
    `--override`."""
