"""Registration of trained adapters, and the gates of the champion."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from advgrpo.config.base import Section

METRIC_ALIASES = ("distance", "alignment")
"""Names of the evaluation's distance to the reference images and of `evaluation.alignment`."""


class Gate(Section):
    """A condition that a trained adapter must meet to become the champion.

    It is checked on the unfavourable edge of the difference's interval, never on the mean: an
    adapter that was evaluated on too few images does not pass.
    """

    metric: Annotated[str, Field(min_length=1)]
    """As `scorer.metric`, or `distance` or `alignment` for those of the evaluation."""

    against: Literal["base", "champion"] = "base"
    """The model to compare with, on the same prompts and seeds."""

    comparison: Literal["at_least", "at_most"]
    """`at_least` requires that the lower edge of the difference (trained minus other) reaches the
    bound, `at_most` that the upper edge does not exceed it."""

    bound: Annotated[float, Field(allow_inf_nan=False)]
    """Bound of the difference: -0.01 with `at_least` allows a decrease of at most 0.01."""

    relative: bool = False
    """Whether the bound is a share of the other model's mean: -0.05 with `at_most` requires a
    decrease by at least 5 %. The uncertainty of the mean itself is ignored."""

    without_champion: Literal["pass", "fail"] = "pass"
    """Result of a gate against the champion as long as there is none: the first version can only be
    compared with the base."""


def _check_not_reserved(alias: str) -> str:
    # A registration that moved these aliases would bypass the gates.
    if alias in {"champion", "previous"}:
        raise ValueError(
            f"the alias {alias} is set by promotions only, which check the gates; use another, "
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
        AfterValidator(_check_not_reserved),
    ] = "candidate"
    """Alias of a new version that passed all gates."""

    base_model_licence: str = ""
    """Licence of the base model in `policy.weights`, for the model card."""

    gates: tuple[Gate, ...] = ()
    """Conditions for a version to become the champion; promotion without any needs `--override`."""
