"""When measurements and checkpoints are due."""

from advgrpo.training.state import TrainingState
from advgrpo.training.update_schedule import rollouts_per_update


def is_due(every: int, state: TrainingState) -> bool:
    """Return whether an action that is due every so many updates, and at the end, is due."""
    updates = state.counters.updates
    # The last update is always due: the result is chosen among evaluated adapters.
    return updates % every == 0 or updates == state.config.updates


def is_due_without_update(state: TrainingState) -> bool:
    """Return whether a checkpoint is due although the policy is paused, perhaps for long."""
    config = state.config
    every = config.checkpoint_every_updates * rollouts_per_update(config)
    # Counted in rollouts, because updates do not advance.
    return state.counters.rollouts % every == 0
