"""The settings of a run, and the rules across its sections."""

from typing import Self

from pydantic import model_validator

from advgrpo.config.base import BUILT_IN_PREFIXES, NonNegativeInt, Section
from advgrpo.config.discriminator import DiscriminatorConfig, PickScoreDiscriminatorConfig
from advgrpo.config.evaluation import EvaluationConfig
from advgrpo.config.independence import Independence, independence
from advgrpo.config.policy import AnyPolicyConfig, SamplingConfig
from advgrpo.config.promotion import METRIC_ALIASES, PromotionConfig
from advgrpo.config.reference_images import PromptsConfig, ReferenceImagesConfig
from advgrpo.config.scorers.base import BaseScorerConfig
from advgrpo.config.tracking import TrackingConfig
from advgrpo.config.training import TrainingConfig
from advgrpo.config.yaml_text import dump_yaml
from advgrpo.errors import ConfigError


class RunConfig(Section):
    """Settings of a run: sections of the pipeline's tasks, and those that tasks share."""

    seed: NonNegativeInt = 0
    """Seeds all random draws of the run."""

    prompts: PromptsConfig
    policy: AnyPolicyConfig
    reference_images: ReferenceImagesConfig
    discriminator: DiscriminatorConfig
    training: TrainingConfig
    evaluation: EvaluationConfig
    promotion: PromotionConfig = PromotionConfig()
    tracking: TrackingConfig = TrackingConfig()

    # Rules across sections run once all sections are valid; the first violation is reported.
    @model_validator(mode="after")
    def _sampling_suits_the_algorithm(self) -> Self:
        sampling = self.training.sampling
        guided = self.policy.guidance_passes(sampling.guidance_scale) > 1
        self.training.algorithm.check_sampling(sampling.num_inference_steps, guided=guided)
        return self

    @model_validator(mode="after")
    def _groups_fit_the_optimizer_steps(self) -> Self:
        rollout, steps = self.training.rollout, self.training.optimizer_steps_per_update
        if rollout.prompts_per_update % steps:
            raise ValueError(
                f"training.optimizer_steps_per_update={steps}: would split a group; it must divide "
                f"training.rollout.prompts_per_update={rollout.prompts_per_update}"
            )
        # With one rank; `check_ranks` repeats the check for the number that is used.
        for name, size, images in self._microbatches:
            if images % size:
                raise ValueError(
                    f"{name}={size}: must divide the {images} images of an optimizer step on at "
                    f"least one rank (prompts_per_update={rollout.prompts_per_update} x "
                    f"{images // self._groups_per_step} images / optimizer_steps_per_update)"
                )
        return self

    @property
    def _groups_per_step(self) -> int:
        """Groups of an optimizer step."""
        training = self.training
        return training.rollout.prompts_per_update // training.optimizer_steps_per_update

    @property
    def _trained_per_step(self) -> int:
        """Images that train the policy in an optimizer step."""
        return self._groups_per_step * self.training.rollout.trained_per_prompt

    @property
    def _microbatches(self) -> list[tuple[str, int, int]]:
        """Setting, size, and the images of an optimizer step that microbatches split."""
        rollout, trained = self.training.rollout, self._trained_per_step
        images = self._groups_per_step * rollout.group_size
        # `auto` becomes a number that divides a rank's images.
        both = [("training.rollout.microbatch_size", rollout.microbatch, images)]
        if rollout.update_microbatch_size is not None:
            size = rollout.update_microbatch_size
            both.append(("training.rollout.update_microbatch_size", size, trained))
        elif trained % images:
            both.append(("training.rollout.microbatch_size", rollout.microbatch, trained))
        return both

    @model_validator(mode="after")
    def _resolutions_agree(self) -> Self:
        ours, theirs = self.policy.resolution_pixels, self.reference_images.resolution_pixels
        if ours != theirs:
            raise ValueError(
                f"policy.resolution_pixels={ours} and reference_images.resolution_pixels={theirs} "
                "differ, and the discriminator would separate images by their size; set both to "
                "the same value"
            )
        return self

    @model_validator(mode="after")
    def _quantized_weights_are_not_partitioned(self) -> Self:
        if self.policy.quantization != "none" and self.training.engine != "ddp":
            raise ValueError(
                f"policy.quantization={self.policy.quantization} does not work with "
                f"training.engine={self.training.engine}, which moves all weights: set "
                "training.engine=ddp"
            )
        return self

    @model_validator(mode="after")
    def _folder_images_are_not_paired_with_prompts(self) -> Self:
        if self.reference_images.serve_any_prompt and (problems := self._pairing_problems()):
            raise ValueError(
                "images of reference_images.source (folder) serve any prompt, but "
                + "; ".join(problems)
            )
        return self

    def _pairing_problems(self) -> list[str]:
        """List settings that need reference images of their own prompt, each with its repair."""
        problems = [
            f"reference_images.{name} names another image set: remove it"
            for name in ("existing", "existing_test")
            if getattr(self.reference_images, name) is not None
        ]
        if isinstance(self.discriminator, PickScoreDiscriminatorConfig):
            problems.append(
                "discriminator.type=pickscore learns from two images of one prompt: use type dino"
            )
        elif self.discriminator.prompt_conditioning is not None:
            problems.append(
                "discriminator.prompt_conditioning shows the discriminator the prompt of a "
                "reference image: set it to null"
            )
        if self.training.rollout.references_per_prompt:
            problems.append(
                "training.rollout.references_per_prompt would train the policy on images that do "
                "not show their prompts: set it to 0"
            )
        problems += [
            f"{setting} ({scorer.type}) compares with the reference images of a prompt: remove it"
            for setting, scorer in self._scorers.items()
            if scorer.needs_reference_images
        ]
        return problems

    @property
    def _scorers(self) -> dict[str, BaseScorerConfig]:
        """All frozen scorers of the run, by the setting that names each."""
        evaluated = {f"evaluation.scorers.{n}": s for n, s in enumerate(self.evaluation.scorers)}
        return {**evaluated, **self.training.reward.scorers}

    @model_validator(mode="after")
    def _scorers_can_read_the_resolution(self) -> Self:
        pixels = self.policy.resolution_pixels
        for setting, scorer in self._scorers.items():
            # Not resized: such a scorer was trained on images of this size alone.
            if scorer.only_resolution_pixels not in {None, pixels}:
                raise ValueError(
                    f"{setting}: {scorer.type} scores images of {scorer.only_resolution_pixels} "
                    f"pixels, but policy.resolution_pixels={pixels}; remove it"
                )
        return self

    @model_validator(mode="after")
    def _alignment_is_measured(self) -> Self:
        scorer = self.evaluation.alignment.partition(".")[0]
        known = [scorer.metric_prefix for scorer in self.evaluation.scorers]
        if scorer not in known:
            raise ValueError(
                f"evaluation.alignment={self.evaluation.alignment!r}: is not a metric of "
                f"evaluation.scorers ({', '.join(known) or 'none'})"
            )
        return self

    @model_validator(mode="after")
    def _gates_can_be_judged(self) -> Self:
        terms = (term.name for term in self.training.reward.terms)
        # With `trained_on`: a tuned PickScore is rewarded even if no term names the scorer.
        rewarded = {"discriminator", *terms, *self.independence.trained_on}
        known = {*BUILT_IN_PREFIXES, *(s.metric_prefix for s in self.evaluation.scorers)}
        for position, gate in enumerate(self.promotion.gates):
            name = f"promotion.gates.{position}.metric={gate.metric!r}"
            is_alignment = gate.metric == "alignment"
            metric = self.evaluation.alignment if is_alignment else gate.metric
            family, dot, _ = metric.partition(".")
            if family in rewarded:
                raise ValueError(
                    f"{name}: the reward optimizes this metric"
                    + (f" (evaluation.alignment={metric})" if is_alignment else "")
                    + ", so it rises whether or not the images improve; use a metric of a scorer "
                    "that is not among training.reward.terms"
                )
            # Built-in metrics are known where they are computed; only their prefix is checked.
            if metric not in METRIC_ALIASES and not (dot and family in known):
                raise ValueError(
                    f"{name}: will not be measured; use scorer.metric of a scorer in "
                    f"evaluation.scorers, a metric of {', '.join(BUILT_IN_PREFIXES)}, or one of "
                    f"{', '.join(METRIC_ALIASES)}"
                )
        return self

    @model_validator(mode="after")
    def _alignment_is_not_rewarded(self) -> Self:
        scorer = self.evaluation.alignment.partition(".")[0]
        setting = self.independence.trained_by.get(scorer)
        if setting is not None:
            raise ValueError(
                f"evaluation.alignment={self.evaluation.alignment!r}: {setting} optimizes this "
                "metric, so it rises whether or not the images improve, yet it selects the "
                "adapter; use a metric that is not rewarded, or remove that term"
            )
        return self

    @property
    def evaluation_sampling(self) -> SamplingConfig:
        """How the trained model is sampled: like its rollouts, but for the number of steps."""
        sampling, steps = self.training.sampling, self.evaluation.num_inference_steps
        return (
            sampling
            if steps is None
            else sampling.model_copy(update={"num_inference_steps": steps})
        )

    @property
    def independence(self) -> Independence:
        """Dependence of each metric of the evaluation on the reward."""
        return independence(self.discriminator, self.training.reward, self.evaluation)

    def check_ranks(self, ranks: int) -> None:
        """Check that training processes can share an optimizer step evenly.

        Args:
            ranks: Training processes over all nodes; one per GPU.

        Raises:
            ConfigError: If an optimizer step's images cannot be split over the ranks in whole
                microbatches. The repair lists numbers that work.
        """
        # Not a validator, because the number of processes is not a setting.
        # 0 would divide by zero; the error below lists what works.
        if ranks >= 1 and self._can_share(ranks):
            self._check_discriminator_batch(ranks)
            return
        (_, _, images), *_ = self._microbatches
        batch = self.discriminator.optimizer.batch_size
        numbers = (n for n in range(1, images + 1) if self._can_share(n) and batch % n == 0)
        fitting = [str(n) for n in numbers]
        microbatches = " and ".join(f"{size} ({name})" for name, size, _ in self._microbatches)
        groups = "" if self.training.rollout.select is None else " and whole groups"
        raise ConfigError(
            f"{ranks} training processes cannot share {images} images per optimizer step in "
            f"microbatches of {microbatches}{groups}",
            repair=f"use {', '.join(fitting)} processes, or change "
            "training.rollout.{prompts_per_update, group_size, microbatch_size}",
        )

    def _can_share(self, ranks: int) -> bool:
        # Each rank selects among its own images, so it needs whole groups.
        if self.training.rollout.select is not None and self._groups_per_step % ranks:
            return False
        return all(images % (ranks * size) == 0 for _, size, images in self._microbatches)

    def _check_discriminator_batch(self, ranks: int) -> None:
        # Each rank processes an equal share of the batch.
        batch = self.discriminator.optimizer.batch_size
        if batch % ranks:
            raise ConfigError(
                f"{ranks} training processes cannot share "
                f"discriminator.optimizer.batch_size={batch} evenly",
                # The next multiple of the number of ranks.
                repair=f"set it to {-(-batch // ranks) * ranks}",
            )

    def to_yaml(self) -> str:
        """Return all settings, defaults included, as YAML that `resolve` reads back."""
        # Not tuples, which YAML does not have: mode="json" turns them into lists.
        return dump_yaml(self.model_dump(mode="json"))
