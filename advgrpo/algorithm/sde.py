"""A denoising step as a Gaussian: sampled in the rollout, scored in the update.

Deviations from the released code: the log-prob `gaussian` keeps `1 / (2 std^2)` and the constants,
which the released one drops; latents are scored as they are stored.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

Latents = Float[Tensor, "batch channel height width"]


@dataclass(frozen=True)
class GaussianStep:
    """Distribution of the next latents."""

    mean: Latents
    std: float
    """Standard deviation of each element; 0 for a step of the ODE."""


def follow_ode(
    velocity: Callable[[Latents, float], Latents], latents: Latents, sigmas: Sequence[float]
) -> Latents:
    """Integrate the ODE from noise to image by Euler steps.

    Args:
        velocity: Predicts noise minus image at latents and a sigma.
        latents: At the first sigma, float32.
        sigmas: The schedule, decreasing.
    """
    for sigma, next_sigma in pairwise(sigmas):
        latents = euler_step(latents, velocity(latents, sigma), sigma=sigma, next_sigma=next_sigma)
    return latents


def euler_step(latents: Latents, velocity: Latents, *, sigma: float, next_sigma: float) -> Latents:
    """Follow the ODE to the next sigma.

    Args:
        latents: At `sigma`.
        velocity: Predicted noise minus image.
        sigma: In (0, 1].
        next_sigma: In [0, sigma).
    """
    return latents + (next_sigma - sigma) * velocity


def cps_step(
    latents: Latents, velocity: Latents, *, sigma: float, next_sigma: float, noise_level: float
) -> GaussianStep:
    """Return the step that replaces part of the remaining noise by fresh noise of the same total.

    `mean = (1 - s') * image_hat + s' * cos(eta pi/2) * noise_hat`, `std = s' * sin(eta pi/2)`.

    Args:
        latents: At `sigma`.
        velocity: Predicted noise minus image.
        sigma: In (0, 1].
        next_sigma: s', in [0, sigma).
        noise_level: eta, in [0, 1]; 0 gives the Euler step of the ODE.

    Source:
        Coefficients-Preserving Sampling, arXiv:2509.05952.
    """
    # Inverts `latents = (1 - sigma) * image + sigma * noise` with `velocity = noise - image`.
    image = latents - sigma * velocity
    noise = latents + (1 - sigma) * velocity
    angle = noise_level * math.pi / 2
    mean = (1 - next_sigma) * image + next_sigma * math.cos(angle) * noise
    # cos² + sin² = 1: the total noise is that of the schedule at `next_sigma`, for any noise level.
    return GaussianStep(mean=mean, std=next_sigma * math.sin(angle))


def flow_sde_step(
    latents: Latents,
    velocity: Latents,
    *,
    sigma: float,
    next_sigma: float,
    noise_level: float,
    largest_sigma_below_one: float,
) -> GaussianStep:
    """Return the step of the SDE that has the marginals of the ODE.

    `g = eta * sqrt(s / (1 - s))`, `mean = x (1 + g^2 dt / 2s) + v (1 + g^2 (1-s) / 2s) dt`,
    `std = g sqrt(-dt)`.

    Args:
        latents: At `sigma`.
        velocity: Predicted noise minus image.
        sigma: s, in (0, 1].
        next_sigma: In [0, sigma).
        noise_level: eta, above 0.
        largest_sigma_below_one: Replaces s in the denominator of g where s is 1.

    Source:
        Flow-GRPO, arXiv:2505.05470, equation 9.
    """
    dt = next_sigma - sigma
    # At sigma 1, pure noise, the denominator of g is zero.
    below_one = largest_sigma_below_one if sigma >= 1 else sigma
    g_squared = noise_level**2 * sigma / (1 - below_one)
    mean = (
        latents * (1 + g_squared * dt / (2 * sigma))
        + velocity * (1 + g_squared * (1 - sigma) / (2 * sigma)) * dt
    )
    # dt is negative, because sigma falls.
    return GaussianStep(mean=mean, std=math.sqrt(g_squared * -dt))


def gaussian_log_prob(next_latents: Latents, step: GaussianStep) -> Float[Tensor, "batch"]:
    """Return the log-density of next latents, averaged over the elements of an image.

    Args:
        next_latents: As stored, float32.
        step: Distribution that they were drawn from, or that of the present policy; std above 0.
    """
    # A mean over the elements: with a sum, ratios and their clip range would depend on the size of
    # the image.
    squared = ((next_latents - step.mean) ** 2).mean(dim=(1, 2, 3))
    # The last two terms cancel in a ratio; they are kept so that this is the density itself.
    return -squared / (2 * step.std**2) - math.log(step.std) - 0.5 * math.log(2 * math.pi)


def released_log_prob(next_latents: Latents, step: GaussianStep) -> Float[Tensor, "batch"]:
    """Return the score of the released code: minus the mean squared distance to the mean."""
    return -((next_latents - step.mean) ** 2).mean(dim=(1, 2, 3))


def gaussian_divergence(mean: Latents, base_mean: Latents, *, std: float) -> Float[Tensor, "batch"]:
    """Return the divergence of two steps of equal std: squared distance of means over `2 std^2`.

    Averaged over the elements of an image.

    Source:
        Flow-GRPO, arXiv:2505.05470, equation 13.
    """
    return ((mean - base_mean) ** 2).mean(dim=(1, 2, 3)) / (2 * std**2)


def draw(step: GaussianStep, noise: Latents) -> Latents:
    """Sample next latents with the given standard normal noise."""
    return torch.add(step.mean, noise, alpha=step.std)
