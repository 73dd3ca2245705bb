"""How well images are told from reference images of the same prompts, by a reward or by a critic.

Both are the share of pairs of a reference image and a generated image of one prompt in which the
reference image is put first: 1 where it always is, 0.5 where nothing tells the two apart, below 0.5
where the generated image is preferred.
"""

import torch
from jaxtyping import Float
from torch import Tensor

FOLDS = 4
RIDGE = 0.03
"""Pull of the critic's weights towards 0, in variances of a feature."""


def share_in_order(
    generated: Float[Tensor, "prompt"], reference: Float[Tensor, "prompt variation"]
) -> float:
    """Count the pairs in which the reference image has the higher value; equal ones count half.

    Args:
        generated: A value of one image of each prompt.
        reference: Values of reference images of the same prompts.
    """
    above = reference - generated[:, None]
    return float((above > 0).double().mean() + (above == 0).double().mean() / 2)


def fresh_critic_order(
    generated: Float[Tensor, "prompt feature"],
    reference: Float[Tensor, "prompt variation feature"],
) -> float:
    """Train a critic on the spot and tell how well it orders images that it has not seen.

    The critic is linear, fitted by regularized least squares to features of a frozen backbone. The
    prompts are dealt into folds; each fold is ordered by a critic of the others. A policy cannot
    have learnt to fool it, since it never gave a reward.

    Args:
        generated: Features of one image of each prompt.
        reference: Features of reference images of the same prompts.

    Returns:
        Share of pairs in order.

    Raises:
        ValueError: If there are fewer than two prompts.
    """
    prompts = len(generated)
    if prompts < 2:
        raise ValueError("a critic needs a prompt to learn from and another one to judge")
    generated, reference = generated.double().cpu(), reference.double().cpu()
    fold = torch.arange(prompts) % min(FOLDS, prompts)
    generated_values = torch.empty(prompts, dtype=torch.float64)
    reference_values = torch.empty(reference.shape[:2], dtype=torch.float64)
    for number in range(int(fold.max()) + 1):
        judged = fold == number
        critic = _Critic(generated[~judged], reference[~judged].flatten(0, 1))
        generated_values[judged] = critic.values(generated[judged])
        reference_values[judged] = critic.values(reference[judged])
    return share_in_order(generated_values, reference_values)


class _Critic:
    """A direction in feature space along which reference images lie higher."""

    def __init__(
        self,
        generated: Float[Tensor, "image feature"],
        reference: Float[Tensor, "reference_image feature"],
    ) -> None:
        images = torch.cat([generated, reference])
        self._mean, self._scale = images.mean(dim=0), images.std(dim=0).clamp_min(1e-9)
        features = self._normal(images)
        # Each kind counts half, however many images there are of it.
        n, m = len(generated), len(reference)
        weights = torch.tensor([[0.5 / n]] * n + [[0.5 / m]] * m, dtype=torch.float64)
        goals = torch.tensor([-1.0] * n + [1.0] * m, dtype=torch.float64)
        weighted = (weights * features).T
        ridge = RIDGE * torch.eye(features.shape[1], dtype=torch.float64)
        self._direction = torch.linalg.solve(weighted @ features + ridge, weighted @ goals)

    def values(self, features: Float[Tensor, "*images feature"]) -> Float[Tensor, "*images"]:
        """Score images: higher is more like a reference image."""
        values: Tensor = self._normal(features) @ self._direction
        return values

    def _normal(self, features: Tensor) -> Tensor:
        return (features - self._mean) / self._scale
