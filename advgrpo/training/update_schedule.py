"""Whose turn it is: the policy's, the discriminator's, or both."""

from dataclasses import dataclass

from advgrpo.config.training import EveryRollout, ReleasedTurns, TrainingConfig, WhenOutscored


@dataclass(frozen=True)
class Turn:
    """What one rollout is used for."""

    trains_policy: bool
    discriminator_steps: int
    only_if_fooled: bool = False
    """Whether the discriminator is left alone while it rewards reference images more."""

    pause_policy: bool = False
    """Whether the policy is left alone while the discriminator is fooled."""


def rollouts_per_update(config: TrainingConfig) -> int:
    """Count the rollouts that are made for one policy update."""
    if isinstance(config.turns, ReleasedTurns):
        return config.turns.discriminator_rollouts + 1
    return 1


def turn_at(config: TrainingConfig, rollout: int) -> Turn:
    """Tell what a rollout is used for.

    Args:
        config: The turn schedule.
        rollout: Count of rollouts before it.
    """
    if isinstance(config.turns, EveryRollout):
        return Turn(trains_policy=True, discriminator_steps=config.turns.discriminator_steps)
    if isinstance(config.turns, WhenOutscored):
        return Turn(
            trains_policy=True,
            discriminator_steps=config.turns.discriminator_steps,
            only_if_fooled=True,
            pause_policy=config.turns.pause_policy,
        )
    if isinstance(config.turns, ReleasedTurns):
        for_policy = rollout % rollouts_per_update(config) == config.turns.discriminator_rollouts
        return Turn(trains_policy=for_policy, discriminator_steps=0 if for_policy else 1)
    return Turn(trains_policy=True, discriminator_steps=0)
