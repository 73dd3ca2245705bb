"""What each measure is: range, unit, direction, source, licence, and what it cannot see."""

from dataclasses import dataclass

_PIXELS = "no weights"
_DINO = "DINOv2: Apache-2.0"
_STATISTIC = "this package"


@dataclass(frozen=True)
class MetricFacts:
    """One measure, for a reader."""

    metric: str
    """As `scorer.measure`; a last part `*` stands for names of the user's."""

    label: str
    note: str
    """What it is, in a few words."""

    range: str
    unit: str
    higher_is_better: bool | None
    """None if neither direction is better."""

    source: str
    licence: str
    """Of the weights."""

    blind_to: str
    """What it cannot see."""


IMAGE_METRICS = (
    MetricFacts(
        metric="pickscore.score",
        label="PickScore",
        note="preference of people, for the prompt",
        range="about 0.6 to 0.9; no bound",
        unit="logit / 26",
        higher_is_better=True,
        source="arXiv:2305.01569",
        licence="PickScore v1: MIT",
        blind_to="small or repeated details, counts and places of things; likes what its voters "
        "liked, saturated and centred pictures",
    ),
    MetricFacts(
        metric="hps.score",
        label="HPS v2.1",
        note="preference of people who ranked, for the prompt",
        range="-1 to 1; 0.2 to 0.35 for generated images",
        unit="cosine; tables often show it times 100",
        higher_is_better=True,
        source="arXiv:2306.09341",
        licence="HPS v2.1: Apache-2.0",
        blind_to="as PickScore, which learned the same way, so that the two may agree and both be "
        "wrong; values of different prompts cannot be compared",
    ),
    MetricFacts(
        metric="clip_score.score",
        label="CLIP score",
        note="fit of image and prompt",
        range="0 to 2.5; near 0.8 for a fitting photograph",
        unit="2.5 x cosine",
        higher_is_better=True,
        source="arXiv:2104.08718",
        licence="CLIP: MIT",
        blind_to="quality, counts, places, which attribute belongs to which thing; sees at most 77 "
        "tokens of the prompt",
    ),
    MetricFacts(
        metric="aesthetic.score",
        label="Aesthetic score",
        note="rating of the look alone",
        range="about 1 to 10; no bound",
        unit="rating",
        higher_is_better=True,
        source="arXiv:2210.08402",
        licence="predictor: Apache-2.0; CLIP: MIT",
        blind_to="the prompt; prefers paintings, and pictures that policies overdo under it",
    ),
    MetricFacts(
        metric="ocr.accuracy",
        label="OCR accuracy",
        note="quoted text that can be read",
        range="0 to 1",
        unit="share of characters",
        higher_is_better=True,
        source="arXiv:2505.05470; RapidOCR with PP-OCRv4",
        licence="RapidOCR and its models: Apache-2.0",
        blind_to="all but text: black letters on white score best; text beside the quoted one; "
        "prompts that quote nothing",
    ),
    MetricFacts(
        metric="reference_similarity.mean",
        label="Similarity to reference images",
        note="of the same prompt",
        range="-1 to 1",
        unit="cosine",
        higher_is_better=True,
        source="arXiv:2511.20256, arXiv:2304.07193",
        licence=_DINO,
        blind_to="text and fine detail; whether a different picture would be as good; prompts "
        "without reference images",
    ),
    MetricFacts(
        metric="external_judge.*",
        label="External judge",
        note="verdict of another program",
        range="0 to 1",
        unit="share of verdicts",
        higher_is_better=True,
        source="the judge's; for GenEval arXiv:2310.11513",
        licence="the judge's",
        blind_to="what its judge does not check; prompts that its metadata file does not have",
    ),
    MetricFacts(
        metric="pocket_judge.attribute_accuracy",
        label="Attribute accuracy",
        note="by the pocket judge",
        range="0 to 1",
        unit="share of five attributes",
        higher_is_better=True,
        source="this package",
        licence="this package: MIT",
        blind_to="everything but the pocket world's captions",
    ),
    MetricFacts(
        metric="pocket_judge.all_attributes",
        label="All attributes",
        note="by the pocket judge",
        range="0 to 1",
        unit="share of images with all five right",
        higher_is_better=True,
        source="this package",
        licence="this package: MIT",
        blind_to="everything but the pocket world's captions",
    ),
    MetricFacts(
        metric="image.dark_fraction",
        label="Dark pixels",
        note="share of the image",
        range="0 to 1",
        unit="share of pixels",
        higher_is_better=None,
        source=_STATISTIC,
        licence=_PIXELS,
        blind_to="what is shown",
    ),
    MetricFacts(
        metric="image.edge_density",
        label="Edges",
        note="share of the image",
        range="0 to 1",
        unit="share of pixels",
        higher_is_better=None,
        source=_STATISTIC,
        licence=_PIXELS,
        blind_to="what is shown",
    ),
    MetricFacts(
        metric="image.colour_entropy",
        label="Colour entropy",
        note="bits",
        range="0 to 9",
        unit="bits",
        higher_is_better=None,
        source=_STATISTIC,
        licence=_PIXELS,
        blind_to="what is shown, and where",
    ),
    MetricFacts(
        metric="image.high_frequency_share",
        label="High frequencies",
        note="share of the luminance's variance",
        range="0 to 1",
        unit="share of variance",
        higher_is_better=None,
        source=_STATISTIC,
        licence=_PIXELS,
        blind_to="whether it is detail or noise",
    ),
    MetricFacts(
        metric="image.high_frequency_peak",
        label="Strongest high frequency",
        note="share of the luminance's variance; high for grids",
        range="0 to 1",
        unit="share of variance",
        higher_is_better=None,
        source=_STATISTIC,
        licence=_PIXELS,
        blind_to="grids that change over the image",
    ),
)
"""Measures that each image has by itself; the report shows their mean over prompts."""

