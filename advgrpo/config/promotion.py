"""Registration of trained adapters, and the gates of the champion."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from advgrpo.config.base import Section

_VERSION_ALIAS = re.compile(r"[vV][0-9]+")

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
    # MLflow itself refuses these, but only when the last task sets the alias.
    if alias.lower() == "latest" or _VERSION_ALIAS.fullmatch(alias):
        raise ValueError(
            f"MLflow reserves the alias {alias}; use another, such as candidate, that is not "
            "latest and not v with a number"
        )
    # A registration that moved these aliases would bypass the gates.
    if alias in {"champion", "previous"}:
        raise ValueError(
            f"the alias {alias} is set by promotions only, which check the gates; use another, "
            "such as candidate"
        )
    return alias


def _check_plain(name: str) -> str:
    # MLflow's filters and URIs would not find it again.
    if name != name.strip() or not name.isprintable() or "\\" in name:
        raise ValueError(
            f"the name {name!r} has blanks at an end, control characters or backslashes; use "
            "letters, digits, blanks, - and _"
        )
    return name


class PromotionConfig(Section):
    """The model registry."""

    registered_model: Annotated[
        str,
        Field(max_length=256, pattern=r"^[^/:.%\"'@]+$"),
        AfterValidator(_check_plain),
    ] = "advgrpo"
    """Name of the registered model; MLflow allows no `/ : . %` or quotation marks in it."""

    alias: Annotated[
        str,
        Field(min_length=1, max_length=255, pattern=r"^[A-Za-z][A-Za-z0-9_-]*$"),
        AfterValidator(_check_not_reserved),
    ] = "candidate"
    """Alias of a new version that passed all gates."""

    base_model_licence: str = ""
    """Licence of the base model in `policy.weights`, for the model card."""

    base_model_licence_link: str = ""
    """Address of its text; the card of a repository on a hub must link a licence without an
    identifier of its own. Default there: the page of the base model."""

    gates: tuple[Gate, ...] = ()
    """Conditions for a version to become the champion; promotion without any needs `--override`."""
