"""Update the policy on a rollout."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from advgrpo.algorithm.policy_loss import PolicyLoss
from advgrpo.config import TrainingConfig
from advgrpo.errors import RatioError
from advgrpo.models.policies import Policy
from advgrpo.models.policies.ema import MovingAverage
from advgrpo.runtime.process_group import ProcessGroup
from advgrpo.training.engine import PolicyEngine
from advgrpo.training.nonfinite import Finding, NonFiniteGuard, first_not_finite
from advgrpo.training.rollout import Denoiser, Rollout
from advgrpo.training.step_losses import StepLoss, step_losses


class PolicyUpdater:
    """Takes the optimizer steps of a rollout.

    Args:
        policy: The model being trained.
        engine: Its optimizer.
        denoiser: Its denoising step, the one that made the rollout.
        average: Moving average of the adapter, updated after each optimizer step.
        guard: Says and keeps what is not finite.
        config: Loss, optimizer and rollout settings.
        process_group: The training processes.
    """

    def __init__(
        self,
        policy: Policy,
        engine: PolicyEngine,
        denoiser: Denoiser,
        average: MovingAverage,
        guard: NonFiniteGuard,
        config: TrainingConfig,
        process_group: ProcessGroup,
    ) -> None:
        self._policy, self._engine, self._denoiser = policy, engine, denoiser
        self._average, self._guard = average, guard
        self._config, self._process_group = config, process_group

    def update(
        self,
        rollout: Rollout,
        advantages: Float[Tensor, "batch"],
        prompts: Sequence[str],
        *,
        update: int,
    ) -> dict[str, float]:
        """Make images with a positive advantage likelier.

        Args:
            rollout: This rank's share; its optimizer steps' images follow each other.
            advantages: One per image.
            prompts: All training prompts.
            update: Count of policy updates before this one.

        Returns:
            Measures over all ranks: loss, ratio, clipping, gradient norm, learning rate.

        Raises:
            RatioError: If rollout and update disagree before the first optimizer step.
            NonFiniteError: On all ranks, before the optimizer step, if a gradient is NaN or
                infinite.
        """
        steps = self._config.optimizer_steps_per_update
        per_step = len(rollout.prompt_ids) // steps
        record = _Record()
        for step in range(steps):
            done = update * steps + step
            rate = learning_rate(self._config, done)
            self._engine.set_learning_rate(rate)
            starts = range(step * per_step, (step + 1) * per_step, self._microbatch)
            microbatches = [slice(first, first + self._microbatch) for first in starts]
            for chosen in microbatches:
                self._train_on(rollout, advantages, prompts, chosen, record)
            if self._engine.left_step_out:
                finding = self._find(rollout, advantages, prompts, microbatches)
                self._guard.report_step(finding, rollout, advantages)
            record.gradient_norms.append(self._engine.gradient_norm)
            self._average.update(self._engine.adapter(), step=done)
        return record.metrics(self._process_group, learning_rate=rate)

    @property
    def _microbatch(self) -> int:
        return self._config.rollout.microbatch_of_update

    def _train_on(
        self,
        rollout: Rollout,
        advantages: Tensor,
        prompts: Sequence[str],
        chosen: slice,
        record: "_Record",
    ) -> None:
        for loss in self._losses(rollout, advantages, prompts, chosen):
            if loss.divergence is not None:
                record.divergences.append(float(loss.divergence.detach()))
            if chosen.start == 0:
                self._check_ratio(loss.policy, record)
            record.add(loss.policy, float(loss.total.detach()))
            self._process_group.monitor.beat()
            self._engine.backward(loss.total)

    def _find(
        self,
        rollout: Rollout,
        advantages: Tensor,
        prompts: Sequence[str],
        microbatches: Sequence[slice],
    ) -> Finding | None:
        """Find where this rank's gradients are not finite, by computing them once more."""
        if self._config.zero_stage == 3:  # a rank has no whole gradient
            return None
        parameters = self._policy.trainable_parameters()
        with self._policy.without_engine():
            for chosen in microbatches:
                for loss in self._losses(rollout, advantages, prompts, chosen):
                    gradients = torch.autograd.grad(loss.total, list(parameters.values()))
                    named = {"the policy loss": loss.total.detach()} | {
                        f"the gradient of {name}": gradient
                        for name, gradient in zip(parameters, gradients, strict=True)
                    }
                    # A first axis in the images' place: a gradient is of all of them.
                    finding = first_not_finite({name: v[None] for name, v in named.items()})
                    if finding is not None:
                        where = f"{finding.tensor} at denoising step {loss.step}"
                        return replace(finding, tensor=where, image=chosen.start)
        return None

    def _losses(
        self,
        rollout: Rollout,
        advantages: Tensor,
        prompts: Sequence[str],
        chosen: slice,
    ) -> Iterator[StepLoss]:
        embeddings = self._policy.embed([prompts[i] for i in rollout.prompt_ids[chosen].tolist()])
        return step_losses(
            self._policy,
            self._denoiser,
            self._config.algorithm,
            rollout,
            advantages,
            embeddings,
            chosen,
        )

    def _check_ratio(self, result: PolicyLoss, record: "_Record") -> None:
        # Nothing was updated since the rollout, so any difference is a fault of ours or of the
        # numerics, and training on it would teach noise.
        error = self._process_group.all_reduce_max(
            float((result.ratio - 1).abs().max().nan_to_num(math.inf))
        )
        if math.isinf(error):
            return  # not a number: what it came from is named at the optimizer step
        record.ratio_error = max(record.ratio_error, error)
        tolerance = self._config.algorithm.ratio_tolerance
        if not error <= tolerance:
            raise RatioError(
                f"|ratio - 1| is {error:.2e} before the first optimizer step on a rollout, more "
                f"than training.algorithm.ratio_tolerance={tolerance:g}: "
                "rollout and update do not compute the same policy",
                repair="use one precision, one microbatch size and one compile state for both",
            )


