"""Update the policy on a rollout."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from advgrpo.algorithm.policy_loss import PolicyLoss, clipped_policy_loss
from advgrpo.algorithm.sde import gaussian_divergence
from advgrpo.config import TrainingConfig
from advgrpo.errors import NonFiniteError, RatioError
from advgrpo.policy.base import Policy, PromptEmbeddings
from advgrpo.policy.ema import MovingAverage
from advgrpo.training.engine import PolicyEngine
from advgrpo.training.ranks import Ranks
from advgrpo.training.rollout import Denoiser, Rollout


class PolicyUpdater:
    """Takes the optimizer steps of a rollout.

    Args:
        policy: The model being trained.
        engine: Its optimizer.
        denoiser: Its denoising step, the one that made the rollout.
        average: Moving average of the adapter, updated after each optimizer step.
        config: Loss, optimizer and rollout settings.
        ranks: The training processes.
    """

    def __init__(
        self,
        policy: Policy,
        engine: PolicyEngine,
        denoiser: Denoiser,
        average: MovingAverage,
        config: TrainingConfig,
        ranks: Ranks,
    ) -> None:
        self._policy, self._engine, self._denoiser = policy, engine, denoiser
        self._average, self._config, self._ranks = average, config, ranks

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
            NonFiniteError: If the loss is NaN or infinite.
        """
        steps = self._config.optimizer_steps_per_update
        per_step = len(rollout.prompt_ids) // steps
        record = _Record()
        for step in range(steps):
            done = update * steps + step
            rate = learning_rate(self._config, done)
            self._engine.set_learning_rate(rate)
            for first in range(step * per_step, (step + 1) * per_step, self._microbatch):
                chosen = slice(first, first + self._microbatch)
                self._train_on(rollout, advantages, prompts, chosen, record)
            record.gradient_norms.append(self._engine.gradient_norm)
            self._average.update(self._engine.adapter(), step=done)
        return record.measures(self._ranks, learning_rate=rate)

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
        loss_config = self._config.loss
        embeddings = self._policy.embed([prompts[i] for i in rollout.prompt_ids[chosen].tolist()])
        advantage = advantages[chosen].clamp(
            -loss_config.advantage_limit, loss_config.advantage_limit
        )
        for index in range(rollout.log_probs.shape[1]):
            latents, next_latents = (rollout.latents[chosen, index + k] for k in (0, 1))
            step = rollout.window_start + index
            base_mean = self._base_mean(latents, step, embeddings)
            distribution = self._denoiser.distribution(latents, step, embeddings)
            log_prob = self._denoiser.log_prob(next_latents, distribution)
            result = clipped_policy_loss(
                log_prob,
                rollout.log_probs[chosen, index],
                advantage,
                clip_range=loss_config.clip_range,
            )
            loss = result.loss
            if base_mean is not None:
                divergence = gaussian_divergence(
                    distribution.mean, base_mean, std=distribution.std
                ).mean()
                loss = loss + loss_config.kl_weight * divergence
                record.divergences.append(float(divergence.detach()))
            if chosen.start == 0:
                self._check_ratio(result, record)
            if not math.isfinite(float(loss.detach())):
                raise NonFiniteError(
                    f"the policy loss became {float(loss.detach())} at denoising step {step}",
                    repair="lower training.optimizer.learning_rate, or look for NaN rewards in "
                    "history.jsonl; the last checkpoint is intact",
                )
            record.add(result, float(loss.detach()))
            self._engine.backward(loss)

    def _base_mean(self, latents: Tensor, step: int, embeddings: PromptEmbeddings) -> Tensor | None:
        if self._config.loss.kl_weight == 0:
            return None
        with torch.no_grad(), self._policy.base_policy():
            return self._denoiser.distribution(latents, step, embeddings).mean

    def _check_ratio(self, result: PolicyLoss, record: "_Record") -> None:
        # Nothing was updated since the rollout, so any difference is a fault of ours or of the
        # numerics, and training on it would teach noise.
        error = self._ranks.largest(float((result.ratio - 1).abs().max()))
        record.ratio_error = max(record.ratio_error, error)
        if not error <= self._config.ratio_tolerance:
            raise RatioError(
                f"|ratio - 1| is {error:.2e} before the first optimizer step on a rollout, more "
                f"than training.ratio_tolerance={self._config.ratio_tolerance:g}: rollout and "
                "update do not compute the same policy",
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

    def measures(self, ranks: Ranks, *, learning_rate: float) -> dict[str, float]:
        ratios = torch.cat(self.ratios)
        mean = ranks.mean(float(ratios.mean()))
        variance = ranks.mean(float(((ratios - mean) ** 2).mean()))
        measures = {
            "policy/loss": ranks.mean(_mean(self.losses)),
            "policy/ratio_mean": mean,
            "policy/ratio_std": math.sqrt(variance),
            "policy/ratio_error_before_step": self.ratio_error,
            "policy/clipped_above": ranks.mean(_mean(self.above)),
            "policy/clipped_below": ranks.mean(_mean(self.below)),
            "policy/gradient_norm": _mean(self.gradient_norms),
            "policy/learning_rate": learning_rate,
        }
        if self.divergences:
            measures["policy/divergence_from_base"] = ranks.mean(_mean(self.divergences))
        return measures


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
