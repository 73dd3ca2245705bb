"""Settings of the training loop: rollouts, rewards, policy and discriminator updates."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from advgrpo.config.algorithms import AnyAlgorithmConfig, GrpoConfig
from advgrpo.config.base import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
)
from advgrpo.config.policy import SamplingConfig
from advgrpo.config.reward import RewardConfig
from advgrpo.config.rollout import RolloutConfig


class PolicyOptimizerConfig(Section):
    """AdamW for the policy."""

    # All values of the released code.
    learning_rate: PositiveFloat = 3e-4
    decay: Literal["constant", "linear"] = "constant"
    """Whether the learning rate falls to zero at the last update."""

    scale_by_separation: bool = False
    """Whether the learning rate is multiplied by how well the discriminator, before its update,
    separates held-out reference images from the rollout: 1 if it ranks each reference image above
    each generated one, 0 if it does no better than chance."""

    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    weight_decay: NonNegativeFloat = 1e-4
    epsilon: PositiveFloat = 1e-8
    max_grad_norm: PositiveFloat = 1.0
    """Gradients of a larger norm are scaled down to it."""


class EveryRollout(Section):
    """Every rollout updates the policy, then the discriminator."""

    type: Literal["every_rollout"] = "every_rollout"

    discriminator_steps: PositiveInt = 8
    """Optimizer steps of the discriminator for each rollout."""


class ReleasedSchedule(Section):
    """The released schedule: some rollouts for the discriminator alone, then one for the policy."""

    type: Literal["released"] = "released"

    # Nine of ten rollouts, as in the released DINO run.
    discriminator_rollouts: PositiveInt = 9
    """Rollouts that each train the discriminator alone, one step each."""


class WhenOutscored(Section):
    """The discriminator learns only while it is outscored; every rollout updates the policy.

    It is outscored while it rewards generated images more than held-out reference images.
    """

    type: Literal["when_outscored"] = "when_outscored"

    discriminator_steps: PositiveInt = 1
    """Optimizer steps of the discriminator for each rollout that outscores it."""

    pause_policy: bool = False
    """Whether a rollout that outscores the discriminator trains it alone, as in the released code.
    A run then takes more rollouts than updates, without a limit."""


class FrozenDiscriminator(Section):
    """The discriminator stays as pre-trained, for studies of reward hacking."""

    type: Literal["frozen"] = "frozen"


UpdateSchedule = Annotated[
    EveryRollout | ReleasedSchedule | WhenOutscored | FrozenDiscriminator,
    Field(discriminator="type"),
]


class WatchConfig(Section):
    """The alarm for a hacked reward.

    It is raised if a freshly trained critic separates images that the run's reward does not, while
    the held-out distance rises; or if alignment or image statistics leave their range without an
    effect on the reward. `advgrpo/training/reward_hacking.py` has the rule.
    """

    action: Literal["none", "warn", "stop"] = "warn"
    """Whether an alarm is logged, or also ends training with the best adapter so far. Detection
    needs at least 32 held-out prompts."""

    # Measured in docs/experiments.md: at most 0.36 in sound runs, at least 0.45 at an alarm.
    critic_gap: Annotated[Fraction, Field(gt=0)] = 0.4
    """How much larger the share of held-out prompts is in which a fresh critic rates the reference
    image above the generated one than the share in which the run's reward does so."""

    # Alone it proves nothing: the distance doubled in sound runs, too.
    distance_rise: Annotated[float, Field(ge=1)] = 1.25
    """Held-out distance in multiples of the smallest one so far."""

    alignment_fall: PositiveFloat = 0.1
    """Fall of the alignment metric below the base model's, in its own units."""

    # Measured in docs/experiments.md: sound runs leave the range by up to 0.85.
    statistics_range: PositiveFloat = 1.5
    """Distance of an image statistic from the range between base model and reference images, in
    standard deviations of the reference images."""

    measurements: PositiveInt = 1
    """Consecutive evaluations on held-out prompts that must agree."""