def learning_rate(config: TrainingConfig, optimizer_step: int) -> float:
    """Compute the learning rate of an optimizer step, counted from 0."""
    if config.optimizer.decay == "constant":
        return config.optimizer.learning_rate
    return config.optimizer.learning_rate * (1 - optimizer_step / config.optimizer_steps)


class _Record:
    """What the microbatches of an update gave on this rank."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.divergences: list[float] = []
        self.ratios: list[Tensor] = []
        self.above: list[float] = []
        self.below: list[float] = []
        self.gradient_norms: list[float] = []
        self.ratio_error = 0.0

    def add(self, result: PolicyLoss, loss: float) -> None:
        self.losses.append(loss)
        self.ratios.append(result.ratio)
        self.above.append(float(result.clipped_above))
        self.below.append(float(result.clipped_below))

    def metrics(self, process_group: ProcessGroup, *, learning_rate: float) -> dict[str, float]:
        ratios = torch.cat(self.ratios)
        mean = process_group.all_reduce_mean(float(ratios.mean()))
        variance = process_group.all_reduce_mean(float(((ratios - mean) ** 2).mean()))
        metrics = {
            "policy/loss": process_group.all_reduce_mean(_mean(self.losses)),
            "policy/ratio_mean": mean,
            "policy/ratio_std": math.sqrt(variance),
            "policy/ratio_error_before_step": self.ratio_error,
            "policy/clipped_above": process_group.all_reduce_mean(_mean(self.above)),
            "policy/clipped_below": process_group.all_reduce_mean(_mean(self.below)),
            "policy/gradient_norm": _mean(self.gradient_norms),
            "policy/learning_rate": learning_rate,
        }
        if self.divergences:
            metrics["policy/divergence_from_base"] = process_group.all_reduce_mean(
                _mean(self.divergences)
            )
        return metrics


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
