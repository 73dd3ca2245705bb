"""All settings of a run."""

import math
from typing import Self

import yaml
from pydantic import model_validator

from advgrpo.config.base import NonNegativeInt, Section
from advgrpo.config.discriminator import DiscriminatorConfig
from advgrpo.config.evaluation import EvaluationConfig
from advgrpo.config.independence import Independence, independence
from advgrpo.config.policy import AnyPolicyConfig
from advgrpo.config.promotion import ALWAYS_MEASURED, STAND_INS, PromotionConfig
from advgrpo.config.reference_images import PromptsConfig, ReferenceImagesConfig
from advgrpo.config.training import TrainingConfig
from advgrpo.config.unpaired import pairing_problems
from advgrpo.errors import ConfigError


class RunConfig(Section):
    """Settings of a run, one section per pipeline task and what they share."""

    seed: NonNegativeInt = 0
    """Every random draw of the run follows from it."""

    prompts: PromptsConfig
    policy: AnyPolicyConfig
    reference_images: ReferenceImagesConfig
    discriminator: DiscriminatorConfig
    training: TrainingConfig
    evaluation: EvaluationConfig
    promotion: PromotionConfig = PromotionConfig()

    @model_validator(mode="after")
    def _sampling_suits_the_algorithm(self) -> Self:
        self.training.algorithm.check_sampling(self.training.sampling.num_inference_steps)
        return self

    @model_validator(mode="after")
    def _groups_fit_the_optimizer_steps(self) -> Self:
        rollout, steps = self.training.rollout, self.training.optimizer_steps_per_update
        if rollout.prompts_per_update % steps:
            raise ValueError(
                f"training.optimizer_steps_per_update={steps} would split a group: it must divide "
                f"training.rollout.prompts_per_update={rollout.prompts_per_update}"
            )
        images = rollout.prompts_per_update // steps * rollout.group_size
        for name, size in self._microbatches.items():
            if images % size:
                raise ValueError(
                    f"{name}={size} must divide the {images} images of an optimizer step "
                    "(prompts_per_update x group_size / optimizer_steps_per_update) on at least "
                    "one rank"
                )
        return self

    @property
    def _microbatches(self) -> dict[str, int]:
        rollout = self.training.rollout
        sizes = {"training.rollout.microbatch_size": rollout.microbatch_size}
        if rollout.update_microbatch_size is not None:
            sizes["training.rollout.update_microbatch_size"] = rollout.update_microbatch_size
        return sizes

    @model_validator(mode="after")
    def _resolutions_agree(self) -> Self:
        ours, theirs = self.policy.resolution_pixels, self.reference_images.resolution_pixels
        if ours != theirs:
            raise ValueError(
                f"policy.resolution_pixels={ours} and reference_images.resolution_pixels={theirs} "
                "differ: the discriminator would tell images apart by their size; make them equal"
            )
        return self

    @model_validator(mode="after")
    def _nothing_pairs_what_serves_any_prompt(self) -> Self:
        problems = pairing_problems(
            self.reference_images, self.discriminator, self.training.reward, self.evaluation
        )
        if problems:
            raise ValueError(
                "images of reference_images.source (folder) serve any prompt, but "
                + "; ".join(problems)
            )
        return self

    @model_validator(mode="after")
    def _scorers_can_read_the_resolution(self) -> Self:
        pixels = self.policy.resolution_pixels
        scorers = {
            **{f"evaluation.scorers.{n}": s for n, s in enumerate(self.evaluation.scorers)},
            **self.training.reward.scorers,
        }
        for setting, scorer in scorers.items():
            if scorer.only_resolution_pixels not in {None, pixels}:
                raise ValueError(
                    f"{setting} is {scorer.type}, which reads images of "
                    f"{scorer.only_resolution_pixels} pixels, but "
                    f"policy.resolution_pixels={pixels}: remove it"
                )
        return self

    @model_validator(mode="after")
    def _alignment_is_measured(self) -> Self:
        scorer = self.evaluation.alignment.partition(".")[0]
        known = [scorer.metric_prefix for scorer in self.evaluation.scorers]
        if scorer not in known:
            raise ValueError(
                f"evaluation.alignment={self.evaluation.alignment!r} names no scorer of "
                f"evaluation.scorers ({', '.join(known) or 'none'})"
            )
        return self

    @model_validator(mode="after")
    def _gates_can_be_judged(self) -> Self:
        terms = (term.name for term in self.training.reward.terms)
        rewarded = {"discriminator", *terms, *self.independence.trained_on}
        known = {*ALWAYS_MEASURED, *(s.metric_prefix for s in self.evaluation.scorers)}
        for position, gate in enumerate(self.promotion.gates):
            name = f"promotion.gates.{position}.metric={gate.metric!r}"
            is_alignment = gate.metric == "alignment"
            metric = self.evaluation.alignment if is_alignment else gate.metric
            family, dot, _ = metric.partition(".")
            if family in rewarded:
                raise ValueError(
                    f"{name} is what the run's reward is trained on"
                    + (f" (evaluation.alignment={metric})" if is_alignment else "")
                    + ": it rises whether or not the images get better; use a measure of a scorer "
                    "that is not among training.reward.terms"
                )
            if metric not in STAND_INS and not (dot and family in known):
                raise ValueError(
                    f"{name} will not be measured: write scorer.measure of a scorer in "
                    f"evaluation.scorers, a measure of {', '.join(ALWAYS_MEASURED)}, or one of "
                    f"{', '.join(STAND_INS)}"
                )
        return self

    @model_validator(mode="after")
    def _alignment_is_not_rewarded(self) -> Self:
        scorer = self.evaluation.alignment.partition(".")[0]
        setting = self.independence.trained_by.get(scorer)
        if setting is not None:
            raise ValueError(
                f"evaluation.alignment={self.evaluation.alignment!r} is what {setting} trains on: "
                "it rises whether or not the images get better, and the adapter that is handed on "
                "is chosen by it; name a measure that does not reward, or leave that term out"
            )
        return self

    @property
    def independence(self) -> Independence:
        """How far each measure of the evaluation is from what rewards the policy."""
        return independence(self.discriminator, self.training.reward, self.evaluation)

    def check_ranks(self, ranks: int) -> None:
        """Refuse a number of training processes that cannot share the rollout evenly.

        Args:
            ranks: Training processes over all nodes; one per GPU.

        Raises:
            ConfigError: If an optimizer step's images cannot be split over the ranks in whole
                microbatches. Names numbers that work.
        """
        rollout = self.training.rollout
        images = (
            rollout.prompts_per_update
            // self.training.optimizer_steps_per_update
            * rollout.group_size
        )
        sizes = self._microbatches
        whole = math.lcm(*sizes.values())
        if ranks >= 1 and images % (ranks * whole) == 0:
            self._check_discriminator_batch(ranks)
            return
        fitting = [str(n) for n in range(1, images // whole + 1) if images % (n * whole) == 0]
        said = " and ".join(f"{size} ({name})" for name, size in sizes.items())
        raise ConfigError(
            f"{ranks} training processes cannot share {images} images per optimizer step in "
            f"microbatches of {said}",
            repair=f"use {', '.join(fitting)} processes, or change "
            "training.rollout.{prompts_per_update, group_size, microbatch_size}",
        )

    def _check_discriminator_batch(self, ranks: int) -> None:
        batch = self.discriminator.optimizer.batch_size
        if batch % ranks:
            raise ConfigError(
                f"{ranks} training processes cannot share "
                f"discriminator.optimizer.batch_size={batch} evenly",
                repair=f"set it to {-(-batch // ranks) * ranks}",
            )

    def to_yaml(self) -> str:
        """Write all settings, defaults included, as YAML that `resolve` reads back."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
