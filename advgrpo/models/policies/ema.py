"""The moving average of the adapter, which is evaluated and saved as the result."""

from collections.abc import Mapping

import torch
from torch import Tensor

from advgrpo.algorithm.ema import ema_decay


class MovingAverage:
    """Exponential moving average of parameters, counted in optimizer steps of the policy.

    Args:
        parameters: Start values, float32.
        limit: Upper limit of the decay.
    """

    def __init__(self, parameters: Mapping[str, Tensor], *, limit: float) -> None:
        # Clones: the optimizer updates the given tensors in place, and the average would follow
        # them.
        self.values = {name: value.detach().clone() for name, value in parameters.items()}
        self.limit = limit

    def update(self, parameters: Mapping[str, Tensor], *, step: int) -> None:
        """Move the average towards the current values.

        Args:
            parameters: With the same names as the start values.
            step: Optimizer steps of the policy so far.
        """
        decay = ema_decay(step, limit=self.limit)
        with torch.no_grad():
            for name, value in self.values.items():
                value.lerp_(parameters[name].to(value.dtype), 1 - decay)
