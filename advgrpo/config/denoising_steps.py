"""Settings of trained denoising steps: how they draw noise, and which they are."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from advgrpo.config.base import Fraction, NonNegativeInt, PositiveFloat, PositiveInt, Section


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
    def starts(self) -> range:
        """The possible first trained denoising steps, of which each is as frequent."""
        return range(self.start, self.start + 1)


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
    def starts(self) -> range:
        """The possible first trained denoising steps, of which each is as frequent."""
        return range(self.first_start, self.last_start + 1)


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


Window = Annotated[FixedWindow | RandomWindow | SlidingWindow, Field(discriminator="type")]


class FastSamplingConfig(Section):
    """Cheaper denoising steps of rollouts; they change results. docs/experiments.md counts them."""

    guidance_interval: tuple[Fraction, Fraction] = (0.0, 1.0)
    """Part of the denoising steps, from 0 at noise to 1 at the image, in which rollout and update
    are guided; a step outside of it takes one pass instead of two. Held-out metrics and evaluation
    guide every step. arXiv:2404.07724."""

    tail_steps: PositiveInt | None = None
    """Second-order steps (DPM-Solver++) that replace all denoising steps after the window, which
    only finish the image that is rewarded. arXiv:2507.21802."""

    def is_guided(self, position: float, num_inference_steps: int) -> bool:
        """Return whether a step is guided, if the sampling is.

        Args:
            position: The denoising step; between two of them in a tail.
            num_inference_steps: Denoising steps without a tail.
        """
        first, last = self.guidance_interval
        # Rounded, because 0.07 * 100 is larger than 7.
        return (
            round(first * num_inference_steps, 6) <= position < round(last * num_inference_steps, 6)
        )

    def tail(self, window_end: int, num_inference_steps: int) -> list[float]:
        """Return the positions of the denoising steps after a window, evenly spaced."""
        steps = num_inference_steps - window_end
        count = self.tail_steps or steps
        return [window_end + step * steps / count for step in range(count)]

    def check(self, num_inference_steps: int, *, window_end: int, guided: bool) -> None:
        """Raise ValueError if a setting would have no effect or leave nothing to do.

        Args:
            num_inference_steps: Denoising steps.
            window_end: One past the last denoising step that can be trained.
            guided: Whether classifier-free guidance is on.
        """
        interval, where = list(self.guidance_interval), "training.algorithm.fast_sampling"
        if interval != sorted(set(interval)):
            raise ValueError(
                f"{where}.guidance_interval={interval}: does not start before it ends; the first "
                "number must be the smaller one"
            )
        if interval != [0, 1] and not guided:
            raise ValueError(
                f"{where}.guidance_interval={interval}: training.sampling.guidance_scale switches "
                "guidance off in all denoising steps; raise it, or remove the interval"
            )
        if not any(self.is_guided(s, num_inference_steps) for s in range(num_inference_steps)):
            raise ValueError(
                f"{where}.guidance_interval={interval}: contains none of the {num_inference_steps} "
                "denoising steps; widen it, or switch guidance off with "
                "training.sampling.guidance_scale"
            )
        after = num_inference_steps - window_end
        if self.tail_steps is not None and self.tail_steps > after:
            raise ValueError(
                f"{where}.tail_steps={self.tail_steps}: a window may end {after} denoising steps "
                "before the image, so a longer tail saves nothing; lower it, or remove it"
            )
