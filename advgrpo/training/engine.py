"""The policy's training engine: DeepSpeed, with its state as plain tensors."""

import math
import os
import socket
from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import timedelta

import deepspeed
import torch
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)
from torch import Tensor

from advgrpo.config.training import PolicyOptimizerConfig, TrainingConfig
from advgrpo.models.policies.adapter_weights import AdapterWeights
from advgrpo.models.policies.base import Policy
from advgrpo.runtime.process_group import ProcessGroup

MOMENTS = ("exp_avg", "exp_avg_sq")


class PolicyEngine(AdapterWeights):
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
        super().__init__(policy.trainable_parameters())
        self._config = config.optimizer
        self._optimizer = adamw(list(self._parameters.values()), config.optimizer)
        # deepspeed.initialize must find a process group: one of its own would not have our timeout.
        connect(process_group)
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
        self._zero = config.zero_stage > 0
        self._dropped, self._norm = False, 0.0
        self._partitions_weights = config.zero_stage == 3

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
        if self._zero or not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()
        else:
            self._step_if_finite()

    @property
    def skipped_step(self) -> bool:
        """Whether the last optimizer step was skipped because a gradient is not finite."""
        if self._zero:
            # Valid only right after the last backward pass of a step; step() resets it each time.
            return not self._engine.was_step_applied()
        return self._dropped

    def _step_if_finite(self) -> None:
        # Under ZeRO, DeepSpeed itself checks for overflow. Gradients are already averaged over the
        # ranks here, so all ranks decide alike.
        gradients = [p.grad for p in self._parameters.values() if p.grad is not None]
        self._norm = float(torch.nn.utils.get_total_norm(gradients))
        self._dropped = not math.isfinite(self._norm)
        if not self._dropped:
            self._engine.step()
            return
        # DeepSpeed counts backward passes by its steps, so a skipped step must still call step();
        # AdamW would then decay weights and count the step, so its state is restored.
        before = self.state()
        for gradient in gradients:
            gradient.zero_()
        self._engine.step()
        # load_state leaves the moments untouched if no step was taken before, so those that this
        # step has just created are dropped here.
        self._optimizer.state.clear()
        self.load_state(before)

    def set_learning_rate(self, value: float) -> None:
        """Set the learning rate of the next optimizer step."""
        for group in self._optimizer.param_groups:
            group["lr"] = value

    @property
    def gradient_norm(self) -> float:
        """Norm of the last optimizer step's gradient, before clipping."""
        # Without ZeRO, DeepSpeed records no norm for a torch optimizer.
        return float(self._engine.get_global_grad_norm()) if self._zero else self._norm

    def state(self) -> dict[str, Tensor]:
        """Gather master weights and optimizer state; every rank must call it.

        Returns:
            Float32 tensors on the CPU, the same for any number of ranks.
        """
        state: dict[str, Tensor] = {}
        for name, parameter in self._parameters.items():
            if self._zero:
                state[f"weight.{name}"] = safe_get_full_fp32_param(parameter)
            else:
                state[f"weight.{name}"] = parameter.detach()
            for moment in MOMENTS:
                if not self._optimizer.state:
                    continue
                state[f"{moment}.{name}"] = (
                    safe_get_full_optimizer_state(parameter, moment)
                    if self._zero
                    else self._optimizer.state[parameter][moment]
                )
        steps = [float(entry["step"]) for entry in self._optimizer.state.values()]
        # All entries count the same steps. Under ZeRO an entry is a flat partition, not a
        # parameter, so one number is kept instead of one for each name.
        state["step"] = torch.tensor(steps[0] if steps else 0.0)
        # Cloned: on the CPU, the other conversions return the live tensor, which the next step
        # changes.
        return {name: value.detach().float().cpu().clone() for name, value in state.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned; every rank must call it."""
        weights = {name: state[f"weight.{name}"] for name in self._parameters}
        self._overwrite(weights)
        if self._zero:
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
                if self._partitions_weights:
                    safe_set_local_optimizer_state(parameter, _partition(parameter, value), moment)
                elif self._zero:
                    safe_set_full_optimizer_state(parameter, value, moment)
                else:
                    self._optimizer.state[parameter][moment].copy_(value)

    def _set_master(self, parameter: torch.nn.Parameter, value: Tensor) -> None:
        if self._partitions_weights:
            safe_set_local_fp32_param(parameter, _partition(parameter, value))
        else:
            safe_set_full_fp32_param(parameter, value)

    def _create_optimizer_state(self, step: Tensor) -> None:
        # AdamW creates its state at the first step; a resumed run needs it before.
        if self._partitions_weights:
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
        if self._zero and not self._partitions_weights:
            # Links each parameter to its part of the flat state. ZeRO does it at its own first
            # step and has no public way to do it earlier.
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()


def _partition(parameter: torch.nn.Parameter, value: Tensor) -> Tensor:
    """Return this rank's partition of a value, as in ZeRO-3: equal lengths, the last one padded."""
    length = int(parameter.ds_tensor.ds_numel)  # type: ignore[attr-defined]
    first = torch.distributed.get_rank() * length
    # The last ranks may hold only padding; the slice below is then short or empty.
    padded = torch.zeros(length, dtype=value.dtype, device=value.device)
    own = value.flatten()[first : first + length]
    padded[: own.numel()] = own
    return padded


def connect(process_group: ProcessGroup, *, timeout_seconds: int = 1800) -> None:
    """Initialize the process group: NCCL on GPUs, gloo on CPUs.

    Args:
        process_group: The training processes.
        timeout_seconds: Limit of any wait for the others.
    """
    if torch.distributed.is_initialized():
        return
    if process_group.world_size == 1:
        # init_distributed reads the rendezvous from the environment, even for a single process.
        os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1")
        os.environ.setdefault("MASTER_PORT", str(free_port()))
    if process_group.device.type == "cpu":
        # DeepSpeed would compile a shared-memory collective, which needs a C++ compiler; gloo's
        # own is enough.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    backend = "nccl" if process_group.device.type == "cuda" else "gloo"
    deepspeed.init_distributed(
        dist_backend=backend,
        auto_mpi_discovery=False,
        verbose=False,
        timeout=timedelta(seconds=timeout_seconds),
    )
    # After init_distributed: the monitor uses the store of the default process group.
    process_group.monitor.connect()


def free_port() -> int:
    """Return a free loopback port."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def adamw(parameters: list[torch.nn.Parameter], config: PolicyOptimizerConfig) -> torch.optim.AdamW:
    """Build the policy's optimizer."""
    return torch.optim.AdamW(
        parameters,
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.epsilon,
        weight_decay=config.weight_decay,
    )


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