class MonitoringConfig(Section):
    """Evaluation during training, and its use."""

    held_out_every_updates: PositiveInt = 20
    """Updates between two evaluations on held-out training prompts."""

    held_out_prompts: PositiveInt = 64
    """Held-out training prompts that are evaluated, with one image each."""

    select_adapter: Literal["best", "last"] = "best"
    """Adapter that is the result: the one of the smallest held-out distance whose alignment is not
    below the base model's by more than the tolerance, or the one of the last update."""

    alignment_tolerance: NonNegativeFloat = 0.01
    """Tolerated fall of the alignment metric below the base model's, in its own units."""

    grid_images: NonNegativeInt = 16
    """Images of the grid that is logged with each evaluation."""

    watch: WatchConfig = WatchConfig()

    @model_validator(mode="after")
    def _stopping_selects_the_best(self) -> Self:
        # A stopped run was hacked by then, so its last adapter must not be the result.
        if self.watch.action == "stop" and self.select_adapter == "last":
            raise ValueError(
                "watch.action=stop selects the best adapter, which select_adapter=last does not "
                "keep; set select_adapter=best, or watch.action=warn"
            )
        return self


class NonFiniteConfig(Section):
    """Handling of latents, images, rewards, losses and gradients that are NaN or infinite.

    They never reach a weight, and their inputs are dumped next to the checkpoints, for
    `advgrpo reproduce`.
    """

    action: Literal["stop", "skip"] = "stop"
    """Whether the run stops, or skips the rollout and continues with the next."""

    most_in_a_row: PositiveInt = 3
    """Consecutive rollouts that may be skipped; with one more, the run stops."""


class HangsConfig(Section):
    """Detection of training processes that hang or are slow."""

    report_after_seconds: PositiveInt = 600
    """Time without progress after which a process logs its stacks and the position of every
    process. A microbatch must take less."""

    timeout_seconds: PositiveInt = 1800
    """Time that a process waits for the others before the run fails."""

    slow_ratio: Annotated[float, Field(gt=1)] = 1.5
    """Multiple of the median time from which a process is logged as slow."""

    @model_validator(mode="after")
    def _reports_before_the_timeout(self) -> Self:
        if self.report_after_seconds >= self.timeout_seconds:
            raise ValueError(
                f"report_after_seconds={self.report_after_seconds} is not before "
                f"timeout_seconds={self.timeout_seconds}: the run would "
                "fail without a report; lower it"
            )
        return self


