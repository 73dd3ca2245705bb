"""DeepSpeed's ZeRO, with its state as plain tensors."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from importlib import import_module

import deepspeed
import torch
from deepspeed.runtime import compiler
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)
from torch import Tensor

from advgrpo.config.training import TrainingConfig
from advgrpo.models.policies.base import Policy
from advgrpo.runtime.process_group import ProcessGroup
from advgrpo.training.engines.base import MOMENTS, PolicyEngine, on_cpu


class ZeroEngine(PolicyEngine):
    """Updates the adapter through DeepSpeed's ZeRO.

    Args:
        policy: Its forward passes are routed through DeepSpeed from now on.
        config: Optimizer and ZeRO stage.
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
        # deepspeed.initialize must find a process group: one of its own would not have our timeout.
        process_group.connect()
        if process_group.device.type == "cpu":
            # DeepSpeed would compile a shared-memory collective, which needs a C++ compiler; gloo's
            # own is enough.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        _import_muon_without_its_compiler()
        self._engine, *_ = deepspeed.initialize(
            model=policy.transformer,
            optimizer=self._optimizer,
            model_parameters=list(self._parameters.values()),
            config=deepspeed_settings(
                config, backwards_per_step=backwards_per_step, device=process_group.device
            ),
            dist_init_required=False,
        )
        # DeepSpeed requires forward passes to be those of the engine, which prepare the backward
        # pass.
        policy.use_engine(self._engine)
        self.partitions_weights = config.zero_stage == 3

    def _whole(self, modifier_rank: int | None = None) -> AbstractContextManager[None]:
        """Gather weights that ZeRO-3 partitions over the ranks, within the context."""
        gathered: AbstractContextManager[None] = deepspeed.zero.GatheredParameters(
            list(self._parameters.values()), modifier_rank=modifier_rank
        )
        return gathered

    def backward(self, loss: Tensor) -> None:
        """Add a microbatch's gradients; the last of an optimizer step also takes the step.

        Args:
            loss: Mean over the microbatch; DeepSpeed divides by the backward passes of a step.
        """
        self._engine.backward(loss)
        # step() follows every backward pass: before the last one of an optimizer step it only
        # advances DeepSpeed's counter.
        self._engine.step()

    @property
    def skipped_step(self) -> bool:
        """Whether the last optimizer step was skipped because a gradient is not finite."""
        # Valid only right after the last backward pass of a step; step() resets it each time.
        return not self._engine.was_step_applied()

    @property
    def gradient_norm(self) -> float:
        """Norm of the last optimizer step's gradient, before clipping."""
        return float(self._engine.get_global_grad_norm())

    def state(self) -> dict[str, Tensor]:
        """Gather master weights and optimizer state; every rank must call it.

        Returns:
            Float32 tensors on the CPU, the same for any number of ranks.
        """
        state: dict[str, Tensor] = {}
        for name, parameter in self._parameters.items():
            state[f"weight.{name}"] = safe_get_full_fp32_param(parameter)
            for moment in MOMENTS if self._optimizer.state else ():
                state[f"{moment}.{name}"] = safe_get_full_optimizer_state(parameter, moment)
        steps = [float(entry["step"]) for entry in self._optimizer.state.values()]
        # All entries count the same steps. An entry is a flat partition, not a parameter, so one
        # number is kept instead of one for each name.
        state["step"] = torch.tensor(steps[0] if steps else 0.0)
        return on_cpu(state)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned; every rank must call it."""
        weights = {name: state[f"weight.{name}"] for name in self._parameters}
        self._overwrite(weights)
        # Overwriting the parameters alone would last until the next step, which recomputes them
        # from the master weights.
        for name, parameter in self._parameters.items():
            self._set_master(parameter, weights[name].to(parameter.device))
        if float(state["step"]) == 0:
            return
        self._create_optimizer_state(state["step"])
        for name, parameter in self._parameters.items():
            for moment in MOMENTS:
                value = state[f"{moment}.{name}"].to(parameter.device)
                if self.partitions_weights:
                    safe_set_local_optimizer_state(parameter, _partition(parameter, value), moment)
                else:
                    safe_set_full_optimizer_state(parameter, value, moment)

    def _set_master(self, parameter: torch.nn.Parameter, value: Tensor) -> None:
        if self.partitions_weights:
            safe_set_local_fp32_param(parameter, _partition(parameter, value))
        else:
            safe_set_full_fp32_param(parameter, value)

    def _create_optimizer_state(self, step: Tensor) -> None:
        # AdamW creates its state at the first step; a resumed run needs it before.
        if self.partitions_weights:
            # ZeRO-3 passes these to the optimizer only while it takes a step.
            optimized = self._engine.optimizer.fp32_partitioned_groups_flat
        else:
            # Under ZeRO 1 and 2 these are flat partitions, which DeepSpeed puts in place of the
            # parameters.
            optimized = [p for group in self._optimizer.param_groups for p in group["params"]]
        for parameter in optimized:
            self._optimizer.state[parameter] = {
                # AdamW increments it in place, so parameters must not share one tensor.
                "step": step.clone(),
                **{moment: torch.zeros_like(parameter.detach()) for moment in MOMENTS},
            }
        if not self.partitions_weights:
            # Links each parameter to its part of the flat state. ZeRO does it at its own first
            # step and has no public way to do it earlier.
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()


def _import_muon_without_its_compiler() -> None:
    """Import the optimizer Muon, which DeepSpeed does later, without torch's compiler.

    DeepSpeed decorates its functions with `torch.compile`, which imports torch's inductor: seconds
    in every process, for an optimizer that training never uses.
    """
    compile_ = compiler.compile
    compiler.compile = lambda: compiler.dummy_decorator
    try:
        import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    finally:
        compiler.compile = compile_


def _partition(parameter: torch.nn.Parameter, value: Tensor) -> Tensor:
    """Return this rank's partition of a value, as in ZeRO-3: equal lengths, the last one padded."""
    length = int(parameter.ds_tensor.ds_numel)  # type: ignore[attr-defined]
    first = torch.distributed.get_rank() * length
    # The last ranks may hold only padding; the slice below is then short or empty.
    padded = torch.zeros(length, dtype=value.dtype, device=value.device)
    own = value.flatten()[first : first + length]
    padded[: own.numel()] = own
    return padded


