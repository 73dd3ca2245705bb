"""Data parallelism without a partition: each rank holds the whole optimizer."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from advgrpo.config.training import TrainingConfig
from advgrpo.models.policies.base import Policy
from advgrpo.runtime.process_group import ProcessGroup
from advgrpo.training.engines.base import MOMENTS, PolicyEngine, on_cpu


class DdpEngine(PolicyEngine):
    """Averages the ranks' gradients once per optimizer step.

    torch's `DistributedDataParallel` overlaps communication with the backward pass. Here an
    optimizer step has dozens of backward passes and one all-reduce of the adapter, so there is
    nothing to gain by its hooks, which split compiled graphs.

    Args:
        policy: Its forward passes are not wrapped.
        config: Optimizer settings.
        process_group: The training processes.
        backwards_per_step: Backward passes of a rank that make up one optimizer step.
    """

    def __init__(
        self,
        policy: Policy,
        config: TrainingConfig,
        process_group: ProcessGroup,
        *,
        backwards_per_step: int,
    ) -> None:
        super().__init__(policy, config.optimizer)
        self._process_group, self._max_norm = process_group, config.optimizer.max_grad_norm
        self._backwards_per_step, self._backwards, self._norm = backwards_per_step, 0, 0.0

    def backward(self, loss: Tensor) -> None:
        """Add a microbatch's gradients; the last of an optimizer step also takes the step."""
        (loss / self._backwards_per_step).backward()
        self._backwards += 1
        if self._backwards == self._backwards_per_step:
            self._backwards = 0
            self._step()

    def _step(self) -> None:
        parameters = list(self._parameters.values())
        self._process_group.average_gradients(parameters)
        self._norm = float(torch.nn.utils.clip_grad_norm_(parameters, self._max_norm))
        # Averaged over the ranks before, so all ranks decide alike.
        if not self.skipped_step:
            self._optimizer.step()
        self._optimizer.zero_grad()

    @property
    def skipped_step(self) -> bool:
        """Whether the last optimizer step was skipped because a gradient is not finite."""
        return not math.isfinite(self._norm)

    @property
    def gradient_norm(self) -> float:
        """Norm of the last optimizer step's gradient, before clipping."""
        return self._norm

    def state(self) -> dict[str, Tensor]:
        """Copy weights and optimizer state; no communication is needed."""
        found = self._optimizer.state
        state = {f"weight.{name}": value for name, value in self._parameters.items()}
        for name, parameter in self._parameters.items() if found else ():
            # Empty for parameters without a gradient, such as those of outputs that a last layer
            # discards; DeepSpeed has zeros for them.
            entry = found.get(parameter, {})
            zeros = torch.zeros_like(parameter)
            state |= {f"{moment}.{name}": entry.get(moment, zeros) for moment in MOMENTS}
        steps = [entry["step"] for entry in found.values() if entry]
        return on_cpu({**state, "step": steps[0] if steps else torch.tensor(0.0)})

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned."""
        self._overwrite({name: state[f"weight.{name}"] for name in self._parameters})
        self._optimizer.state.clear()
        if float(state["step"]) == 0:
            return
        for name, parameter in self._parameters.items():
            self._optimizer.state[parameter] = {
                # AdamW increments it in place, so parameters must not share one tensor.
                "step": state["step"].clone(),
                **{m: state[f"{m}.{name}"].to(parameter.device, copy=True) for m in MOMENTS},
            }
