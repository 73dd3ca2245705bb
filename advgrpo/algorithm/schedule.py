"""The noise schedule: `x_sigma = (1 - sigma) * image + sigma * noise`."""

import torch
from jaxtyping import Float
from torch import Tensor


def flow_match_sigmas(
    num_inference_steps: int, *, shift: float, training_steps: int = 1000
) -> Float[Tensor, "step_plus_one"]:
    """Return the sigmas of flow matching with a shift that depends on no resolution.

    Args:
        num_inference_steps: Number of steps, at least 1.
        shift: Shift towards noise; 1 for none.
        training_steps: Steps of the schedule that the model was trained with.

    Returns:
        Float32, falling from 1 to exactly 0. The last sigma before 0 is shifted twice, as in the
        sampler of the public checkpoints.

    Raises:
        ValueError: If there is not a single step.

    Source:
        arXiv:2403.03206, section 5.3.2.
    """
    if num_inference_steps < 1:
        raise ValueError(f"num_inference_steps={num_inference_steps}: at least one step is needed")

    def shifted(u: Tensor) -> Tensor:
        return shift * u / (1 + (shift - 1) * u)

    # In float64, so that sigmas are rounded only once, at the end.
    lowest = shifted(torch.tensor(1 / training_steps, dtype=torch.float64))
    # From a shifted value, and shifted again below: a quirk of diffusers that the public
    # checkpoints were sampled with. For a single step, linspace returns its start.
    uniform = torch.linspace(1.0, float(lowest), num_inference_steps, dtype=torch.float64)
    return torch.cat([shifted(uniform), torch.zeros(1, dtype=torch.float64)]).float()


def window_start(first: int, last: int, *, generator: torch.Generator) -> int:
    """Draw the first trained denoising step of an update, uniformly from first to last inclusive.

    Args:
        first: Earliest.
        last: Latest.
        generator: Seeded from (run seed, update), so that all images and ranks share the window.
    """
    # randint excludes its upper end.
    return int(torch.randint(first, last + 1, (1,), generator=generator))
