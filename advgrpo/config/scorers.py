"""Frozen measures that can be asked for."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from advgrpo.config.base import Location, PositiveFloat, PositiveInt, Section, Weights

_COMMIT_HASH = re.compile(r"[0-9a-f]{40}")


def _pinned(weights: Weights) -> Weights:
    is_hub = weights.location.startswith("hub://")
    if is_hub and not _COMMIT_HASH.fullmatch(weights.revision or ""):
        raise ValueError(
            f"{weights.location} is not pinned to a commit: its owner could change what is "
            "measured; set `revision` to the full hash of a commit, 40 characters"
        )
    if not is_hub and weights.revision is not None:
        raise ValueError(f"{weights.location} has no revisions; only hub:// locations have")
    return weights


FrozenWeights = Annotated[Weights, AfterValidator(_pinned)]
"""Weights of a measure; what is wrong about them is found before anything is loaded."""


class PickScoreConfig(Section):
    """PickScore, arXiv:2305.01569: exp(tau) * cosine of text and image, divided by 26."""

    type: Literal["pickscore"] = "pickscore"

    weights: FrozenWeights
    """A CLIP model with its processor's and tokenizer's files."""


class ClipScoreConfig(Section):
    """CLIP score, arXiv:2104.08718: 2.5 * cosine of text and image, at least 0."""

    type: Literal["clip_score"] = "clip_score"

    weights: FrozenWeights
    """A CLIP model with its processor's and tokenizer's files; ViT-B/32 in the paper."""

    prefix: str = "A photo depicts "
    """Put before each prompt, as the paper does; may be empty."""


class HpsConfig(Section):
    """HPS v2.1, arXiv:2306.09341: cosine of text and image by a CLIP that learned from rankings."""

    type: Literal["hps"] = "hps"

    weights: FrozenWeights
    """What `advgrpo scorers convert-hps` wrote."""


class AestheticConfig(Section):
    """LAION's aesthetic predictor, arXiv:2210.08402: how an image would be rated, from 1 to 10."""

    type: Literal["aesthetic"] = "aesthetic"

    clip: FrozenWeights
    """The CLIP that the predictor was trained on, ViT-L/14, with its processor's and tokenizer's
    files."""

    predictor: FrozenWeights
    """What `advgrpo scorers convert-aesthetic` wrote."""


class OcrConfig(Section):
    """Share of the text quoted in a prompt that RapidOCR reads; needs `advgrpo[ocr]`."""

    type: Literal["ocr"] = "ocr"


class ReferenceSimilarityConfig(Section):
    """Mean cosine of DINOv2 class tokens to the reference images of the prompt."""

    type: Literal["reference_similarity"] = "reference_similarity"

    weights: FrozenWeights
    """A DINOv2 backbone."""

    resolution_pixels: PositiveInt = 518
    """Side length that images are resized to; a multiple of the patch size."""


class ExternalJudgeConfig(Section):
    """A program that judges images; docs/scorers.md says how it is spoken to."""

    type: Literal["external_judge"] = "external_judge"

    command: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
    """The program and its arguments; it is started once by each process that measures with it."""

    verdicts: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], ...], Field(min_length=1)
    ] = ("correct",)
    """What each of its answers holds: a number from 0 to 1, or true or false; higher is better."""

    metadata: Location | None = None
    """JSON lines with a `prompt` each, whose rest is handed to the judge; prompts that are not
    among them are not measured."""

    timeout_seconds: PositiveFloat = 600.0
    """Longest wait for an answer."""


class PocketJudgeConfig(Section):
    """The judge of the pocket world: which of a caption's five attributes a picture shows."""

    type: Literal["pocket_judge"] = "pocket_judge"


Scorer = Annotated[
    PickScoreConfig
    | ClipScoreConfig
    | HpsConfig
    | AestheticConfig
    | OcrConfig
    | ReferenceSimilarityConfig
    | ExternalJudgeConfig
    | PocketJudgeConfig,
    Field(discriminator="type"),
]


def metrics_of(scorer: Scorer) -> tuple[str, ...]:
    """List what a scorer measures, as `scorer.measure`."""
    match scorer:
        case ExternalJudgeConfig(verdicts=verdicts):
            names = verdicts
        case PocketJudgeConfig():
            names = ("attribute_accuracy", "all_attributes")
        case OcrConfig():
            names = ("accuracy",)
        case ReferenceSimilarityConfig():
            names = ("mean",)
        case PickScoreConfig() | ClipScoreConfig() | HpsConfig() | AestheticConfig():
            names = ("score",)
    return tuple(f"{scorer.type}.{name}" for name in names)


def weights_of(scorer: Scorer) -> tuple[Weights, ...]:
    """List the weights that decide what a scorer sees."""
    match scorer:
        case AestheticConfig(clip=clip, predictor=predictor):
            return (clip, predictor)
        case OcrConfig() | ExternalJudgeConfig() | PocketJudgeConfig():
            return ()
        case _:
            return (scorer.weights,)
