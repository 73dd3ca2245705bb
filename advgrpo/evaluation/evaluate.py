"""Measure what an adapter changed, on prompts that it was not trained on."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from advgrpo.config import EvaluationConfig, SamplingConfig
from advgrpo.evaluation.batch_cache import Kept, KeptInMemory
from advgrpo.evaluation.batches import Champion, Side, gathered, missing_parts, sampled_images
from advgrpo.evaluation.bootstrap import Bootstrap
from advgrpo.evaluation.comparison import (
    CMMD,
    DIVERSITY,
    FRECHET,
    KERNEL,
    MANIFOLD,
    MeasuredSets,
    compare,
)
from advgrpo.evaluation.evaluator import Evaluator, chosen_prompts
from advgrpo.evaluation.examples import Example, pick_examples
from advgrpo.evaluation.metrics import MeasuredImages, Reward
from advgrpo.models.backbones.clip import ClipBackbone
from advgrpo.models.backbones.dino import DinoBackbone
from advgrpo.models.policies.base import FlowModel
from advgrpo.models.scorers.base import Scorer
from advgrpo.records import Comparison, EvaluationReport, PromptSet, ReferenceImageSet


@dataclass(frozen=True)
class Evaluation:
    """What an adapter was measured to be, and some of what it draws."""

    report: EvaluationReport
    examples: tuple[Example, ...]


def evaluate(
    policy: FlowModel,
    prompts: PromptSet,
    reference_images: ReferenceImageSet,
    *,
    config: EvaluationConfig,
    sampling: SamplingConfig,
    scorers: Sequence[Scorer],
    backbone: DinoBackbone,
    reward: Reward | None = None,
    clip: ClipBackbone | None = None,
    trained_on: Collection[str] = (),
    related: Mapping[str, str] | None = None,
    champion: Champion | None = None,
    champion_missing: str = "",
    kept: Kept | None = None,
    on_resume: Callable[[int], None] = lambda _images: None,
    on_progress: Callable[[int], None] = lambda _images: None,
) -> Evaluation:
    """Compare a policy with its adapter to itself without, on the same prompts and seeds.

    Images are sampled by the plain ODE. An image depends on its prompt, its number and the seed of
    the evaluation only, and its batch on the settings only, so evaluating twice gives equal
    numbers, whoever measured which batch. The Frechet distance of a sample is larger than that of
    its distribution, the more so the fewer images there are; all models always have equally many,
    and are to be compared with nothing else.

    Args:
        policy: With its adapter loaded.
        prompts: Prompts that were not trained on.
        reference_images: Reference images of them, which were not trained on either.
        config: What is measured.
        sampling: Steps and guidance of the run.
        scorers: Frozen measures.
        backbone: Its class token is the feature space of the distances.
        reward: The run's trained reward; it is reported as such.
        clip: Its image embedding is the feature space of CMMD; without it, that is left out.
        trained_on: Names of the scorers that the run's reward was trained on.
        related: What other measures share with the reward, by measure or scorer.
        champion: The adapter that this one is to replace. If it does not fit the policy, the report
            says so, and has no comparison with it.
        champion_missing: Why there is no champion, in words.
        kept: Batches that were measured already are taken from there, the others added to it.
        on_resume: Called once with the number of sampled images that were measured already.
        on_progress: Called after each batch with its number of images; with those,
            `images_to_sample` in all.

    Raises:
        ConfigError: If the measure of alignment is none of the scorers', or has no value for some
            prompts, or there are too few images for a distance.
        ReferenceImageError: If a prompt has no reference image.
        NonFiniteError: If a measure is NaN or infinite.
    """
    bench = Evaluator(
        policy,
        prompts,
        reference_images,
        config=config,
        sampling=sampling,
        scorers=scorers,
        backbone=backbone,
        reward=reward,
        clip=clip,
        champion=champion,
    )
    kept = KeptInMemory() if kept is None else kept
    missing = missing_parts(bench.parts, kept)
    on_resume(sampled_images(bench.parts) - sampled_images(missing))
    bench.measure(missing, kept, on_progress)
    sides = gathered(bench.parts, kept)
    bootstrap = Bootstrap(
        len(bench.drawer.texts),
        samples=config.bootstrap_samples,
        confidence=config.confidence,
        seed=config.seed,
    )
    comparisons = compare_sides(
        sides,
        lambda sets: compare(
            sets,
            bootstrap,
            trained_on=trained_on,
            related=related or {},
            missing=bench.without_value,
        ),
    )
    report = EvaluationReport(
        comparisons=comparisons,
        images=len(sides["trained"].prompts),
        alignment=config.alignment,
        distance=FRECHET,
        champion=None if bench.champion is None else bench.champion.version,
        missing=_missing(comparisons, bench, champion_missing),
    )
    alignment: dict[Side, Tensor] = {
        side: measured.by_prompt(config.alignment)
        for side, measured in sides.items()
        if side != "reference"
    }
    examples = pick_examples(bench.drawer, bench.library, alignment, bench.champion)
    return Evaluation(report, examples)


def compare_sides(
    sides: Mapping[Side, MeasuredImages],
    compared: Callable[[MeasuredSets], tuple[Comparison, ...]],
) -> tuple[Comparison, ...]:
    """Compare the trained model with the base model and, if it was measured, with the champion.

    Args:
        sides: What was measured.
        compared: Compares two models by all measures.
    """
    trained, reference = sides["trained"], sides["reference"]
    comparisons = compared(MeasuredSets(sides["base"], trained, reference))
    if "champion" not in sides:
        return comparisons
    # The champion stands where the base model does: the same pairing, the same resamples.
    against = {c.metric: c for c in compared(MeasuredSets(sides["champion"], trained, reference))}
    return tuple(
        replace(
            comparison,
            champion=against[comparison.metric].base,
            difference_to_champion=against[comparison.metric].difference,
        )
        for comparison in comparisons
    )


def _missing(
    comparisons: Collection[Comparison], bench: Evaluator, champion_missing: str
) -> dict[str, str]:
    """Say what was not measured, and why."""
    one_prompt = "it counts pairs of different prompts, and there is but one prompt"
    reasons = {
        KERNEL: one_prompt,
        **({CMMD: one_prompt} if bench.config.cmmd is not None else {}),
        MANIFOLD: "there are too few images to tell what the sets cover of each other",
        DIVERSITY: "it needs two images of each prompt, and evaluation.images_per_prompt is 1",
        **bench.without_value,
    }
    measured = {comparison.metric for comparison in comparisons}
    measured |= {metric.partition(".")[0] for metric in measured}
    missing = {metric: why for metric, why in reasons.items() if metric not in measured}
    if bench.champion is None and (why := bench.refusal or champion_missing):
        missing["champion"] = why
    return missing


def images_to_sample(prompts: PromptSet, config: EvaluationConfig, *, models: int = 2) -> int:
    """Count the images that an evaluation samples, over all models, to be shown as progress."""
    return models * len(chosen_prompts(prompts, config)) * config.images_per_prompt
