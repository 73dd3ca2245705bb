"""Which training prompts are held out; needs no torch."""

from collections.abc import Sequence
from dataclasses import dataclass

from advgrpo.algorithm.seeds import seed_for
from advgrpo.errors import ConfigError


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
    texts: Sequence[str], *, held_out_fraction: float, prompts_per_update: int, world_size: int
) -> None:
    """Refuse prompts that are too few for a rollout, or for measuring.

    Args:
        texts: All training prompts.
        held_out_fraction: Share that is held out.
        prompts_per_update: Prompts of a rollout.
        world_size: Training processes; each measures at least two held-out prompts.

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
    if len(split.held_out) < 2 * world_size:
        raise ConfigError(
            f"discriminator.held_out_fraction={held_out_fraction} leaves {len(split.held_out)} of "
            f"{len(texts)} training prompts to measure on; "
            f"{world_size} processes need {2 * world_size}",
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