def deepspeed_settings(
    config: TrainingConfig, *, backwards_per_step: int, device: torch.device
) -> dict[str, object]:
    """Return DeepSpeed's own configuration.

    The base model's precision is set where it is loaded and the adapter is float32, so DeepSpeed
    gets no setting of precision.
    """
    on_host = {"device": "cpu", "pin_memory": device.type == "cuda"}
    offload: dict[str, object] = {}
    if config.offload != "none":
        offload["offload_optimizer"] = on_host
    if config.offload == "optimizer_and_weights":
        offload["offload_param"] = on_host
    return {
        # DeepSpeed requires the size but reads no data here; only the accumulation steps matter.
        "train_micro_batch_size_per_gpu": config.rollout.microbatch_of_update,
        "gradient_accumulation_steps": backwards_per_step,
        "gradient_clipping": config.optimizer.max_grad_norm,
        # A torch optimizer is passed in; one named here would be compiled for minutes.
        "zero_allow_untested_optimizer": True,
        # Otherwise offloading demands DeepSpeed's own CPU Adam, which is compiled, too.
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {
            "stage": config.zero_stage,
            "contiguous_gradients": True,
            "overlap_comm": False,
            # With contiguous gradients ZeRO 1 and 2 allocate a buffer of this many elements. An
            # adapter is small, and the default of 5e8 would take gigabytes.
            "reduce_bucket_size": 5_000_000,
            "allgather_bucket_size": 5_000_000,
            **offload,
        },
        # Silences DeepSpeed's own progress lines.
        "steps_per_print": 2**31,
    }
