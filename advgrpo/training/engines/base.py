"""Interface of the training engines."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from advgrpo.config.training import PolicyOptimizerConfig
from advgrpo.models.policies.adapter_weights import AdapterWeights
from advgrpo.models.policies.base import Policy

MOMENTS = ("exp_avg", "exp_avg_sq")


class PolicyEngine(AdapterWeights, ABC):
    """Accumulates gradients over backward passes and takes the adapter's optimizer steps.

    Every engine takes the same steps up to rounding, and resumes from the state of any other.

    Args:
        policy: The model being trained.
        config: Settings of its optimizer.
    """

    partitions_weights = False
    """Whether a rank holds only a part of the transformer's weights."""

    def __init__(self, policy: Policy, config: PolicyOptimizerConfig) -> None:
        super().__init__(policy.trainable_parameters())
        self._optimizer = torch.optim.AdamW(
            list(self._parameters.values()),
            lr=config.learning_rate,
            betas=config.betas,
            eps=config.epsilon,
            weight_decay=config.weight_decay,
        )

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Add a microbatch's gradients; the last of an optimizer step also takes the step.

        Args:
            loss: Mean over the microbatch. Gradients are averaged over the backward passes of a
                step and over the ranks.
        """

    @property
    @abstractmethod
    def skipped_step(self) -> bool:
        """Whether the last optimizer step was skipped because a gradient is not finite."""

    @property
    @abstractmethod
    def gradient_norm(self) -> float:
        """Norm of the last optimizer step's gradient, before clipping."""

    def set_learning_rate(self, value: float) -> None:
        """Set the learning rate of the next optimizer step."""
        for group in self._optimizer.param_groups:
            group["lr"] = value

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Gather master weights and optimizer state; every rank must call it.

        Returns:
            Float32 tensors on the CPU, the same for any number of ranks.
        """

    @abstractmethod
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned; every rank must call it."""


def on_cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy an engine's state to the CPU, in float32."""
    # Cloned: on the CPU, the other conversions return the live tensor, which the next step changes.
    return {name: value.detach().float().cpu().clone() for name, value in state.items()}
