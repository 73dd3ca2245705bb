"""Decays of exponential moving averages."""


def ema_decay(step: int, *, limit: float) -> float:
    """Return the decay with warm-up: `min((1 + s) / (10 + s), limit)`.

    Args:
        step: Optimizer steps of the policy so far.
        limit: Upper limit, in [0, 1).
    """
    # Warm-up: with the limit alone the start values would dominate a short run.
    return min((1 + step) / (10 + step), limit)


def old_policy_decay(step: int, *, flat_steps: int, growth: float, limit: float) -> float:
    """Return the decay of an old policy: `min(growth * max(s - flat, 0), limit)`.

    Args:
        step: s, optimizer steps of the policy so far.
        flat_steps: Steps with a decay of 0, which replaces the old policy by the trained one.
        growth: Of the decay, per step.
        limit: Upper limit, in [0, 1).

    Source:
        DiffusionNFT, arXiv:2509.16117, section 3.3.
    """
    return min(growth * max(step - flat_steps, 0), limit)
