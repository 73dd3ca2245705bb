"""The moving average's decay."""


def ema_decay(step: int, *, limit: float) -> float:
    """Warm the decay up: `min((1 + s) / (10 + s), limit)`.

    Args:
        step: Optimizer steps of the policy so far.
        limit: Upper limit, in [0, 1).
    """
    return min((1 + step) / (10 + step), limit)
