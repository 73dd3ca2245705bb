"""Measure what an adapter changed, on prompts that it was not trained on."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from advgrpo.backbones.dino import DinoBackbone
from advgrpo.config import EvaluationConfig, SamplingConfig
from advgrpo.errors import ConfigError
from advgrpo.evaluation.bootstrap import Bootstrap
from advgrpo.evaluation.comparing import FRECHET, MeasuredSets, compare
from advgrpo.evaluation.drawing import Drawer, Library
from advgrpo.evaluation.examples import Example, evenly_spread, pick_examples
from advgrpo.evaluation.measuring import Batch, Measurer, Reward
from advgrpo.policy.base import Policy
from advgrpo.records import EvaluationReport, PromptSet, ReferenceImageSet
from advgrpo.scorers.base import Scorer


@dataclass(frozen=True)
class Evaluation:
    """What an adapter was measured to be, and some of what it draws."""

    report: EvaluationReport
    examples: tuple[Example, ...]


def evaluate(
    policy: Policy,
    prompts: PromptSet,
    reference_images: ReferenceImageSet,
    *,
    config: EvaluationConfig,
    sampling: SamplingConfig,
    scorers: Sequence[Scorer],
    backbone: DinoBackbone,
    reward: Reward | None = None,
    trained_on: Collection[str] = (),
    on_progress: Callable[[int], None] = lambda _images: None,
) -> Evaluation:
    """Compare a policy with its adapter to itself without, on the same prompts and seeds.

    Images are sampled by the plain ODE. An image depends on its prompt, its number and the seed of
    the evaluation only, so evaluating twice gives equal numbers. The Frechet distance of a sample
    is larger than that of its distribution, the more so the fewer images there are; base and
    trained model always have equally many, and are to be compared with nothing else.

    Args:
        policy: With its adapter loaded.
        prompts: Prompts that were not trained on.
        reference_images: Reference images of them, which were not trained on either.
        config: What is measured.
        sampling: Steps and guidance of the run.
        scorers: Frozen measures.
        backbone: Its class token is the feature space of the distances.
        reward: The run's trained reward; it is reported as such.
        trained_on: Names of the scorers that the run's reward was trained on.
        on_progress: Called after each batch with its number of images, `images_to_sample` in all.

    Raises:
        ConfigError: If the measure of alignment is none of the scorers', or there are too few
            images for a distance.
        ReferenceImageError: If a prompt has no reference image.
        NonFiniteError: If a measure is NaN or infinite.
    """
    texts = chosen_prompts(prompts, config)
    if len(texts) * config.images_per_prompt < 2:
        raise ConfigError(
            "one image has no distance to a set: evaluation.prompts and "
            "evaluation.images_per_prompt ask for one",
            repair="ask for at least two images",
        )
    drawer = Drawer(policy, texts, config, sampling)
    library = Library(reference_images, texts, config.batch_size)
    measurer = Measurer(texts, scorers, backbone, reward)
    reference = measurer.measure(library.batches())
    if config.alignment not in reference.values:
        raise ConfigError(
            f"evaluation.alignment={config.alignment!r} is not measured",
            repair=f"use one of {', '.join(sorted(reference.values))}",
        )
    with policy.base_policy():
        base = measurer.measure(_counted(drawer.all_batches(), on_progress))
    trained = measurer.measure(_counted(drawer.all_batches(), on_progress))
    bootstrap = Bootstrap(
        len(texts),
        samples=config.bootstrap_samples,
        confidence=config.confidence,
        seed=config.seed,
    )
    report = EvaluationReport(
        comparisons=compare(
            MeasuredSets(base, trained, reference), bootstrap, trained_on=trained_on
        ),
        images=len(trained.prompts),
        alignment=config.alignment,
        distance=FRECHET,
    )
    alignment = (base.by_prompt(config.alignment), trained.by_prompt(config.alignment))
    return Evaluation(report, pick_examples(drawer, library, *alignment))


def chosen_prompts(prompts: PromptSet, config: EvaluationConfig) -> list[str]:
    """List the prompts of an evaluation, evenly spread over the file."""
    positions = evenly_spread(len(prompts), config.prompts or len(prompts), seed=config.seed)
    return [prompts.texts[position] for position in positions]


def images_to_sample(prompts: PromptSet, config: EvaluationConfig) -> int:
    """Count the images that an evaluation samples, over both models, to be shown as progress."""
    return 2 * len(chosen_prompts(prompts, config)) * config.images_per_prompt


def _counted(batches: Iterator[Batch], on_progress: Callable[[int], None]) -> Iterator[Batch]:
    for batch in batches:
        yield batch
        on_progress(len(batch.images))
