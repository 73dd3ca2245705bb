"""Rollouts: the images of one update, with what the algorithm recorded of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from advgrpo.algorithm.randomness import gaussian_noise
from advgrpo.algorithm.seeds import seed_for
from advgrpo.data.sampler import ImagePlan
from advgrpo.models.policies.base import FlowModel, Policy, PromptEmbeddings


@dataclass(frozen=True)
class Rollout:
    """This rank's share of a rollout; the leading axis of each tensor is the image."""

    number: int
    """Count of the run's rollouts before this one."""

    prompt_ids: Int[Tensor, "batch"]
    """Position of each image's prompt in the training prompts."""

    samples: Int[Tensor, "batch"]
    """Position of each image in its group."""

    images: Float[Tensor, "batch 3 height width"]
    """RGB in [0, 1]."""

    recorded: Mapping[str, Float[Tensor, "batch ..."]]
    """What the algorithm's losses need, by name; for instance latents."""

    def part(self, images: slice | Int[Tensor, "chosen"]) -> "Rollout":
        """Take some of the images."""
        return Rollout(
            number=self.number,
            prompt_ids=self.prompt_ids[images],
            samples=self.samples[images],
            images=self.images[images],
            recorded={name: values[images] for name, values in self.recorded.items()},
        )

    def without_pixels(self) -> "Rollout":
        """Drop the pixels, which only rewards need."""
        # Not a slice, which would keep their memory.
        return replace(self, images=self.images.new_zeros(len(self.images), 3, 0, 0))

    @staticmethod
    def joined(rollouts: Sequence["Rollout"]) -> "Rollout":
        """Concatenate rollouts that have equal sizes of images; the number is the first one's."""
        first = rollouts[0]
        return Rollout(
            number=first.number,
            prompt_ids=torch.cat([each.prompt_ids for each in rollouts]),
            samples=torch.cat([each.samples for each in rollouts]),
            images=torch.cat([each.images for each in rollouts]),
            recorded={
                name: torch.cat([each.recorded[name] for each in rollouts])
                for name in first.recorded
            },
        )


@dataclass(frozen=True)
class Sample:
    """A microbatch of a rollout before it is decoded."""

    latents: Float[Tensor, "batch channel height width"]
    """Clean latents."""

    recorded: Mapping[str, Float[Tensor, "batch ..."]]
    """What the algorithm's losses need, by name."""


Sampler = Callable[[Sequence[ImagePlan], PromptEmbeddings, int], Sample]
"""Denoises a microbatch: images, embeddings of their prompts, count of rollouts before."""


@torch.no_grad()
def generate_rollout(
    policy: FlowModel,
    sample: Sampler,
    plans: Sequence[ImagePlan],
    prompts: Sequence[str],
    *,
    microbatch_size: int,
    rollout: int,
    after_microbatch: Callable[[], None] = lambda: None,
) -> Rollout:
    """Generate this rank's images, microbatch by microbatch; their size changes no result.

    Args:
        policy: The model being trained.
        sample: The algorithm's sampling.
        plans: Which images; whole microbatches.
        prompts: All training prompts; a plan's prompt id is a position in them.
        microbatch_size: Images that pass the transformer at once.
        rollout: Count of rollouts before this one.
        after_microbatch: Called after each microbatch.

    Returns:
        The rollout, in the order of the plans.
    """
    images, recorded = [], []
    for first in range(0, len(plans), microbatch_size):
        batch = plans[first : first + microbatch_size]
        # A group may span microbatches; embeddings are cached by prompt, so they are not encoded
        # twice.
        embeddings = policy.embed([prompts[plan.prompt_id] for plan in batch])
        denoised = sample(batch, embeddings, rollout)
        recorded.append(denoised.recorded)
        images.append(policy.decode(denoised.latents))
        # All ranks have the same number of microbatches, so the callback may be collective.
        after_microbatch()
    return Rollout(
        number=rollout,
        prompt_ids=torch.tensor([plan.prompt_id for plan in plans]),
        samples=torch.tensor([plan.sample for plan in plans]),
        images=torch.cat(images),
        recorded={name: torch.cat([part[name] for part in recorded]) for name in recorded[0]},
    )


@torch.no_grad()
def encode_images(
    policy: Policy,
    record: Callable[[Tensor], dict[str, Tensor]],
    plans: Sequence[ImagePlan],
    images: Float[Tensor, "batch 3 height width"],
    *,
    microbatch_size: int,
    rollout: int,
) -> Rollout:
    """Return images of another model in the form of a rollout without pixels.

    Args:
        policy: Encodes them.
        record: The algorithm's.
        plans: Their prompts and positions.
        images: RGB in [0, 1].
        microbatch_size: Images that pass the VAE at once.
        rollout: The number that it takes.
    """
    latents = torch.cat([policy.encode(part) for part in images.split(microbatch_size)])
    return Rollout(
        number=rollout,
        prompt_ids=torch.tensor([plan.prompt_id for plan in plans]),
        samples=torch.tensor([plan.sample for plan in plans]),
        images=latents.new_zeros(len(plans), 3, 0, 0),
        recorded=record(latents),
    )


def initial_noise(
    policy: FlowModel,
    plans: Sequence[ImagePlan],
    *,
    seed: int,
    rollout: int,
    same_in_group: bool = False,
) -> Float[Tensor, "batch channel height width"]:
    """Draw the latents that denoising starts from; they depend on no other image or rank.

    Args:
        policy: Gives shape and device of the latents.
        plans: Which images.
        seed: The run's seed.
        rollout: Count of rollouts before this one.
        same_in_group: Whether all images of a prompt start from the same noise.
    """
    # A group starts from the seed of its prompt, an image of its own also from its position.
    positions = [[] if same_in_group else [plan.sample] for plan in plans]
    seeds = [
        seed_for(seed, rollout, plan.prompt_id, *position, "start")
        for plan, position in zip(plans, positions, strict=True)
    ]
    return gaussian_noise(seeds, policy.latent_shape).to(policy.device)
