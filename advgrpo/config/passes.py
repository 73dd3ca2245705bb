"""Forward passes of a rollout, as planning and the throughput meter count them."""

from advgrpo.config.policy import PolicyConfig
from advgrpo.config.rollout import RolloutConfig
from advgrpo.config.training import TrainingConfig


def rollout_passes(policy: PolicyConfig, training: TrainingConfig) -> float:
    """Return the forward passes of a rollout over all GPUs, the mean if the window is random.

    Images of a group in one microbatch may share their first denoising steps.
    """
    sampling, rollout = training.sampling, training.rollout
    shared, own = training.algorithm.rollout_passes(
        sampling.num_inference_steps, guided=policy.guidance_passes(sampling.guidance_scale)
    )
    return _leaders(rollout) * shared + rollout.images * own


def trained_passes(policy: PolicyConfig, training: TrainingConfig) -> float:
    """Return the forward passes of an image in an update, the mean if the window is random."""
    sampling = training.sampling
    return training.algorithm.trained_passes(
        sampling.num_inference_steps, guided=policy.guidance_passes(sampling.guidance_scale)
    )


def _leaders(rollout: RolloutConfig) -> int:
    """Return the number of groups in each microbatch, summed over the microbatches of a rollout."""
    # The images of an optimizer step on each GPU are consecutive and form whole microbatches.
    # A group that spans two microbatches has a leader in each.
    size, group = rollout.microbatch, rollout.group_size
    return sum(
        (first + size - 1) // group - first // group + 1 for first in range(0, rollout.images, size)
    )
