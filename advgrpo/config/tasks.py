"""Settings of the pipeline's tasks, each with only the settings that the task reads.

A task's settings are passed as JSON text and determine its cache key, so a setting that the task
does not read must not be part of them: a changed learning rate must not regenerate the reference
images. Evaluation and registration get the whole `RunConfig`, which the report shows. The tasks of
the pipeline take theirs from the YAML file of the whole run.
"""

import hashlib
import json
from pathlib import Path
from typing import Self, TypeVar

from advgrpo.config.base import NonNegativeInt, PositiveInt, Section
from advgrpo.config.discriminator import DiscriminatorConfig
from advgrpo.config.evaluation import DistanceConfig
from advgrpo.config.parsing import parse
from advgrpo.config.policy import AnyPolicyConfig, SamplingConfig
from advgrpo.config.reference_images import PromptsConfig, ReferenceImagesConfig
from advgrpo.config.run import RunConfig
from advgrpo.config.scorers.union import ScorerConfig
from advgrpo.config.tracking import TrackingConfig
from advgrpo.config.training import TrainingConfig
from advgrpo.config.yaml_text import load_yaml
from advgrpo.errors import ConfigError
from advgrpo.strict_json import load_json

S = TypeVar("S", bound=Section)

PRETRAINING_BATCH = 8
"""Images sampled at once in pre-training, if the training's number is fitted to its GPUs."""

_ROLLOUTS_PER_SKIPPED = 10
"""Rollouts per skipped one for which prompts are prepared in advance."""


class PromptDraws(Section):
    """What decides, with the prompts themselves, which of the training prompts are drawn."""

    seed: NonNegativeInt
    """Seed of the run."""

    held_out_fraction: float
    """Share of the prompts for metrics, all of which count as drawn."""

    rollouts: NonNegativeInt | None = 0
    """Rollouts of the training; None if their number is not known before."""

    prompts_per_update: PositiveInt = 1
    """Prompts of a rollout."""

    base_images: NonNegativeInt = 0
    """Base-model images of trained prompts that pre-train the discriminator."""


class ReferenceImagesSettings(Section):
    """Settings of the task reference-images."""

    seed: NonNegativeInt
    """Seed of the images."""

    prompts: PromptsConfig
    reference_images: ReferenceImagesConfig
    draws: PromptDraws | None = None
    """Draws of the run, of whose prompts images are generated; None for all prompts."""

    @classmethod
    def of(cls, run: RunConfig) -> Self:
        """Return the task's settings of a run."""
        base_images = {"base_images": run.discriminator.pretraining.images}
        own_seed = run.reference_images.seed
        return cls(
            seed=run.seed if own_seed is None else own_seed,
            prompts=run.prompts,
            reference_images=run.reference_images,
            draws=TrainingSettings.of(run).draws.model_copy(update=base_images),
        )

    def cache_relevant(self) -> Self:
        """Return the settings that affect an image; a set grows after a change of the others."""
        return without_prompt_files(self.model_copy(update={"draws": None}))


class GenerationSettings(Section):
    """Settings of `advgrpo generate`."""

    policy: AnyPolicyConfig
    sampling: SamplingConfig

    @classmethod
    def of(cls, run: RunConfig) -> Self:
        """Return the settings of a run."""
        return cls(policy=run.policy, sampling=run.evaluation_sampling)


class PretrainingSettings(Section):
    """Settings of the task pretrain-reward."""

    seed: NonNegativeInt
    prompts: PromptsConfig
    policy: AnyPolicyConfig
    sampling: SamplingConfig
    discriminator: DiscriminatorConfig
    images_per_prompt: PositiveInt | None
    """Reference images per training prompt; None if they serve any prompt."""

    batch_size: PositiveInt
    """Images sampled at once."""

    @classmethod
    def of(cls, run: RunConfig) -> Self:
        """Return the task's settings of a run."""
        size = run.training.rollout.microbatch_size
        return cls(
            seed=run.seed,
            prompts=run.prompts,
            policy=run.policy,
            sampling=run.training.sampling,
            discriminator=run.discriminator,
            # Only the number: the images themselves are an input with a digest of its own.
            images_per_prompt=run.reference_images.of_each_prompt,
            # Part of the digest, because the last bits of an image depend on its batch.
            batch_size=PRETRAINING_BATCH if size == "auto" else size,
        )

    @property
    def draws(self) -> PromptDraws:
        """Draws of the task."""
        return PromptDraws(
            seed=self.seed,
            held_out_fraction=self.discriminator.held_out_fraction,
            base_images=self.discriminator.pretraining.images,
        )


