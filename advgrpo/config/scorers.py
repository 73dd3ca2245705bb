"""Frozen measures that can be asked for."""

from typing import Annotated, Literal

from pydantic import Field

from advgrpo.config.base import Section, Weights


class PickScoreConfig(Section):
    """PickScore, arXiv:2305.01569: exp(tau) * cosine of text and image, divided by 26."""

    type: Literal["pickscore"] = "pickscore"

    weights: Weights
    """A CLIP model with its processor's and tokenizer's files."""


class PocketJudgeConfig(Section):
    """The judge of the pocket world: which of a caption's five attributes a picture shows."""

    type: Literal["pocket_judge"] = "pocket_judge"


Scorer = Annotated[PickScoreConfig | PocketJudgeConfig, Field(discriminator="type")]
