"""The split of training prompts into trained and held-out ones."""

from collections.abc import Sequence
from dataclasses import dataclass

from advgrpo.algorithm.seeds import seed_for
from advgrpo.errors import ConfigError


@dataclass(frozen=True)
class PromptSplit:
    """Training prompts by the use of their reference images."""

    training: tuple[int, ...]
    """Positions of the prompts that rollouts sample, in the file's order."""

    held_out: tuple[int, ...]
    """Positions of the prompts for metrics only, in an order independent of the file's: a file
    sorted by topic would otherwise have one topic in the first few."""


def split_prompts(texts: Sequence[str], held_out_fraction: float) -> PromptSplit:
    """Split prompts into those to train on and those to compute metrics on.

    Args:
        texts: All training prompts.
        held_out_fraction: Share to hold out, in (0, 1).
    """
    held = [is_held_out(text, held_out_fraction) for text in texts]
    ids = range(len(texts))
    return PromptSplit(
        training=tuple(i for i in ids if not held[i]),
        held_out=tuple(
            sorted((i for i in ids if held[i]), key=lambda i: seed_for("held-out order", texts[i]))
        ),
    )


def check_split(
    texts: Sequence[str], *, held_out_fraction: float, prompts_per_update: int, world_size: int
) -> None:
    """Raise an error if there are too few prompts for a rollout or for held-out metrics.

    Args:
        texts: All training prompts.
        held_out_fraction: Share to hold out.
        prompts_per_update: Prompts per rollout.
        world_size: Training processes; each needs at least two held-out prompts.

    Raises:
        ConfigError: If so. Names the numbers and the settings to change.
    """
    split = split_prompts(texts, held_out_fraction)
    if len(split.training) < prompts_per_update:
        raise ConfigError(
            f"training.rollout.prompts_per_update={prompts_per_update} is more than the "
            f"{len(split.training)} training prompts that are not held out",
            repair="lower it, or add prompts to prompts.train",
        )
    if len(split.held_out) < 2 * world_size:
        raise ConfigError(
            f"discriminator.held_out_fraction={held_out_fraction} leaves {len(split.held_out)} of "
            f"{len(texts)} training prompts for metrics; "
            f"{world_size} processes need {2 * world_size}",
            repair="raise it, or add prompts to prompts.train",
        )


def is_held_out(prompt: str, fraction: float) -> bool:
    """Return whether a training prompt's reference images never train the discriminator.

    The result depends on the prompt alone, so it is the same in other files and other orders.

    Args:
        prompt: Its text.
        fraction: Share of prompts to hold out, in (0, 1).
    """
    # Seeds are uniform in [0, 2**63). A larger fraction only adds prompts to those of a smaller
    # one.
    return seed_for("held out", prompt) < fraction * 2**63
