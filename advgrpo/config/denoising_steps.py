"""Settings of trained denoising steps: how they draw noise, and which they are."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from advgrpo.config.base import NonNegativeInt, PositiveFloat, PositiveInt, Section


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


class SlidingWindow(Section):
    """The trained denoising steps move from early to late ones, again and again."""

    type: Literal["sliding"] = "sliding"

    first_start: NonNegativeInt = 0
    """First trained denoising step of the earliest window."""

    last_start: NonNegativeInt = 4
    """First trained denoising step of the latest window, at most."""

    # The published values, with windows of 4 of 25 steps.
    stride: PositiveInt = 1
    """Denoising steps by which the window moves."""

    rollouts_per_position: PositiveInt = 25
    """Rollouts before the window moves; after its latest position it starts from the earliest."""

    length: PositiveInt = 2
    """Number of trained denoising steps."""

    @model_validator(mode="after")
    def _has_a_position(self) -> Self:
        if self.last_start < self.first_start:
            raise ValueError(
                f"last_start={self.last_start} is before first_start={self.first_start}: raise it"
            )
        return self

    @property
    def starts(self) -> range:
        """First trained denoising step of each position, in order."""
        return range(self.first_start, self.last_start + 1, self.stride)

    @property
    def end(self) -> int:
        """One past the last denoising step that can be trained."""
        return self.starts[-1] + self.length

    @property
    def mean_start(self) -> float:
        """First trained denoising step, on average over positions."""
        return sum(self.starts) / len(self.starts)


Window = Annotated[FixedWindow | RandomWindow | SlidingWindow, Field(discriminator="type")]
