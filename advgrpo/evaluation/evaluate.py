"""Comparison of a policy with and without its adapter, on prompts that it was not trained on."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from advgrpo.config.evaluation import EvaluationConfig
from advgrpo.config.policy import SamplingConfig
from advgrpo.evaluation.batch_cache import BatchCache, MemoryBatchCache
from advgrpo.evaluation.batches import count_sampled_images, load_sides, missing_batches
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
from advgrpo.evaluation.evaluator import Evaluator, select_prompts
from advgrpo.evaluation.examples import pick_examples
from advgrpo.evaluation.results import Champion, Evaluation, MeasuredImages, Reward
from advgrpo.evaluation.saved_evaluation import Side
from advgrpo.models.backbones.clip import ClipBackbone
from advgrpo.models.backbones.dino import DinoBackbone
from advgrpo.models.policies.base import FlowModel
from advgrpo.models.scorers.base import Scorer
from advgrpo.records import Comparison, EvaluationReport, PromptSet, ReferenceImageSet


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
    cache: BatchCache | None = None,
    on_resume: Callable[[int], None] = lambda _images: None,
    on_progress: Callable[[int], None] = lambda _images: None,
) -> Evaluation:
    """Compare a policy with and without its adapter, on the same prompts and seeds.

    Images are sampled by the plain ODE. An image depends only on its prompt, its number and the
    seed of the evaluation, and the composition of its batch only on the settings, so repeated
    evaluations give equal numbers on any number of processes. The Frechet distance of a sample is
    larger than that of its distribution, the more so the fewer images there are: compare only
    distances of equally many images, as all models here have.

    Args:
        policy: With its adapter loaded.
        prompts: Prompts that were not trained on.
        reference_images: Their reference images, which were not trained on either.
        config: Settings of the evaluation.
        sampling: Steps and guidance of the run.
        scorers: Frozen scorers.
        backbone: Its class token is the feature space of the distances.
        reward: The run's trained reward; reported as such.
        clip: Its image embedding is the feature space of CMMD; None omits CMMD.
        trained_on: Names of the scorers that the run's reward was trained on.
        related: What other metrics share with the reward, by metric or scorer.
        champion: The adapter that this one is to replace. If it does not fit the policy, the report
            says so, and has no comparison with it.
        champion_missing: Why there is no champion.
        cache: Source of batches that were measured already; the others are added to it.
        on_resume: Called once with the number of sampled images that were measured already.
        on_progress: Called after each batch with its number of images; together with those of
            `on_resume` they add up to `images_to_sample`.

    Raises:
        ConfigError: If the alignment metric is not among those of the scorers, or has no value for
            some prompts, or there are too few images for a distance.
        ReferenceImageError: If a prompt has no reference image.
        NonFiniteError: If a metric is NaN or infinite.
    """
    evaluator = Evaluator(
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
    cache = MemoryBatchCache() if cache is None else cache
    missing = missing_batches(evaluator.batches, cache)
    on_resume(count_sampled_images(evaluator.batches) - count_sampled_images(missing))
    evaluator.measure(missing, cache, on_progress)
    # Read from the cache, in which other processes may have stored their batches.
    sides = load_sides(evaluator.batches, cache)
    # One object for all metrics and models, because intervals of differences require equal
    # resamples.
    bootstrap = Bootstrap(
        len(evaluator.sampler.texts),
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
            missing=evaluator.without_value,
        ),
    )
    report = EvaluationReport(
        comparisons=comparisons,
        images=len(sides["trained"].prompts),
        alignment=config.alignment,
        distance=FRECHET,
        champion=None if evaluator.champion is None else evaluator.champion.version,
        missing=_missing(comparisons, evaluator, champion_missing),
    )
    alignment: dict[Side, Tensor] = {
        side: measured.by_prompt(config.alignment)
        for side, measured in sides.items()
        if side != "reference"
    }
    examples = pick_examples(evaluator.sampler, evaluator.references, alignment, evaluator.champion)
    return Evaluation(report, examples)


def compare_sides(
    sides: Mapping[Side, MeasuredImages],
    compare_sets: Callable[[MeasuredSets], tuple[Comparison, ...]],
) -> tuple[Comparison, ...]:
    """Compare the trained model with the base model and, if there is one, with the champion.

    Args:
        sides: Metrics of each side.
        compare_sets: Compares two models by all metrics.
    """
    trained, reference = sides["trained"], sides["reference"]
    comparisons = compare_sets(MeasuredSets(sides["base"], trained, reference))
    if "champion" not in sides:
        return comparisons
    # The champion takes the place of the base model: the same pairing and the same resamples.
    champion = compare_sets(MeasuredSets(sides["champion"], trained, reference))
    against = {comparison.metric: comparison for comparison in champion}
    return tuple(
        replace(
            comparison,
            # The champion was passed as the base, so `base` is its value.
            champion=against[comparison.metric].base,
            difference_to_champion=against[comparison.metric].difference,
        )
        for comparison in comparisons
    )


def _missing(
    comparisons: Collection[Comparison], evaluator: Evaluator, champion_missing: str
) -> dict[str, str]:
    """Return the metrics that are missing, and why."""
    one_prompt = "it needs pairs of different prompts, and there is only one prompt"
    reasons = {
        KERNEL: one_prompt,
        **({CMMD: one_prompt} if evaluator.config.cmmd is not None else {}),
        MANIFOLD: "there are too few images for nearest neighbours",
        DIVERSITY: "it needs two images of each prompt, and evaluation.images_per_prompt is 1",
        **evaluator.without_value,
    }
    present = {comparison.metric for comparison in comparisons}
    # Reasons name either a metric or a whole family, such as `manifold`.
    present |= {metric.partition(".")[0] for metric in present}
    missing = {metric: why for metric, why in reasons.items() if metric not in present}
    if evaluator.champion is None and (why := evaluator.refusal or champion_missing):
        missing["champion"] = why
    return missing


def images_to_sample(prompts: PromptSet, config: EvaluationConfig, *, models: int = 2) -> int:
    """Return the number of images that an evaluation samples, over all models."""
    return models * len(select_prompts(prompts, config)) * config.images_per_prompt
