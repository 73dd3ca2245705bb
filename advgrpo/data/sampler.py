"""Sampling order of prompts, and the split of a rollout's images over ranks."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from advgrpo.algorithm.randomness import generator_for


def prompts_of_rollout(
    prompt_ids: Sequence[int], rollout: int, *, prompts_per_update: int, seed: int
) -> list[int]:
    """Return a rollout's prompts: distinct, in a new random order in each pass over all.

    Args:
        prompt_ids: All trained prompts.
        rollout: Number of rollouts before this one, which is the only state of the sampler.
        prompts_per_update: Prompts per rollout.
        seed: The run's seed.

    Raises:
        ValueError: If there are fewer prompts than a rollout needs.
    """
    # The remainder of a pass is dropped, so that no rollout spans two passes.
    rollouts_per_pass = len(prompt_ids) // prompts_per_update
    if rollouts_per_pass == 0:
        raise ValueError(
            f"{len(prompt_ids)} prompts are fewer than the {prompts_per_update} of a rollout"
        )
    # The order depends on seed and pass alone: a resumed run needs no sampler state.
    turn, position = divmod(rollout, rollouts_per_pass)
    order = torch.randperm(len(prompt_ids), generator=generator_for(seed, "prompts", turn)).tolist()
    first = position * prompts_per_update
    return [prompt_ids[index] for index in order[first : first + prompts_per_update]]


def prompts_of_run(
    prompt_ids: Sequence[int], *, rollouts: int | None, prompts_per_update: int, seed: int
) -> list[int]:
    """Return the distinct prompts of a number of rollouts, in the order of first use.

    Args:
        prompt_ids: All trained prompts.
        rollouts: Number of rollouts; None if unknown.
        prompts_per_update: Prompts per rollout.
        seed: The run's seed.

    Returns:
        All prompts if the number of rollouts is unknown.
    """
    if rollouts is None:
        return list(prompt_ids)
    sampled: dict[int, None] = {}
    for rollout in range(rollouts):
        sampled |= dict.fromkeys(
            prompts_of_rollout(
                prompt_ids, rollout, prompts_per_update=prompts_per_update, seed=seed
            )
        )
        # Otherwise a long run would compute the orders of thousands of rollouts for nothing.
        if len(sampled) == len(prompt_ids):
            break
    return list(sampled)


def prompts_of_base_images(
    prompt_ids: Sequence[int], count: int, *, world_size: int, seed: int
) -> list[int]:
    """Return the prompts of the base-model images that pre-train the discriminator.

    Args:
        prompt_ids: Trained or held-out prompts, in whose random order the images are generated.
        count: Number of images.
        world_size: Number of processes; the count is rounded up to equal shares.
        seed: The run's seed.

    Returns:
        One prompt per image. They repeat if there are fewer than images.
    """
    order = torch.randperm(
        len(prompt_ids), generator=generator_for(seed, "base images", len(prompt_ids))
    ).tolist()
    # Rounded up: gathering needs equal shares.
    total = -(-count // world_size) * world_size
    return [prompt_ids[order[k % len(order)]] for k in range(total)]


@dataclass(frozen=True)
class ImagePlan:
    """One image of a rollout."""

    position: int
    """Index in the rollout: prompt-major, then sample."""

    prompt_id: int
    sample: int


def share_of_rank(
    prompt_ids: Sequence[int],
    *,
    group_size: int,
    optimizer_steps: int,
    world_size: int,
    rank: int,
) -> list[list[ImagePlan]]:
    """Split a rollout over ranks and optimizer steps, so that each step has whole groups.

    Args:
        prompt_ids: The rollout's prompts, in order.
        group_size: Images per prompt.
        optimizer_steps: Optimizer steps per rollout; must divide the number of prompts.
        world_size: Training processes; must divide the images of an optimizer step.
        rank: Rank of this process.

    Returns:
        This rank's images for each optimizer step. Over all ranks, every image occurs once.

    Raises:
        ValueError: If a step would split a group, or ranks would get unequal shares.
    """
    prompts_per_step, rest = divmod(len(prompt_ids), optimizer_steps)
    per_rank, remainder = divmod(prompts_per_step * group_size, world_size)
    if rest or remainder:
        raise ValueError(
            f"{len(prompt_ids)} prompts x {group_size} images do not split into {optimizer_steps} "
            f"optimizer steps over {world_size} ranks"
        )
    # Prompt-major, so that the contiguous share of a rank has few distinct prompts.
    plans = [
        ImagePlan(index * group_size + sample, prompt_id, sample)
        for index, prompt_id in enumerate(prompt_ids)
        for sample in range(group_size)
    ]
    per_step = prompts_per_step * group_size
    return [
        plans[start + rank * per_rank : start + (rank + 1) * per_rank]
        for start in range(0, len(plans), per_step)
    ]
