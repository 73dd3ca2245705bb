"""Losses of discriminators that separate generated images from reference images."""

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from jaxtyping import Float
from torch import Tensor


def hinge_loss(
    reference_logits: Float[Tensor, "..."],
    generated_logits: Float[Tensor, "..."],
) -> Float[Tensor, ""]:
    """Push reference logits above 1 and generated logits below -1.

    `0.5 * (E relu(1 - h(reference)) + E relu(1 + h(generated)))`.

    Source:
        Geometric GAN, arXiv:1705.02894; Adv-GRPO, arXiv:2511.20256.
    """
    # Each kind has its own mean, so that the loss does not depend on their numbers.
    return 0.5 * (F.relu(1 - reference_logits).mean() + F.relu(1 + generated_logits).mean())


def conditional_hinge_loss(
    reference_logits: Float[Tensor, "..."],
    generated_logits: Float[Tensor, "..."],
    mismatched_logits: Float[Tensor, "..."],
    *,
    mismatched_fraction: float,
) -> Float[Tensor, ""]:
    """Hinge loss that also has reference images with wrong prompts among its negatives.

    Args:
        reference_logits: Reference images with their own prompts.
        generated_logits: Generated images with their own prompts.
        mismatched_logits: Reference images with other prompts.
        mismatched_fraction: Weight of mismatched images among the negatives, in [0, 1].

    Source:
        The matching-aware discriminator of arXiv:1605.05396, with the hinge of arXiv:1705.02894.
    """
    # The two weights sum to 1, so that positives and negatives stay balanced.
    negatives = (1 - mismatched_fraction) * F.relu(1 + generated_logits).mean()
    negatives = negatives + mismatched_fraction * F.relu(1 + mismatched_logits).mean()
    return 0.5 * (F.relu(1 - reference_logits).mean() + negatives)


def gradient_penalty(
    reference_logits: Float[Tensor, "batch token"], tokens: Float[Tensor, "batch token width"]
) -> Float[Tensor, ""]:
    """R1 penalty: half the mean squared gradient of a reference token's logit, `0.5 E |dh/dx|^2`.

    The gradient is taken with respect to the head's input, a token of the frozen backbone, not with
    respect to pixels.

    Args:
        reference_logits: Of reference images; each depends only on its own token.
        tokens: Inputs of the logits; they must require a gradient.

    Source:
        arXiv:1801.04406; at the input of each head as in ADD, arXiv:2311.17042.
    """
    # As each logit depends on its own token only, the gradient of the sum holds that of each.
    (gradient,) = torch.autograd.grad(reference_logits.sum(), tokens, create_graph=True)
    return 0.5 * gradient.square().sum(dim=-1).mean()


def pairwise_loss(
    reference_scores: Float[Tensor, "batch"], generated_scores: Float[Tensor, "batch"]
) -> Float[Tensor, ""]:
    """Prefer the reference image of each prompt: `-log sigmoid(reference - generated)`.

    Source:
        Bradley-Terry; Adv-GRPO, arXiv:2511.20256, released code.
    """
    # logsigmoid, because log(sigmoid(x)) is -inf for a large negative x.
    return -F.logsigmoid(reference_scores - generated_scores).mean()
