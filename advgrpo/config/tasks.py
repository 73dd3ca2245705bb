"""What each pipeline task needs of the settings, and no more.

A task's settings travel as JSON text and name its saved state, so a setting that a task does not
read must not be among them: a changed learning rate must not regenerate the reference images.
Evaluation and registration get the whole `RunConfig`: the report shows it.
"""

import hashlib
import json
from typing import Self, TypeVar

from advgrpo.config.base import NonNegativeInt, PositiveInt, Section
from advgrpo.config.discriminator import DiscriminatorConfig
from advgrpo.config.evaluation import DistanceConfig
from advgrpo.config.parsing import parse
from advgrpo.config.policy import AnyPolicyConfig, SamplingConfig
from advgrpo.config.reference_images import PromptsConfig, ReferenceImagesConfig
from advgrpo.config.run import RunConfig
from advgrpo.config.scorers import ScorerConfig
from advgrpo.config.training import TrainingConfig
from advgrpo.errors import ConfigError
from advgrpo.strict_json import load_json

S = TypeVar("S", bound=Section)


class ReferenceImagesSettings(Section):
    """What making or validating the reference images needs."""

    seed: NonNegativeInt
    prompts: PromptsConfig
    reference_images: ReferenceImagesConfig

    @classmethod
    def of(cls, run: RunConfig) -> Self:
        """Take the task's share of a run's settings."""
        return cls(seed=run.seed, prompts=run.prompts, reference_images=run.reference_images)


class PretrainingSettings(Section):
    """What pre-training the discriminator on base-model images needs."""

    seed: NonNegativeInt
    prompts: PromptsConfig
    policy: AnyPolicyConfig
    sampling: SamplingConfig
    discriminator: DiscriminatorConfig
    images_per_prompt: PositiveInt | None
    """Reference images of each training prompt; none if they serve any prompt."""

    batch_size: PositiveInt
    """Images sampled at once."""

    @classmethod
    def of(cls, run: RunConfig) -> Self:
        """Take the task's share of a run's settings."""
        return cls(
            seed=run.seed,
            prompts=run.prompts,
            policy=run.policy,
            sampling=run.training.sampling,
            discriminator=run.discriminator,
            images_per_prompt=run.reference_images.of_each_prompt,
            batch_size=run.training.rollout.microbatch_size,
        )


class TrainingSettings(Section):
    """What training needs."""

    seed: NonNegativeInt
    prompts: PromptsConfig
    policy: AnyPolicyConfig
    discriminator: DiscriminatorConfig
    training: TrainingConfig
    images_per_prompt: PositiveInt | None
    """Reference images of each training prompt; none if they serve any prompt."""

    distance: DistanceConfig
    """Distance that is watched on held-out training prompts."""

    scorers: tuple[ScorerConfig, ...]
    """Frozen measures that are watched on held-out training prompts."""

    alignment: str
    """Which measure stands for prompt alignment."""

    @classmethod
    def of(cls, run: RunConfig) -> Self:
        """Take the task's share of a run's settings."""
        return cls(
            seed=run.seed,
            prompts=run.prompts,
            policy=run.policy,
            discriminator=run.discriminator,
            training=run.training,
            images_per_prompt=run.reference_images.of_each_prompt,
            distance=run.evaluation.distance,
            scorers=run.evaluation.scorers,
            alignment=run.evaluation.alignment,
        )

    def cache_relevant(self) -> Self:
        """Return the settings that the numbers depend on; a run resumes if others change."""
        defaults = {
            name: TrainingConfig.model_fields[name].default
            for name in ("hangs", "memory_check", "non_finite")
        }
        training = self.training.model_copy(update=defaults)
        return without_prompt_files(self.model_copy(update={"training": training}))


def without_prompt_files(settings: S) -> S:
    """Return settings without the prompt files, for a digest that takes the prompts' instead.

    Prompts in another file, or in a file saved in another way, then have the same saved state.
    """
    unnamed = PromptsConfig(train="prompts", test="prompts")
    return settings.model_copy(update={"prompts": unnamed})


def parse_json(section: type[S], text: str, *, where: str) -> S:
    """Read a task's settings from JSON text.

    Args:
        section: The task's settings model.
        text: What `model_dump_json` wrote.
        where: Parameter or file that the text comes from, for the error.

    Raises:
        ConfigError: If the text is not JSON or a setting is wrong.
    """
    try:
        settings = load_json(text)
    except ValueError as error:
        raise ConfigError(
            f"{where} is not JSON: {error}",
            repair="pass on the text that the task resolve-config wrote, unchanged",
        ) from error
    if not isinstance(settings, dict):
        raise ConfigError(
            f"{where} holds {settings!r} instead of settings",
            repair="pass on the text that the task resolve-config wrote, unchanged",
        )
    return parse(section, settings, where=where)


def digest(settings: Section, *inputs: str) -> str:
    """Name settings, and what else a task depends on, by their content.

    Args:
        settings: A task's settings.
        inputs: Digests of the task's other inputs, in a fixed order.

    Returns:
        The first 16 hexadecimal digits of a SHA-256; equal for equal settings and inputs, in each
        process and on each machine.
    """
    content = json.dumps([settings.model_dump(mode="json"), *inputs], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]
