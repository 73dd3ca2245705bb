"""The models and images of an evaluation, as one process needs them."""

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

from advgrpo.config.evaluation import EvaluationConfig
from advgrpo.config.policy import SamplingConfig
from advgrpo.errors import ConfigError, WeightsError
from advgrpo.evaluation.batch_cache import BatchCache
from advgrpo.evaluation.batches import BatchKey, list_batches
from advgrpo.evaluation.examples import evenly_spread
from advgrpo.evaluation.images import ImageSampler, ReferenceReader
from advgrpo.evaluation.metrics import Measurer
from advgrpo.evaluation.results import Champion, Reward
from advgrpo.models.backbones.clip import ClipBackbone
from advgrpo.models.backbones.dino import DinoBackbone
from advgrpo.models.policies.base import FlowModel
from advgrpo.models.scorers.base import Scorer, check_metrics_cover, describe_missing
from advgrpo.records import PromptSet, ReferenceImageSet


class Evaluator:
    """Samples and measures the batches of an evaluation.

    The arguments are those of `evaluate`; each process that measures a share has its own instance.

    Args:
        policy: With its adapter loaded.
        prompts: Prompts that were not trained on.
        reference_images: Their reference images.
        config: Settings of the evaluation.
        sampling: Steps and guidance of the run.
        scorers: Frozen scorers.
        backbone: Its class token is the feature space of the distances.
        reward: The run's trained reward.
        clip: Its image embedding is the feature space of CMMD; None if CMMD is not computed.
        champion: The adapter that this one is to replace; ignored if it does not fit the policy.

    Attributes:
        without_value: Metrics that have no value for some prompts, and why.
        champion: The adapter that this one is to replace, if it fits.
        refusal: Why it does not fit; empty if it does.

    Raises:
        ConfigError: If there are too few images for a distance, or the alignment metric has no
            value for some prompts.
        ReferenceImageError: If a prompt has no reference image.
    """

    def __init__(
        self,
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
        champion: Champion | None = None,
    ) -> None:
        texts = select_prompts(prompts, config)
        if len(texts) * config.images_per_prompt < 2:
            raise ConfigError(
                f"evaluation.prompts={config.prompts} and "
                f"evaluation.images_per_prompt={config.images_per_prompt}: a distance needs at "
                "least two images",
                repair="set evaluation.images_per_prompt to at least 2",
            )
        # The adapter is judged by this metric, so fail before sampling rather than after.
        check_metrics_cover(config.alignment, scorers, texts, setting="evaluation.alignment")
        self.config, self.without_value = config, describe_missing(scorers, texts)
        self.sampler = ImageSampler(policy, texts, config, sampling)
        # Raises for prompts without reference images, which must also happen before sampling.
        self.references = ReferenceReader(reference_images, texts, config.batch_size)
        self._measurer = Measurer(texts, scorers, backbone, reward, clip)
        self.champion, self.refusal = champion, ""
        if champion is not None:
            self._check_champion(champion)

    def _check_champion(self, champion: Champion) -> None:
        try:
            # Entering the context loads the adapter: a misfit is found before hours of sampling.
            with champion.adapter():
                pass
        except WeightsError as error:
            # A champion of another shape must not block the evaluation; the gates treat the refusal
            # as a failure.
            self.champion = None
            self.refusal = f"version {champion.version} cannot be used: {error.message}"

    @property
    def batches(self) -> list[BatchKey]:
        """All batches."""
        return list_batches(self.sampler.sizes, self.references.sizes, self.champion)

    def measure(
        self,
        batches: Iterable[BatchKey],
        cache: BatchCache,
        on_progress: Callable[[int], None] = lambda _images: None,
    ) -> None:
        """Measure batches and store them.

        Args:
            batches: Measured in this order. Adjacent batches of one side share one switch of
                adapters.
            cache: Where they are stored.
            on_progress: Called after each batch with the number of images that were sampled.

        Raises:
            ConfigError: If the alignment metric is not among those of the scorers.
            NonFiniteError: If a metric is NaN or infinite.
            WeightsError: If the champion's adapter does not fit the policy.
        """
        # `groupby` joins adjacent batches only, so a mixed order costs a switch of adapters per
        # batch.
        for side, of_side in groupby(batches, key=lambda batch: batch.side):
            source = self.references if side == "reference" else self.sampler
            with self.sampler.sampling_as(side, self.champion):
                for batch in of_side:
                    # One batch at a time: its images are freed before the next is sampled.
                    measured = self._measurer.measure(source.batch(batch.number))
                    # Checked at the first batch, as only measuring yields the names of the metrics.
                    if self.config.alignment not in measured.values:
                        raise ConfigError(
                            f"evaluation.alignment={self.config.alignment!r} is not computed",
                            repair=f"use one of {', '.join(sorted(measured.values))}",
                        )
                    cache.write(batch.name, measured)
                    # Reference images are read, not sampled, and progress counts sampled images.
                    if side != "reference":
                        on_progress(batch.images)


def select_prompts(prompts: PromptSet, config: EvaluationConfig) -> list[str]:
    """Return the prompts of an evaluation, evenly spread over the file."""
    # Without evaluation.prompts each part is one prompt, so all are chosen in file order.
    positions = evenly_spread(len(prompts), config.prompts or len(prompts), seed=config.seed)
    return [prompts.texts[position] for position in positions]