class TrainingConfig(Section):
    """Adversarial RL of the policy against the discriminator."""

    # As many optimizer steps as in the released DINO run.
    updates: PositiveInt = 182
    """Rollouts that update the policy."""

    optimizer_steps_per_update: PositiveInt = 1
    """Optimizer steps that share a rollout; each takes whole groups."""

    sampling: SamplingConfig = SamplingConfig()
    rollout: RolloutConfig = RolloutConfig()
    optimizer: PolicyOptimizerConfig = PolicyOptimizerConfig()
    algorithm: AnyAlgorithmConfig = GrpoConfig()
    reward: RewardConfig = RewardConfig()
    update_schedule: UpdateSchedule = EveryRollout()
    monitoring: MonitoringConfig = MonitoringConfig()
    non_finite: NonFiniteConfig = NonFiniteConfig()
    hangs: HangsConfig = HangsConfig()

    # As in Flow-GRPO and the released code (`global_std`).
    advantage_normalization: Literal["group", "batch", "none"] = "batch"
    """Whether centred rewards are divided by the standard deviation of the group, by that of the
    whole rollout, or not at all."""

    compile: Literal["auto", "none", "inductor", "aot_eager", "eager"] = "auto"
    """Backend of `torch.compile` for the transformer's layers. They are compiled before the first
    rollout, for rollout and update. `auto` is `none` on CPUs and with zero_stage=3, else `inductor`
    if a compiler is found. `inductor` needs a C++ compiler, on GPUs Triton and a C
    compiler; the last two make nothing faster and help with debugging."""

    engine: Literal["deepspeed", "ddp"] = "deepspeed"
    """Engine of the policy's optimizer steps, which are equal up to rounding; their speed on GPUs
    has not been compared. `ddp` needs torch alone: take it where the transformer fits each GPU.
    `deepspeed` partitions by `zero_stage`: take it for stage 3 or `offload`; stages 1 and 2 save at
    most 0.2 GiB per GPU with the adapter of SD3.5 medium."""

    zero_stage: Annotated[int, Field(ge=1, le=3)] = 2
    """ZeRO stage of `engine=deepspeed`, which partitions over the ranks: 1 and 2 the optimizer's
    state and gradients of the adapter, 3 also the transformer's weights, gathered by layer."""

    offload: Literal["none", "optimizer", "optimizer_and_weights"] = "none"
    """Offload to host memory of the adapter's optimizer, or also of the transformer's weights,
    which needs zero_stage 3. Saves GPU memory and costs time."""

    memory_check: Literal["refuse", "warn"] = "refuse"
    """Whether training is refused if the estimate of `advgrpo plan` is larger than the memory that
    is free when it starts, or only warned about."""

    checkpoint_every_updates: PositiveInt = 10
    """Updates between two checkpoints; while the policy is paused, rollouts."""

    checkpoints_kept: PositiveInt = 2
    """Newest checkpoints to keep."""

    @model_validator(mode="after")
    def _algorithm_learns_from_all_images(self) -> Self:
        for name in ("replayed_rollouts", "references_per_prompt"):
            count = getattr(self.rollout, name)
            if count and not self.algorithm.learns_from_any_image:
                raise ValueError(
                    f"rollout.{name}={count}: algorithm={{type: {self.algorithm.type}}} is trained "
                    "on images of the present policy alone, whose ratio is 1; set "
                    f"rollout.{name}=0, or algorithm={{type: nft}}"
                )
        return self

    @model_validator(mode="after")
    def _engine_supports_the_rest(self) -> Self:
        # Stages 1 and 2 are not refused: they change memory alone, and 2 is the default.
        if self.engine == "ddp" and (self.offload != "none" or self.zero_stage == 3):
            raise ValueError(
                "engine=ddp has neither zero_stage=3 nor offload: set engine=deepspeed, or "
                "zero_stage=2 and offload=none"
            )
        if self.offload == "optimizer_and_weights" and self.zero_stage != 3:
            raise ValueError(
                f"offload=optimizer_and_weights needs zero_stage=3, not {self.zero_stage}: set it, "
                "or offload=optimizer"
            )
        if self.compile not in {"auto", "none"} and self.zero_stage == 3:
            raise ValueError(
                f"compile={self.compile} does not work with zero_stage=3, which gathers weights "
                "layer by layer: set zero_stage=2, or compile=none"
            )
        return self

    def compile_backend(self, *, on_gpu: bool) -> str | None:
        """Return the backend of `torch.compile`; None to compile nothing."""
        if self.compile == "auto":
            return "inductor" if on_gpu and self.zero_stage != 3 else None
        return None if self.compile == "none" else self.compile

    @property
    def rollouts(self) -> int | None:
        """Rollouts of the whole run; None if the number depends on the discriminator."""
        match self.update_schedule:
            case ReleasedSchedule(discriminator_rollouts=others):
                # Each update has its own rollout in addition to those of the discriminator.
                return self.updates * (others + 1)
            case WhenOutscored(pause_policy=True):
                return None
            case _:
                return self.updates

    @property
    def optimizer_steps(self) -> int:
        """Optimizer steps of the policy in the whole run."""
        return self.updates * self.optimizer_steps_per_update
