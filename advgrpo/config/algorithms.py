"""Settings of the RL algorithms, one section each."""

from abc import ABC, abstractmethod
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from advgrpo.config.base import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
)


class AlgorithmConfig(Section, ABC):
    """Settings of an RL algorithm: what planning and the loop need to know of any."""

    type: str

    @property
    @abstractmethod
    def trained_steps(self) -> int:
        """Backward passes of one image in an update."""

    @property
    @abstractmethod
    def recorded_latents(self) -> int:
        """Latents of one image that a rollout records."""

    @property
    def extra_passes(self) -> int:
        """Forward passes without gradient that each trained step needs besides its own."""
        return 0

    @property
    def shared_steps(self) -> float:
        """First denoising steps that images of a group share in a rollout, on average."""
        return 0.0

    @property
    def adapter_copies(self) -> int:
        """Copies of the adapter that the algorithm keeps, on each GPU and in a checkpoint."""
        return 0

    def check_sampling(self, num_inference_steps: int, *, guided: bool) -> None:
        """Raise ValueError if the sampling of rollouts does not suit the algorithm.

        Args:
            num_inference_steps: Denoising steps.
            guided: Whether classifier-free guidance is on.
        """


class CpsSampler(Section):
    """Coefficients-preserving sampling, arXiv:2509.05952."""

    type: Literal["cps"] = "cps"

    # Not 0: a step without noise has no log-probability. 0.8 is the released value.
    noise_level: Annotated[float, Field(gt=0, le=1)] = 0.8
    """0 is the ODE; 1 replaces all of a step's noise."""


class FlowSdeSampler(Section):
    """The stochastic sampler of Flow-GRPO, arXiv:2505.05470."""

    type: Literal["flow_sde"] = "flow_sde"

    # The value of Flow-GRPO.
    noise_level: PositiveFloat = 0.7
    """Multiple of the noise that keeps the marginals of the ODE."""


Sampler = Annotated[CpsSampler | FlowSdeSampler, Field(discriminator="type")]


class FixedWindow(Section):
    """The same denoising steps are trained in every update."""

    type: Literal["fixed"] = "fixed"

    # The released window; the paper draws two steps of the first half.
    start: NonNegativeInt = 0
    """First trained denoising step."""

    length: PositiveInt = 2
    """Number of trained denoising steps."""

    @property
    def end(self) -> int:
        """One past the last denoising step that can be trained."""
        return self.start + self.length

    @property
    def mean_start(self) -> float:
        """First trained denoising step, on average over updates."""
        return float(self.start)


class RandomWindow(Section):
    """The trained denoising steps are drawn for each update, the same for all images."""

    type: Literal["random"] = "random"

    first_start: NonNegativeInt = 0
    """Earliest first trained denoising step."""

    last_start: NonNegativeInt = 4
    """Latest first trained denoising step."""

    # The same length in every update, so that planning knows the number of passes.
    length: PositiveInt = 2
    """Number of trained denoising steps."""

    @model_validator(mode="after")
    def _starts_are_in_order(self) -> Self:
        if self.first_start > self.last_start:
            raise ValueError(
                f"first_start={self.first_start} is after last_start={self.last_start}, so no "
                "denoising step can be drawn: lower first_start, or raise last_start"
            )
        return self

    @property
    def end(self) -> int:
        """One past the last denoising step that can be trained."""
        return self.last_start + self.length

    @property
    def mean_start(self) -> float:
        """First trained denoising step, on average over updates."""
        # Each start is equally likely.
        return (self.first_start + self.last_start) / 2


Window = Annotated[FixedWindow | RandomWindow, Field(discriminator="type")]


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

    # The released value. Latents are stored in float32, because rounding them to bfloat16 changes
    # a ratio by 2e-5.
    clip_range: PositiveFloat = 1e-5
    """A ratio further than this from 1 gives no more gradient in its direction."""

    # The released form omits `1 / (2 std^2)`, so a clip range has another meaning at each step.
    log_prob: Literal["gaussian", "released"] = "gaussian"
    """The mean log-density, or the negative squared distance of the released code."""

    kl_weight: NonNegativeFloat = 0.0
    """Weight of the divergence from the base policy."""

    advantage_clip: PositiveFloat = 5.0
    """Advantages are clamped to plus and minus this."""

    # Above the effect of another microbatch size in bfloat16, 2e-4.
    ratio_tolerance: PositiveFloat = 1e-3
    """Largest |ratio - 1| that is accepted before the first optimizer step on a rollout."""

    @property
    def trained_steps(self) -> int:
        """Denoising steps in the window."""
        return self.window.length

    @property
    def recorded_latents(self) -> int:
        """Latents before each trained denoising step, and after the last one."""
        # Consecutive steps share a latent: the result of one is the input of the next.
        return self.window.length + 1

    @property
    def extra_passes(self) -> int:
        """One of the base policy, if the divergence from it counts."""
        return int(self.kl_weight > 0)

    @property
    def shared_steps(self) -> float:
        """Denoising steps before the window, if the images of a group share them."""
        return self.window.mean_start if self.shared_prefix else 0.0

    def check_sampling(self, num_inference_steps: int, *, guided: bool) -> None:
        """Raise ValueError if the window does not end before the last denoising step."""
        del guided
        # The last step's noise is almost nothing; its log-prob would drown all others.
        last = num_inference_steps - 1
        if self.window.end > last:
            raise ValueError(
                f"training.algorithm.window ends after denoising step {self.window.end}, but of "
                f"training.sampling.num_inference_steps={num_inference_steps} only the first "
                f"{last} can be trained (the last one is nearly noiseless): start the window "
                "earlier, shorten it, or take more denoising steps"
            )


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


class NftConfig(AlgorithmConfig):
    """DiffusionNFT: forward-process matching that contrasts good images with bad ones."""

    type: Literal["nft"] = "nft"

    # The published runs train on all but the last of ten; two cost as much as GRPO's window.
    draws: PositiveInt = 2
    """Sigmas of the sampling schedule that an update trains at, drawn without replacement, the same
    for all images. Each needs a forward pass of the old policy, too."""

    beta: PositiveFloat = 1.0
    """How far the implicit positive and negative policies lie from the old policy, in multiples of
    the distance to the trained one."""

    advantage_clip: PositiveFloat = 5.0
    """Advantage from which on an image is certainly good, and below minus which it is certainly
    bad; the probability of a good image is linear in between."""

    old_policy: OldPolicyConfig = OldPolicyConfig()
    """The policy that generates the images: a moving average of the trained one."""

    # 1e-4 in the published runs.
    kl_weight: NonNegativeFloat = 0.0
    """Weight of the mean squared distance from the base policy's velocity."""

    # Above the effect of bfloat16; a transformer with dropout is far above.
    contrast_tolerance: PositiveFloat = 1e-2
    """Largest relative difference of the velocities of old and trained policy that is accepted
    while their weights are equal."""

    @property
    def trained_steps(self) -> int:
        """Draws of sigma and noise."""
        return self.draws

    @property
    def recorded_latents(self) -> int:
        """The clean latents."""
        return 1

    @property
    def extra_passes(self) -> int:
        """One of the old policy, and one of the base policy if the distance from it counts."""
        return 1 + int(self.kl_weight > 0)

    @property
    def adapter_copies(self) -> int:
        """The old policy's."""
        return 1

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


AnyAlgorithmConfig = Annotated[GrpoConfig | NftConfig, Field(discriminator="type")]
"""Settings of any algorithm."""