class TrainingSettings(Section):
    """Settings of the task train."""

    seed: NonNegativeInt
    prompts: PromptsConfig
    policy: AnyPolicyConfig
    discriminator: DiscriminatorConfig
    training: TrainingConfig
    images_per_prompt: PositiveInt | None
    """Reference images per training prompt; None if they serve any prompt."""

    distance: DistanceConfig
    """Distance computed on held-out training prompts."""

    scorers: tuple[ScorerConfig, ...]
    """Scorers applied to held-out training prompts."""

    alignment: str
    """Metric of prompt alignment."""

    evaluation_sampling: SamplingConfig
    """Sampling of images of held-out training prompts."""

    tracking: TrackingConfig = TrackingConfig()

    @classmethod
    def of(cls, run: RunConfig) -> Self:
        """Return the task's settings of a run."""
        return cls(
            seed=run.seed,
            prompts=run.prompts,
            policy=run.policy,
            discriminator=run.discriminator,
            training=run.training,
            evaluation_sampling=run.evaluation_sampling,
            images_per_prompt=run.reference_images.of_each_prompt,
            distance=run.evaluation.distance,
            scorers=run.evaluation.scorers,
            alignment=run.evaluation.alignment,
            tracking=run.tracking,
        )

    @property
    def draws(self) -> PromptDraws:
        """Draws of the rollouts, and of those that may replace skipped ones."""
        draws = self.certain_draws
        if draws.rollouts is None or self.training.non_finite.action != "skip":
            return draws
        # Each skipped rollout is replaced by a further one, with further prompts.
        rollouts = draws.rollouts + -(-draws.rollouts // _ROLLOUTS_PER_SKIPPED)
        return draws.model_copy(update={"rollouts": rollouts})

    @property
    def certain_draws(self) -> PromptDraws:
        """Draws of the rollouts if none is skipped."""
        return PromptDraws(
            seed=self.seed,
            held_out_fraction=self.discriminator.held_out_fraction,
            rollouts=self.training.rollouts,
            prompts_per_update=self.training.rollout.prompts_per_update,
        )

    def cache_relevant(self) -> Self:
        """Return the settings that affect numbers; a run resumes after a change of the others."""
        defaults = {
            # Replaced by defaults rather than removed, so that the result is still a valid section.
            name: TrainingConfig.model_fields[name].default
            for name in ("hangs", "memory_check", "non_finite")
        }
        training = self.training.model_copy(update=defaults)
        copy = self.model_copy(update={"training": training, "tracking": TrackingConfig()})
        return without_prompt_files(copy)


def without_prompt_files(settings: S) -> S:
    """Return settings without prompt files, for cache keys that hold the prompts' digest instead.

    A prompt file can then be moved, or saved with other line ends, without losing saved state.
    """
    # Without the hashes of the files, too: these change with the line ends.
    unnamed = PromptsConfig(train="prompts", test="prompts")
    return settings.model_copy(update={"prompts": unnamed})


def read_run(path: str) -> RunConfig:
    """Read all settings of a run from the file that the task resolve-config wrote.

    Raises:
        ConfigError: If a setting is wrong.
    """
    settings = load_yaml(Path(path).read_text(encoding="utf-8"))
    return parse(RunConfig, settings, where="the settings")


def parse_json(section: type[S], text: str, *, where: str) -> S:
    """Read a task's settings from JSON text.

    Args:
        section: The task's settings model.
        text: Result of `model_dump_json`.
        where: Parameter or file of the text, for errors.

    Raises:
        ConfigError: If the text is not JSON or a setting is wrong.
    """
    try:
        settings = load_json(text)
    except ValueError as error:
        raise ConfigError(
            f"{where} is not JSON: {error}",
            repair="pass the output of the task resolve-config unchanged",
        ) from error
    if not isinstance(settings, dict):
        raise ConfigError(
            f"{where} holds {settings!r} instead of settings",
            repair="pass the output of the task resolve-config unchanged",
        )
    return parse(section, settings, where=where)


def digest(settings: Section, *inputs: str) -> str:
    """Return a digest of settings and of a task's other inputs.

    Args:
        settings: A task's settings.
        inputs: Digests of the task's other inputs, in a fixed order.

    Returns:
        The first 16 hexadecimal digits of a SHA-256, the same in every process and on every
        machine.
    """
    # Includes defaults: a new setting, or another default, changes the digest of every run, so that
    # existing results and checkpoints are no longer found.
    content = json.dumps([settings.model_dump(mode="json"), *inputs], sort_keys=True)
    # 64 bits: enough against accidental collisions, short enough for names of folders and jobs.
    return hashlib.sha256(content.encode()).hexdigest()[:16]
