"""Which prompts a rollout takes, and which images a rank makes of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from advgrpo.algorithm.randomness import generator_for, seed_for
from advgrpo.errors import ConfigError


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
    ranks: int,
    rank: int,
) -> list[list[ImagePlan]]:
    """Split a rollout over ranks so that each optimizer step has whole groups.

    Args:
        prompt_ids: The rollout's prompts, in order.
        group_size: Images per prompt.
        optimizer_steps: Optimizer steps that share the rollout; divides the number of prompts.
        ranks: Training processes; divide the images of an optimizer step.
        rank: This process.

    Returns:
        This rank's images for each optimizer step; over all ranks every image once.

    Raises:
        ValueError: If a step would split a group or ranks would get unequal shares.
    """
    prompts_per_step, rest = divmod(len(prompt_ids), optimizer_steps)
    per_rank, remainder = divmod(prompts_per_step * group_size, ranks)
    if rest or remainder:
        raise ValueError(
            f"{len(prompt_ids)} prompts x {group_size} images do not split into {optimizer_steps} "
            f"optimizer steps over {ranks} ranks"
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


@dataclass(frozen=True)
class PromptSplit:
    """Training prompts by what their reference images are for."""

    training: tuple[int, ...]
    """Prompts that rollouts draw from, in the file's order."""

    held_out: tuple[int, ...]
    """Prompts that only measure, in an order that has nothing to do with the file's, so that the
    first few stand for all."""


def split_prompts(texts: Sequence[str], held_out_fraction: float) -> PromptSplit:
    """Split prompts into those that train and those that measure.

    Args:
        texts: All training prompts.
        held_out_fraction: Share that is held out, in (0, 1).
    """
    held = [is_held_out(text, held_out_fraction) for text in texts]
    ids = range(len(texts))
    return PromptSplit(
        training=tuple(i for i in ids if not held[i]),
        held_out=tuple(
            sorted((i for i in ids if held[i]), key=lambda i: seed_for("held-out order", texts[i]))
        ),
    )


def check_prompts(
    texts: Sequence[str], *, held_out_fraction: float, prompts_per_update: int, ranks: int
) -> None:
    """Refuse prompts that are too few for a rollout, or for measuring.

    Args:
        texts: All training prompts.
        held_out_fraction: Share that is held out.
        prompts_per_update: Prompts of a rollout.
        ranks: Training processes; each measures at least two held-out prompts.

    Raises:
        ConfigError: With the numbers and the settings to change.
    """
    split = split_prompts(texts, held_out_fraction)
    if len(split.training) < prompts_per_update:
        raise ConfigError(
            f"training.rollout.prompts_per_update={prompts_per_update} is more than the "
            f"{len(split.training)} training prompts that are not held out",
            repair="lower it, or add prompts to the file in prompts.train",
        )
    if len(split.held_out) < 2 * ranks:
        raise ConfigError(
            f"discriminator.held_out_fraction={held_out_fraction} leaves {len(split.held_out)} of "
            f"{len(texts)} training prompts to measure on; {ranks} processes need {2 * ranks}",
            repair="raise it, or add prompts to the file in prompts.train",
        )


def is_held_out(prompt: str, fraction: float) -> bool:
    """Tell whether a training prompt's reference images only measure the discriminator.

    The answer depends on the prompt alone, so it survives other prompt files and orders.

    Args:
        prompt: Its text.
        fraction: Share of prompts that are held out, in (0, 1).
    """
    return seed_for("held out", prompt) < fraction * 2**63
