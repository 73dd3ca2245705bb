"""Settings of the RL algorithms, one section each."""

from abc import ABC
from collections.abc import Iterable
from statistics import mean
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from advgrpo.config.base import (
    AlgorithmConfig,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
)
from advgrpo.config.denoising_steps import (
    CpsSampler,
    FastSamplingConfig,
    FixedWindow,
    Sampler,
    Window,
)


def _default_ratio_tolerance(clip_range: float | None) -> float:
    """Return the accepted error of a ratio: below the clip range, or images start out clipped."""
    # Above the effect of another microbatch size in bfloat16, 2e-4.
    largest = 1e-3
    return largest if clip_range is None else min(largest, clip_range / 2)


class GrpoConfig(AlgorithmConfig):
    """GRPO: the clipped policy loss on the ratio of log-probabilities of denoising steps."""

    type: Literal["grpo"] = "grpo"

    # The instance is shared by all sections, which is safe because sections are immutable.
    sampler: Sampler = CpsSampler()
    """How a trained denoising step draws its noise."""

    window: Window = FixedWindow()
    """Which denoising steps are stochastic and trained; all others follow the ODE."""

    shared_prefix: bool = False
    """Let the images of a group share the denoising steps before the window: fewer forward passes,
    less variety within a group."""

    fast_sampling: FastSamplingConfig = FastSamplingConfig()
    """Cheaper denoising steps, off by default."""

    # The released value. Latents are stored in float32, because rounding them to bfloat16 changes
    # a ratio by 2e-5.
    clip_range: PositiveFloat = 1e-5
    """A ratio further than this from 1 gives no more gradient in its direction."""

    # Flow-DPPO. A loose bound lets several optimizer steps use a rollout.
    divergence_bound: PositiveFloat | None = None
    """If set, in place of `clip_range`: an image whose step diverges by more than this from the one
    at sampling gives no more gradient in the direction that leads further away. Divergence is the
    squared distance of the means over twice the variance, averaged over elements."""

    # GRPO-Guard. Plain ratios are below 1 on average and spread differently at each step, so that
    # the clip range is one-sided and binds at some steps only.
    normalize_ratio: bool = False
    """Remove the mean from log-ratios, give them the same scale at each trained step, and weigh the
    steps evenly. Needs `sampler.type: flow_sde` and `log_prob: gaussian`; `clip_range` then has
    another meaning."""

    # The released form omits `1 / (2 std^2)`, so a clip range has another meaning at each step.
    log_prob: Literal["gaussian", "released"] = "gaussian"
    """The mean log-density, or the negative squared distance of the released code."""

    kl_weight: NonNegativeFloat = 0.0
    """Weight of the divergence from the base policy."""

    advantage_clip: PositiveFloat = 5.0
    """Advantages are clamped to plus and minus this."""

    ratio_tolerance: PositiveFloat | None = None
    """Largest |ratio - 1| that is accepted before the first optimizer step on a rollout. Default:
    half of `clip_range`, so that rounding clips no image, but at most 1e-3; 1e-3 with
    `divergence_bound`."""

    @model_validator(mode="after")
    def _can_normalize_the_ratio(self) -> Self:
        if not self.normalize_ratio:
            return self
        if self.sampler.type != "flow_sde" or self.log_prob != "gaussian":
            raise ValueError(
                "normalize_ratio=true is derived for sampler={type: flow_sde} and "
                "log_prob=gaussian: set both, or normalize_ratio=false"
            )
        if self.divergence_bound is not None:
            raise ValueError(
                "normalize_ratio=true and divergence_bound replace the same clipping: "
                "set only one of them"
            )
        return self

    @property
    def binding_clip_range(self) -> float | None:
        """The clip range, None if the bound on the divergence replaces it."""
        return self.clip_range if self.divergence_bound is None else None

    @property
    def accepted_ratio_error(self) -> float:
        """The ratio's tolerance, or its default."""
        return self.ratio_tolerance or _default_ratio_tolerance(self.binding_clip_range)

    @property
    def trained_steps(self) -> int:
        """Denoising steps in the window."""
        return self.window.length

    @property
    def recorded_latents(self) -> int:
        """Latents before each trained denoising step and after the last one, and means of steps."""
        # Consecutive steps share a latent: the result of one is the input of the next.
        return self.window.length + 1 + (self.window.length if self.records_means else 0)

    @property
    def records_means(self) -> bool:
        """Whether the loss needs the means of the steps at sampling."""
        return self.divergence_bound is not None or self.normalize_ratio

    def extra_passes(self, optimizer_steps: int) -> float:
        """One of the base policy, if the divergence from it counts."""
        del optimizer_steps
        return float(self.kl_weight > 0)

    def rollout_passes(self, num_inference_steps: int, *, guided: int) -> tuple[float, float]:
        """Return the shared and the other passes of an image in a rollout; see the base class."""
        fast, length = self.fast_sampling, self.window.length

        def passes(positions: Iterable[float]) -> int:
            return sum(
                guided if fast.is_guided(each, num_inference_steps) else 1 for each in positions
            )

        before = mean(passes(range(start)) for start in self.window.starts)
        tails = (fast.tail(start + length, num_inference_steps) for start in self.window.starts)
        after = self.trained_passes(num_inference_steps, guided=guided) + mean(map(passes, tails))
        return (before, after) if self.shared_prefix else (0.0, before + after)

    def trained_passes(self, num_inference_steps: int, *, guided: int) -> float:
        """Return the passes of an image in the window; see the base class."""
        steps = (start + step for start in self.window.starts for step in range(self.window.length))
        share = mean(self.fast_sampling.is_guided(each, num_inference_steps) for each in steps)
        return self.window.length * (1 + (guided - 1) * share)

    def check_sampling(self, num_inference_steps: int, *, guided: bool) -> None:
        """Raise ValueError if the window does not end before the last denoising step.

        Or if a cheaper step has no effect.
        """
        # The last step's noise is almost nothing; its log-prob would drown all others.
        last = num_inference_steps - 1
        if self.window.end > last:
            raise ValueError(
                f"training.algorithm.window ends after denoising step {self.window.end}, but of "
                f"training.sampling.num_inference_steps={num_inference_steps} only the first "
                f"{last} can be trained (the last one is nearly noiseless): start the window "
                "earlier, shorten it, or take more denoising steps"
            )
        end = self.window.end
        self.fast_sampling.check(num_inference_steps, window_end=end, guided=guided)


