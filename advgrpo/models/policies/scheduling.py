"""Noise schedules of pipelines that start from evenly spaced sigmas."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from advgrpo.errors import ConfigError


def scheduler_sigmas(
    scheduler: Any,  # noqa: ANN401 - diffusers has no types
    num_inference_steps: int,
    *,
    mu: float,
) -> Float[Tensor, "step_plus_one"]:
    """Return the sigmas that a model's own scheduler gives, with its kind of shift.

    Args:
        scheduler: A `FlowMatchEulerDiscreteScheduler`; its state is overwritten.
        num_inference_steps: Number of steps.
        mu: Logarithm of the shift, which a scheduler with a static shift ignores.

    Returns:
        Float32, falling from 1 to exactly 0.

    Raises:
        ConfigError: If the schedule does not exist for this number of steps.
    """
    uniform = np.linspace(1.0, 1 / num_inference_steps, num_inference_steps)
    # A schedule of one step cannot be stretched to a last sigma: the scheduler divides by zero.
    with np.errstate(divide="ignore", invalid="ignore"):
        scheduler.set_timesteps(sigmas=uniform, mu=mu)
    sigmas: Tensor = scheduler.sigmas
    if not bool(torch.all(sigmas.diff() < 0)):
        raise ConfigError(
            f"num_inference_steps={num_inference_steps}: the scheduler of "
            "policy.weights has no such schedule",
            repair="set it to 2 or more",
        )
    return sigmas


def shift_of_tokens(settings: Any, tokens: int) -> float:  # noqa: ANN401
    """Return the logarithm of a shift that grows linearly with the number of image tokens.

    Args:
        settings: Of the scheduler.
        tokens: Of one image.

    Source:
        arXiv:2403.03206, section 5.3.2; the line is that of FLUX.1.
    """
    # The defaults of diffusers' pipelines, for schedulers that were saved without these keys.
    first, last = settings.get("base_image_seq_len", 256), settings.get("max_image_seq_len", 4096)
    low, high = settings.get("base_shift", 0.5), settings.get("max_shift", 1.15)
    return float(low + (high - low) * (tokens - first) / (last - first))