SET_METRICS = (
    MetricFacts(
        metric="distance.frechet",
        label="Frechet distance",
        note="to the reference images; lower is better",
        range="0 and above; above 0 for equal distributions, the more so the fewer images",
        unit="squared feature",
        higher_is_better=False,
        source="arXiv:1706.08500, on DINOv2 class tokens",
        licence=_DINO,
        blind_to="all but mean and covariance; the prompts: images may be exchanged among them",
    ),
    MetricFacts(
        metric="distance.kernel",
        label="Kernel distance",
        note="to the reference images; lower is better",
        range="near 0 for equal distributions, and possibly below",
        unit="squared discrepancy",
        higher_is_better=False,
        source="KID, arXiv:1801.01401, over all pairs of different prompts, on DINOv2 class tokens",
        licence=_DINO,
        blind_to="the prompts, as above; spreads more than the Frechet distance",
    ),
    MetricFacts(
        metric="distance.cmmd",
        label="CMMD",
        note="to the reference images, by CLIP; lower is better",
        range="near 0 for equal distributions, and possibly below",
        unit="squared discrepancy x 1000",
        higher_is_better=False,
        source="arXiv:2401.09603, over pairs of different prompts; the published code also counts "
        "each image with itself, which adds a little",
        licence="CLIP: MIT",
        blind_to="the prompts, as above; fine detail, which CLIP hardly sees",
    ),
    MetricFacts(
        metric="manifold.precision",
        label="Precision",
        note="images that look like reference images",
        range="0 to 1",
        unit="share of generated images",
        higher_is_better=True,
        source="arXiv:1904.06991, k = 3, on DINOv2 class tokens",
        licence=_DINO,
        blind_to="missing variety; fooled by outliers among the reference images",
    ),
    MetricFacts(
        metric="manifold.recall",
        label="Recall",
        note="reference images that the model might have drawn",
        range="0 to 1",
        unit="share of reference images",
        higher_is_better=True,
        source="arXiv:1904.06991, k = 3, on DINOv2 class tokens",
        licence=_DINO,
        blind_to="bad images; rises with outliers among the generated images",
    ),
    MetricFacts(
        metric="manifold.density",
        label="Density",
        note="reference images around each image",
        range="0 and above; near 1 for equal distributions",
        unit="neighbourhoods / k",
        higher_is_better=True,
        source="arXiv:2002.09797, k = 5, on DINOv2 class tokens",
        licence=_DINO,
        blind_to="missing variety: a model that draws only what is commonest is above 1",
    ),
    MetricFacts(
        metric="manifold.coverage",
        label="Coverage",
        note="reference images with a generated one near",
        range="0 to 1",
        unit="share of reference images",
        higher_is_better=True,
        source="arXiv:2002.09797, k = 5, on DINOv2 class tokens",
        licence=_DINO,
        blind_to="bad images beside good ones",
    ),
    MetricFacts(
        metric="diversity.in_group",
        label="Diversity",
        note="distance between images of one prompt",
        range="0 and above",
        unit="feature",
        higher_is_better=None,
        source="mean distance of DINOv2 class tokens within a prompt",
        licence=_DINO,
        blind_to="what differs: noise is diverse, too",
    ),
)
"""Measures of all images together."""

_BY_NAME = {facts.metric: facts for facts in (*IMAGE_METRICS, *SET_METRICS)}


def facts_of(metric: str) -> MetricFacts | None:
    """Find what is known of a measure; None if it is a user's own."""
    return _BY_NAME.get(metric)
