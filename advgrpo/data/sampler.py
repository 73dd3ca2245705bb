"""Which prompts a rollout takes, and which images a rank makes of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from advgrpo.algorithm.randomness import generator_for


def prompts_of_rollout(
    prompt_ids: Sequence[int], rollout: int, *, prompts_per_update: int, seed: int
) -> list[int]:
    """Draw a rollout's prompts: a new order for each pass over the prompts, no prompt twice.

    Args:
        prompt_ids: Prompts to draw from.
        rollout: Count of rollouts before this one; the draw needs no other state.
        prompts_per_update: How many.
        seed: The run's seed.

    Raises:
        ValueError: If there are fewer prompts than a rollout takes.
    """
    rollouts_per_pass = len(prompt_ids) // prompts_per_update
    if rollouts_per_pass == 0:
        raise ValueError(
            f"{len(prompt_ids)} prompts are fewer than the {prompts_per_update} of a rollout"
        )
    turn, position = divmod(rollout, rollouts_per_pass)
    order = torch.randperm(len(prompt_ids), generator=generator_for(seed, "prompts", turn)).tolist()
    first = position * prompts_per_update
    return [prompt_ids[index] for index in order[first : first + prompts_per_update]]


def prompts_of_run(
    prompt_ids: Sequence[int], *, rollouts: int | None, prompts_per_update: int, seed: int
) -> list[int]:
    """List the prompts that rollouts draw, each once, in the order in which they come first.

    Args:
        prompt_ids: Prompts to draw from.
        rollouts: How many rollouts; None if that is not known before.
        prompts_per_update: How many prompts each takes.
        seed: The run's seed.

    Returns:
        All prompts if there is no telling.
    """
    if rollouts is None:
        return list(prompt_ids)
    drawn: dict[int, None] = {}
    for rollout in range(rollouts):
        drawn |= dict.fromkeys(
            prompts_of_rollout(
                prompt_ids, rollout, prompts_per_update=prompts_per_update, seed=seed
            )
        )
        if len(drawn) == len(prompt_ids):
            break
    return list(drawn)


@dataclass(frozen=True)
class ImagePlan:
    """One image that a rollout makes."""

    position: int
    """Its place in the rollout: prompt-major, then sample."""

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
    """Split a rollout over ranks so that each optimizer step has whole groups.

    Args:
        prompt_ids: The rollout's prompts, in order.
        group_size: Images per prompt.
        optimizer_steps: Optimizer steps that share the rollout; divides the number of prompts.
        world_size: Training processes; divide the images of an optimizer step.
        rank: This process.

    Returns:
        This rank's images for each optimizer step; over all ranks every image once.

    Raises:
        ValueError: If a step would split a group or ranks would get unequal shares.
    """
    prompts_per_step, rest = divmod(len(prompt_ids), optimizer_steps)
    per_rank, remainder = divmod(prompts_per_step * group_size, world_size)
    if rest or remainder:
        raise ValueError(
            f"{len(prompt_ids)} prompts x {group_size} images do not split into {optimizer_steps} "
            f"optimizer steps over {world_size} ranks"
        )
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
