"""Policy updates: the optimizer steps that use a rollout, whichever the algorithm."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from advgrpo.config.training import TrainingConfig
from advgrpo.errors import NonFiniteError
from advgrpo.models.policies.base import Policy
from advgrpo.models.policies.ema import MovingAverage
from advgrpo.runtime.process_group import ProcessGroup
from advgrpo.training.algorithms.base import Algorithm, PassLoss
from advgrpo.training.engines.base import PolicyEngine
from advgrpo.training.nonfinite import Finding, NonFiniteGuard, first_not_finite
from advgrpo.training.rollout import Rollout

_LEAST_SEPARATION = 0.01
"""Keeps the policy moving: `nft` stops a run whose weights do not."""


class PolicyUpdater:
    """Takes the optimizer steps of a rollout.

    Args:
        policy: The model being trained.
        engine: Its optimizer.
        algorithm: Gives the losses.
        average: Moving average of the adapter, updated after each optimizer step.
        guard: Reports and dumps values that are not finite.
        config: Optimizer and rollout settings.
        process_group: The training processes.
    """

    def __init__(
        self,
        policy: Policy,
        engine: PolicyEngine,
        algorithm: Algorithm,
        average: MovingAverage,
        guard: NonFiniteGuard,
        config: TrainingConfig,
        process_group: ProcessGroup,
    ) -> None:
        self._policy, self._engine, self._algorithm = policy, engine, algorithm
        self._average, self._guard = average, guard
        self._config, self._process_group = config, process_group

    def update(
        self,
        rollout: Rollout,
        advantages: Float[Tensor, "batch"],
        prompts: Sequence[str],
        *,
        update: int,
        separation: float,
    ) -> dict[str, float]:
        """Make images with a positive advantage likelier.

        Args:
            rollout: This rank's share; images of an optimizer step are adjacent.
            advantages: One per image.
            prompts: All training prompts.
            update: Count of policy updates before this one.
            separation: Of reference images and rollout by the discriminator, from 0 to 1.

        Returns:
            Metrics over all ranks: loss, gradient norm, learning rate and the algorithm's own.

        A gradient that is NaN or infinite skips its optimizer step. If earlier steps of the update
        were taken, and the settings allow skipping, it ends the update there.

        Raises:
            TrainingError: If rollout and update disagree before the first optimizer step.
            NonFiniteError: On all ranks, if a step is skipped and it was the first of the update,
                or the run must stop.
        """
        steps = self._config.optimizer_steps_per_update
        per_step = len(rollout.prompt_ids) // steps
        size = self._config.rollout.microbatch_of_update
        taken = _Passes()
        for step in range(steps):
            # Derived from the count of updates, so that a resumed run uses the same rates.
            done = update * steps + step
            rate = learning_rate(self._config, done, separation)
            self._engine.set_learning_rate(rate)
            starts = range(step * per_step, (step + 1) * per_step, size)
            microbatches = [slice(first, first + size) for first in starts]
            passes = _Passes()
            for images in microbatches:
                self._train_on(rollout, advantages, prompts, images, passes)
            if self._engine.skipped_step:
                finding = self._find(rollout, advantages, prompts, microbatches)
                try:
                    # Raises on all ranks, so that the moving average never includes a skipped step.
                    self._guard.report_step(finding, rollout, advantages)
                except NonFiniteError as fault:
                    if step == 0:
                        raise
                    # Earlier steps cannot be undone: the update must count, or the next one would
                    # repeat their learning rates and their decay of the moving average.
                    self._guard.skip(fault)
                    break
            # The norm is of the whole gradient, equal on all ranks, and needs no reduction below.
            passes.gradient_norms.append(self._engine.gradient_norm)
            taken.add(passes)
            # adapter() is a collective under ZeRO-3: all ranks reach it, because report_step above
            # raises on all of them.
            self._average.update(self._engine.adapter(), step=done)
        self._algorithm.finish_update((update + 1) * steps)
        # All optimizer steps have as many passes, and one norm each.
        unchanged = len(taken.values) // len(taken.gradient_norms)
        return {
            "policy/loss": self._process_group.all_reduce_mean(_mean(taken.losses)),
            **self._algorithm.metrics(taken.values, self._process_group, unchanged=unchanged),
            "policy/gradient_norm": _mean(taken.gradient_norms),
            "policy/learning_rate": rate,
        }

    def _train_on(
        self,
        rollout: Rollout,
        advantages: Tensor,
        prompts: Sequence[str],
        images: slice,
        passes: "_Passes",
    ) -> None:
        for loss in self._losses(rollout, advantages, prompts, images):
            # All passes of the first microbatch: the weights change at the end of an optimizer step
            # only.
            if images.start == 0:
                self._algorithm.check_before_update(loss.values, self._process_group)
            passes.losses.append(float(loss.total.detach()))
            passes.values.append(loss.values)
            # There may be no collective call until the end of an optimizer step, and the watchdog
            # would report a hang.
            self._process_group.monitor.beat()
            # The last backward pass of an optimizer step takes the step, too.
            self._engine.backward(loss.total)

    def warm_up(self, rollout: Rollout, prompts: Sequence[str]) -> None:
        """Compute gradients of a rollout's first microbatch and drop them, to compile the passes.

        Args:
            rollout: A microbatch of the update or more.
            prompts: All training prompts.
        """
        images = slice(0, self._config.rollout.microbatch_of_update)
        advantages = torch.zeros(len(rollout.prompt_ids), device=self._process_group.device)
        for _ in self._gradients(rollout, advantages, prompts, images):
            # Passes of an algorithm have equal shapes.
            return

    def _find(
        self,
        rollout: Rollout,
        advantages: Tensor,
        prompts: Sequence[str],
        microbatches: Sequence[slice],
    ) -> Finding | None:
        """Find where this rank's gradients are not finite, by computing them once more."""
        if self._engine.partitions_weights:  # no rank holds a whole gradient
            return None
        for images in microbatches:
            for loss, gradients in self._gradients(rollout, advantages, prompts, images):
                # The loss comes first: if it is not finite, all gradients are not, and it is the
                # cause.
                named = {"the policy loss": loss.total.detach()} | {
                    f"the gradient of {name}": gradient for name, gradient in gradients.items()
                }
                # A gradient belongs to all images of the microbatch: its axis of images has length
                # one.
                finding = first_not_finite({name: v[None] for name, v in named.items()})
                if finding is not None:
                    where = f"{finding.tensor} at {loss.name}"
                    return replace(finding, tensor=where, image=images.start)
        return None

    def _gradients(
        self, rollout: Rollout, advantages: Tensor, prompts: Sequence[str], images: slice
    ) -> Iterator[tuple[PassLoss, dict[str, Tensor]]]:
        """Compute a microbatch's gradients without adding them to those of the step."""
        parameters = self._policy.trainable_parameters()
        # DeepSpeed hooks the outputs of its forward pass to prepare a backward pass of its own.
        with self._policy.without_engine():
            for loss in self._losses(rollout, advantages, prompts, images):
                # Not backward(), which would add to the gradients that a skipped step left.
                gradients = torch.autograd.grad(loss.total, list(parameters.values()))
                yield loss, dict(zip(parameters, gradients, strict=True))

    def _losses(
        self,
        rollout: Rollout,
        advantages: Tensor,
        prompts: Sequence[str],
        images: slice,
    ) -> Iterator[PassLoss]:
        part = rollout.part(images)
        embeddings = self._policy.embed([prompts[i] for i in part.prompt_ids.tolist()])
        return self._algorithm.losses(part, advantages[images], embeddings)


def learning_rate(config: TrainingConfig, optimizer_step: int, separation: float) -> float:
    """Compute the learning rate of an optimizer step, counted from 0.

    Args:
        config: The optimizer's settings.
        optimizer_step: Optimizer steps before this one.
        separation: Of reference images and rollout by the discriminator, from 0 to 1.
    """
    rate = config.optimizer.learning_rate
    if config.optimizer.decay == "linear":
        rate *= 1 - optimizer_step / config.optimizer_steps
    if config.optimizer.scale_by_separation:
        rate *= max(separation, _LEAST_SEPARATION)
    return rate


@dataclass
class _Passes:
    """Results of an update's backward passes on this rank."""

    losses: list[float] = field(default_factory=list)
    values: list[Mapping[str, Tensor]] = field(default_factory=list)
    gradient_norms: list[float] = field(default_factory=list)

    def add(self, others: "_Passes") -> None:
        """Append the results of a later optimizer step."""
        self.losses += others.losses
        self.values += others.values
        self.gradient_norms += others.gradient_norms


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
