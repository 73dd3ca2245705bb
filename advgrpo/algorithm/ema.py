"""Decay of the exponential moving average."""


def ema_decay(step: int, *, limit: float) -> float:
    """Return the decay with warm-up: `min((1 + s) / (10 + s), limit)`.

    Args:
        step: Optimizer steps of the policy so far.
        limit: Upper limit, in [0, 1).
    """
    # Warm-up: with the limit alone the start values would dominate a short run.
    return min((1 + step) / (10 + step), limit)
