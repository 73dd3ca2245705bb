"""Separation of generated images from reference images, by a reward or by a critic.

Both are the share of pairs of a reference and a generated image of one prompt in which the
reference image has the higher value: 1 for perfect separation, 0.5 at chance level, below 0.5 if
generated images are preferred.
"""

import torch
from jaxtyping import Float
from torch import Tensor

FOLDS = 4
RIDGE = 0.03
"""Ridge penalty of the critic's weights, relative to the variance of a feature."""


def share_in_order(
    generated: Float[Tensor, "prompt"], reference: Float[Tensor, "prompt variation"]
) -> float:
    """Return the share of pairs in which the reference image has the higher value; ties count half.

    Args:
        generated: A value of one image of each prompt.
        reference: Values of reference images of the same prompts.
    """
    above = reference - generated[:, None]
    # The area under the ROC curve within a prompt, where prompts do not confound it.
    return float((above > 0).double().mean() + (above == 0).double().mean() / 2)


def fresh_critic_order(
    generated: Float[Tensor, "prompt feature"],
    reference: Float[Tensor, "prompt variation feature"],
) -> float:
    """Cross-validate a new linear critic, and return how well it orders unseen images.

    The critic is fitted by ridge regression to features of a frozen backbone; each fold of the
    prompts is ordered by a critic that was fitted on the others. The policy cannot have learned to
    exploit it, because it never was a reward.

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
        raise ValueError("a critic needs at least two prompts: one to fit and one to test")
    # Float64, because normal equations square the condition number of the features.
    generated, reference = generated.double().cpu(), reference.double().cpu()
    # With fewer prompts than folds, each fold is one prompt.
    fold = torch.arange(prompts) % min(FOLDS, prompts)
    generated_values = torch.empty(prompts, dtype=torch.float64)
    reference_values = torch.empty(reference.shape[:2], dtype=torch.float64)
    for number in range(int(fold.max()) + 1):
        test = fold == number
        # Split by prompt: with images of a prompt on both sides, the critic could recognize the
        # prompt.
        critic = _Critic(generated[~test], reference[~test].flatten(0, 1))
        generated_values[test] = critic.values(generated[test])
        reference_values[test] = critic.values(reference[test])
    return share_in_order(generated_values, reference_values)


class _Critic:
    """A direction in feature space along which reference images have higher values."""

    def __init__(
        self,
        generated: Float[Tensor, "image feature"],
        reference: Float[Tensor, "reference_image feature"],
    ) -> None:
        images = torch.cat([generated, reference])
        # The clamp avoids a division by zero for constant features.
        self._mean, self._scale = images.mean(dim=0), images.std(dim=0).clamp_min(1e-9)
        features = self._normal(images)
        # Balances the classes: there are usually more reference images than generated ones.
        n, m = len(generated), len(reference)
        weights = torch.tensor([[0.5 / n]] * n + [[0.5 / m]] * m, dtype=torch.float64)
        goals = torch.tensor([-1.0] * n + [1.0] * m, dtype=torch.float64)
        # Normal equations; the ridge makes them solvable with more features than images.
        weighted = (weights * features).T
        ridge = RIDGE * torch.eye(features.shape[1], dtype=torch.float64)
        self._direction = torch.linalg.solve(weighted @ features + ridge, weighted @ goals)

    def values(self, features: Float[Tensor, "*images feature"]) -> Float[Tensor, "*images"]:
        """Score images: higher is more like a reference image."""
        values: Tensor = self._normal(features) @ self._direction
        return values

    def _normal(self, features: Tensor) -> Tensor:
        return (features - self._mean) / self._scale
