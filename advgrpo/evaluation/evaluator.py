"""All that an evaluation draws and measures with."""

from collections.abc import Callable, Iterable, Sequence

from advgrpo.config import EvaluationConfig, SamplingConfig
from advgrpo.errors import ConfigError, WeightsError
from advgrpo.evaluation.batch_cache import Kept
from advgrpo.evaluation.batches import Champion, Part, list_parts, measure_parts
from advgrpo.evaluation.examples import evenly_spread
from advgrpo.evaluation.images import Drawer, Library
from advgrpo.evaluation.metrics import Measurer, Reward
from advgrpo.models.backbones.clip import ClipBackbone
from advgrpo.models.backbones.dino import DinoBackbone
from advgrpo.models.policies.base import FlowModel
from advgrpo.models.scorers.base import Scorer, check_metrics_cover, missing_in_words
from advgrpo.records import PromptSet, ReferenceImageSet


class Evaluator:
    """All that an evaluation draws and measures with.

    The arguments are those of `evaluate`; each process that measures a share makes its own.

    Args:
        policy: With its adapter loaded.
        prompts: Prompts that were not trained on.
        reference_images: Reference images of them.
        config: What is measured.
        sampling: Steps and guidance of the run.
        scorers: Frozen measures.
        backbone: Its class token is the feature space of the distances.
        reward: The run's trained reward.
        clip: Its image embedding is the feature space of CMMD, if that is asked for.
        champion: The adapter that this one is to replace; left out if it does not fit the policy.

    Attributes:
        without_value: Measures that have no value for some prompts, and why, in words.
        champion: The adapter that this one is to replace, if it fits.
        refusal: Why it does not fit, in words; empty if it does.

    Raises:
        ConfigError: If there are too few images for a distance, or the measure of alignment has no
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
        texts = chosen_prompts(prompts, config)
        if len(texts) * config.images_per_prompt < 2:
            raise ConfigError(
                "one image has no distance to a set: evaluation.prompts and "
                "evaluation.images_per_prompt ask for one",
                repair="ask for at least two images",
            )
        check_metrics_cover(config.alignment, scorers, texts, setting="evaluation.alignment")
        self.config, self.without_value = config, missing_in_words(scorers, texts)
        self.drawer = Drawer(policy, texts, config, sampling)
        self.library = Library(reference_images, texts, config.batch_size)
        self._measurer = Measurer(texts, scorers, backbone, reward, clip)
        self.champion, self.refusal = champion, ""
        if champion is not None:
            self._refuse_unfit(champion)

    def _refuse_unfit(self, champion: Champion) -> None:
        try:
            with champion.adapter():
                pass
        except WeightsError as error:
            self.champion = None
            self.refusal = f"version {champion.version} cannot be used: {error.message}"

    @property
    def parts(self) -> list[Part]:
        """All batches."""
        return list_parts(self.drawer, self.library, self.champion)

    def measure(
        self,
        parts: Iterable[Part],
        kept: Kept,
        on_progress: Callable[[int], None] = lambda _images: None,
    ) -> None:
        """Measure batches and keep them.

        Args:
            parts: Which ones.
            kept: Where.
            on_progress: Called after each batch with the number of images that were sampled.

        Raises:
            ConfigError: If the measure of alignment is none of the scorers'.
            NonFiniteError: If a measure is NaN or infinite.
        """
        measured = measure_parts(
            parts, self.drawer, self.library, self._measurer, champion=self.champion
        )
        for part, batch in measured:
            if self.config.alignment not in batch.values:
                raise ConfigError(
                    f"evaluation.alignment={self.config.alignment!r} is not measured",
                    repair=f"use one of {', '.join(sorted(batch.values))}",
                )
            kept.write(part.name, batch)
            if part.side != "reference":
                on_progress(part.images)


def chosen_prompts(prompts: PromptSet, config: EvaluationConfig) -> list[str]:
    """List the prompts of an evaluation, evenly spread over the file."""
    positions = evenly_spread(len(prompts), config.prompts or len(prompts), seed=config.seed)
    return [prompts.texts[position] for position in positions]
