"""The training prompts that a run draws, which are known before anything runs."""

from collections.abc import Sequence

from advgrpo.config.tasks import PromptDraws
from advgrpo.data.prompts import subset
from advgrpo.data.sampler import prompts_of_base_images, prompts_of_run
from advgrpo.data.splits import PromptSplit, split_prompts
from advgrpo.records import PromptSet


def drawn_prompts(prompts: PromptSet, draws: PromptDraws) -> PromptSet:
    """Return the training prompts whose reference images are read.

    Args:
        prompts: All training prompts.
        draws: Those of a task, or of a whole run.

    Returns:
        Prompts of rollouts and of base-model images, and all held-out prompts, in the order of the
        file.
    """
    split = split_prompts(prompts.texts, draws.held_out_fraction)
    return subset(prompts, sorted(drawn_ids(split, draws)))


def count_drawn(prompts: int, draws: PromptDraws) -> int:
    """Estimate the number of `drawn_prompts` from the number of all prompts.

    Args:
        prompts: Number of training prompts.
        draws: Those of a task, or of a whole run.

    Returns:
        An estimate, because which prompts are held out, and so how many, depends on their texts.
    """
    trained = prompts - round(prompts * draws.held_out_fraction)
    # The draws depend on the number of trained prompts, not on their texts.
    split = PromptSplit(tuple(range(trained)), tuple(range(trained, prompts)))
    return len(drawn_ids(split, draws))


def drawn_ids(split: PromptSplit, draws: PromptDraws) -> set[int]:
    """Return the positions of the drawn prompts. See `drawn_prompts`."""
    # Too few for a rollout, which training refuses with a repair.
    if len(split.training) < draws.prompts_per_update:
        return {*split.training, *split.held_out}
    base_images = prompts_of_base_images(
        split.training, draws.base_images, world_size=1, seed=draws.seed
    )
    return {*rollout_prompts(split.training, draws), *base_images, *split.held_out}


def rollout_prompts(training: Sequence[int], draws: PromptDraws) -> list[int]:
    """Return the prompts of the rollouts, in the order of first use.

    Args:
        training: All trained prompts.
        draws: Those of a task.
    """
    return prompts_of_run(
        training,
        rollouts=draws.rollouts,
        prompts_per_update=draws.prompts_per_update,
        seed=draws.seed,
    )
