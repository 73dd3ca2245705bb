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

    def check_sampling(self, num_inference_steps: int) -> None:
        """Raise ValueError if a rollout of so many denoising steps does not suit the algorithm."""


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

    def check_sampling(self, num_inference_steps: int) -> None:
        """Raise ValueError if the window does not end before the last denoising step."""
        # The last step's noise is almost nothing; its log-prob would drown all others.
        last = num_inference_steps - 1
        if self.window.end > last:
            raise ValueError(
                f"training.algorithm.window ends after denoising step {self.window.end}, but of "
                f"training.sampling.num_inference_steps={num_inference_steps} only the first "
                f"{last} can be trained (the last one is nearly noiseless): start the window "
                "earlier, shorten it, or take more denoising steps"
            )


AnyAlgorithmConfig = GrpoConfig
"""Settings of any algorithm. pydantic refuses a discriminated union of one; with a second member it
is `Annotated[GrpoConfig | OtherConfig, Field(discriminator="type")]`."""