class OldPolicyConfig(Section):
    """How slowly the old policy follows the trained one: `min(growth * (s - flat), limit)`.

    `s` counts optimizer steps; a decay of 0 replaces the old policy by the trained one.
    """

    # The values of the published runs on SD3.5, except OCR's: 75, 0.0075 and 0.999.
    flat_steps: NonNegativeInt = 0
    """Optimizer steps with a decay of 0."""

    growth: NonNegativeFloat = 0.001
    """Growth of the decay with each optimizer step."""

    # Below 1, at which the old policy would stay as it is.
    limit: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Largest decay."""


class MatchingConfig(AlgorithmConfig, ABC):
    """Settings that algorithms on the forward process share: losses on noised copies of images."""

    # Published runs take 6 (AWM) and 9 (NFT) of 10 to 14; two cost as much as GRPO's window.
    draws: PositiveInt = 2
    """Sigmas that an update trains at, one from each of so many equal parts of the schedule, the
    same for all images. Each also needs a pass of the policy that generated the images, which `nft`
    leaves out while that policy has the trained one's weights."""

    advantage_clip: PositiveFloat = 5.0
    """Advantages are clamped to plus and minus this; for `nft`, an image there is certainly good or
    bad, and the probability is linear in between."""

    # 1e-4 in published runs.
    kl_weight: NonNegativeFloat = 0.0
    """Weight of the mean squared distance from the base policy's velocity."""

    @property
    def trained_steps(self) -> int:
        """Draws of sigma and noise."""
        return self.draws

    @property
    def recorded_latents(self) -> int:
        """The clean latents."""
        return 1

    def extra_passes(self, optimizer_steps: int) -> float:
        """One of the policy before the update, and one of the base policy if it counts."""
        del optimizer_steps
        return 1.0 + float(self.kl_weight > 0)

    def check_sampling(self, num_inference_steps: int, *, guided: bool) -> None:
        """Raise ValueError if the schedule has fewer sigmas than are drawn, or guidance is on."""
        # The loss is on the velocity itself; guided images are not those of that velocity.
        if guided:
            raise ValueError(
                f"training.algorithm={{type: {self.type}}} trains without classifier-free "
                "guidance, but training.sampling.guidance_scale switches it on: set it to 1, for "
                "Z-Image to 0"
            )
        if self.draws > num_inference_steps:
            raise ValueError(
                f"training.algorithm.draws={self.draws}: must not exceed "
                f"training.sampling.num_inference_steps={num_inference_steps}, because each draw "
                "takes another sigma of the schedule"
            )


class NftConfig(MatchingConfig):
    """DiffusionNFT: forward-process matching that contrasts good images with bad ones."""

    type: Literal["nft"] = "nft"

    beta: PositiveFloat = 1.0
    """How far the implicit positive and negative policies lie from the old policy, in multiples of
    the distance to the trained one."""

    old_policy: OldPolicyConfig = OldPolicyConfig()
    """The policy that generates the images: a moving average of the trained one."""

    # Above the effect of bfloat16; a transformer with dropout is far above.
    contrast_tolerance: PositiveFloat = 1e-2
    """Largest relative difference of the velocities of old and trained policy that is accepted
    while their weights are equal."""

    @property
    def learns_from_any_image(self) -> bool:
        """Whether its losses may be computed on images of another policy or model: they may."""
        return True

    @property
    def adapter_copies(self) -> int:
        """The old policy's."""
        return 1

    def extra_passes(self, optimizer_steps: int) -> float:
        """One of the old policy where its weights differ, and one of the base policy if it counts.

        The first optimizer step of a rollout does without the old policy's pass if that follows the
        trained one at once.
        """
        passes = super().extra_passes(optimizer_steps)
        return passes if self.old_policy.growth else passes - 1 / optimizer_steps


class AwmConfig(MatchingConfig):
    """AWM, advantage-weighted matching: minus the matching error takes the log-probability's place.

    The policy loss is GRPO's.
    """

    type: Literal["awm"] = "awm"

    # As released: only a run of several optimizer steps per rollout leaves it, if at all.
    clip_range: PositiveFloat = 1.0
    """A ratio further than this from 1 gives no more gradient in its direction."""

    ratio_tolerance: PositiveFloat | None = None
    """Largest |ratio - 1| that is accepted before the first optimizer step on a rollout. Default:
    half of `clip_range`, but at most 1e-3."""

    @property
    def accepted_ratio_error(self) -> float:
        """The tolerance, or its default."""
        return self.ratio_tolerance or _default_ratio_tolerance(self.clip_range)


AnyAlgorithmConfig = Annotated[GrpoConfig | NftConfig | AwmConfig, Field(discriminator="type")]
"""Settings of any algorithm."""
