"""The training engine that settings name."""

from advgrpo.config.training import TrainingConfig
from advgrpo.models.policies.base import Policy
from advgrpo.runtime.process_group import ProcessGroup
from advgrpo.training.engines.base import PolicyEngine
from advgrpo.training.engines.ddp import DdpEngine


def build_engine(
    policy: Policy, config: TrainingConfig, process_group: ProcessGroup, *, backwards_per_step: int
) -> PolicyEngine:
    """Build the engine of a run; every rank must call it.

    Args:
        policy: The model being trained.
        config: The run's training settings.
        process_group: The training processes.
        backwards_per_step: Backward passes of a rank that make up one optimizer step.
    """
    if config.engine == "ddp":
        return DdpEngine(policy, config, process_group, backwards_per_step=backwards_per_step)
    # DeepSpeed takes seconds to import, and machines without it can train with the other engine.
    from advgrpo.training.engines.zero import ZeroEngine  # noqa: PLC0415

    return ZeroEngine(policy, config, process_group, backwards_per_step=backwards_per_step)
