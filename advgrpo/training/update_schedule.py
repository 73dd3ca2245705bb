"""The update schedule: which of policy and discriminator a rollout trains."""

from dataclasses import dataclass

from advgrpo.config.training import (
    EveryRollout,
    ReleasedSchedule,
    TrainingConfig,
    WhenOutscored,
)


@dataclass(frozen=True)
class UpdatePlan:
    """The updates that one rollout is used for."""

    trains_policy: bool
    discriminator_steps: int
    only_when_outscored: bool = False
    """Skip the discriminator's update unless it rewards generated images more."""

    pause_policy: bool = False
    """Skip the policy's update while the discriminator is outscored."""


def rollouts_per_update(config: TrainingConfig) -> int:
    """Count the rollouts that are generated for one policy update."""
    if isinstance(config.update_schedule, ReleasedSchedule):
        return config.update_schedule.discriminator_rollouts + 1
    return 1


def plan_updates(config: TrainingConfig, rollout: int) -> UpdatePlan:
    """Return which updates a rollout is used for.

    Args:
        config: The update schedule.
        rollout: Count of rollouts before it.
    """
    match config.update_schedule:
        case EveryRollout(discriminator_steps=steps):
            return UpdatePlan(trains_policy=True, discriminator_steps=steps)
        case WhenOutscored(discriminator_steps=steps, pause_policy=pause):
            return UpdatePlan(
                trains_policy=True,
                discriminator_steps=steps,
                only_when_outscored=True,
                pause_policy=pause,
            )
        case ReleasedSchedule(discriminator_rollouts=others):
            # The policy comes last in a cycle, after the discriminator has trained on images of the
            # same policy.
            for_policy = rollout % (others + 1) == others
            # One step for each rollout, as in the released code; see docs/paper.md.
            return UpdatePlan(trains_policy=for_policy, discriminator_steps=0 if for_policy else 1)
        case _:
            # The frozen schedule.
            return UpdatePlan(trains_policy=True, discriminator_steps=0)
