"""Discriminator updates on generated and reference images."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from advgrpo.algorithm.randomness import generator_for
from advgrpo.config.discriminator import DiscriminatorOptimizerConfig
from advgrpo.errors import NonFiniteError
from advgrpo.models.discriminators.base import Discriminator, Features, concatenate, pick
from advgrpo.models.discriminators.replay import ReplayPool
from advgrpo.runtime.process_group import ProcessGroup
from advgrpo.training.reference_features import ReferenceFeatures


@dataclass(frozen=True)
class GeneratedFeatures:
    """Features of generated images of all ranks, without prompts, on the CPU."""

    features: Features
    prompt_ids: Int[Tensor, "image"]


class DiscriminatorUpdater:
    """Takes the discriminator's optimizer steps; all ranks end with the same bits.

    Args:
        discriminator: The reward being trained.
        references: Features of the reference images.
        prompts: All training prompts.
        config: Optimizer, batch and replay settings.
        process_group: The training processes.
        seed: The run's seed.
    """

    def __init__(
        self,
        discriminator: Discriminator,
        references: ReferenceFeatures,
        prompts: Sequence[str],
        config: DiscriminatorOptimizerConfig,
        process_group: ProcessGroup,
        *,
        seed: int,
    ) -> None:
        self._discriminator, self._references = discriminator, references
        self._prompts, self._config, self._process_group, self._seed = (
            prompts,
            config,
            process_group,
            seed,
        )
        self._parameters = list(discriminator.trainable_parameters().values())
        # Not a DeepSpeed engine: the trained part is small, and averaging its gradients explicitly
        # keeps its bits equal on all ranks.
        self.optimizer = torch.optim.Adam(
            self._parameters, lr=config.learning_rate, betas=config.betas
        )

    def update(
        self, fresh: GeneratedFeatures, replay: ReplayPool, *, steps: int, purpose: str
    ) -> dict[str, float]:
        """Take optimizer steps on this rollout's and earlier rollouts' images.

        Args:
            fresh: This rollout's images.
            replay: Earlier rollouts' images.
            steps: Optimizer steps.
            purpose: What the steps are for, such as `rollout 3`; it seeds the batches and names
                them in messages.

        Returns:
            Mean loss and gradient norm.

        Raises:
            NonFiniteError: On all ranks, before the step, if a gradient is NaN or infinite.
        """
        losses, norms = [], []
        for step in range(steps):
            # One generator for each step: the batch does not depend on how many draws came before.
            generator = generator_for(self._seed, "discriminator", purpose, step)
            loss = self._discriminator.loss(*self._batch(fresh, replay, generator))
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self._process_group.average_gradients(self._parameters)
            gradients = [p.grad.norm() for p in self._parameters if p.grad is not None]
            norms.append(float(torch.stack(gradients).norm()))
            # Averaged over the ranks, so that all of them raise, whichever loss it came from.
            if not math.isfinite(norms[-1]):
                # Gradients must not remain for the next step of a run that skips this one.
                self.optimizer.zero_grad(set_to_none=True)
                raise NonFiniteError(
                    f"the discriminator's gradient became {norms[-1]} in step {step} of {purpose} "
                    f"(loss of rank {self._process_group.rank}: {loss.item()})",
                    repair="lower discriminator.optimizer.learning_rate; the last checkpoint is "
                    "intact",
                )
            losses.append(float(loss.detach()))
            self.optimizer.step()
        return {
            "discriminator/loss": self._process_group.all_reduce_mean(sum(losses) / len(losses)),
            "discriminator/gradient_norm": sum(norms) / len(norms),
        }

    def state(self) -> dict[str, Tensor]:
        """Return the optimizer's state by parameter name; empty before the first step."""
        state: dict[str, Tensor] = {}
        for name, parameter in self._discriminator.trainable_parameters().items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                state[f"{key}.{name}"] = value.detach().cpu().clone()
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned."""
        for name, parameter in self._discriminator.trainable_parameters().items():
            if f"step.{name}" not in state:
                continue
            self.optimizer.state[parameter] = {
                # Adam keeps `step` on the CPU unless it is capturable or fused, so it is not moved.
                "step": state[f"step.{name}"].clone(),
                "exp_avg": state[f"exp_avg.{name}"].to(parameter.device).clone(),
                "exp_avg_sq": state[f"exp_avg_sq.{name}"].to(parameter.device).clone(),
            }

    def _batch(
        self, fresh: GeneratedFeatures, replay: ReplayPool, generator: torch.Generator
    ) -> tuple[Features, Features, Features]:
        size = self._config.batch_size
        # The pool is empty in the first rollout, which then fills the whole batch.
        old = round(size * self._config.replay_fraction) if len(replay) else 0
        new = torch.randint(len(fresh.prompt_ids), (size - old,), generator=generator)
        # randint refuses an empty range, even for no draws.
        past = torch.randint(max(1, len(replay)), (old,), generator=generator)
        ids = torch.cat([fresh.prompt_ids[new], replay.prompt_ids[past]])
        # All draws are made before the batch is sliced: each rank must advance its generator by the
        # same amount.
        others = self._references.other_prompts(ids, generator)
        variations = self._references.draw_variations(len(ids), generator)
        # Every rank draws the whole batch and takes its share, so that the batch does not depend
        # on the number of ranks.
        mine = slice(self._process_group.rank, None, self._process_group.world_size)
        parts = [pick(fresh.features, new)] + ([pick(replay.features, past)] if old else [])
        generated = pick(concatenate(parts), mine)
        ids, others, variations = ids[mine], others[mine], variations[mine]
        references = self._references.take(ids, variations)
        own, foreign = ([self._prompts[i] for i in chosen.tolist()] for chosen in (ids, others))
        return (
            self._discriminator.with_prompts(references, own),
            self._discriminator.with_prompts(generated, own),
            self._discriminator.with_prompts(references, foreign),
        )


def separation_metrics(
    discriminator: Discriminator,
    reference: Features,
    generated: Features,
) -> dict[str, float]:
    """Evaluate the discriminator on images that it was not trained on.

    Args:
        discriminator: The reward being trained.
        reference: Held-out reference images with their prompts.
        generated: Fresh generated images with their prompts.

    Returns:
        Accuracy over both kinds, weighted equally, or, for a discriminator without a boundary, the
        share of pairs of a reference and a generated image that it puts in that order; mean logit
        of each; their difference; and the separation, from 0 at chance level to 1 if all pairs are
        in order (twice the area under the ROC curve, less one).
    """
    real, fake = discriminator.rewards(reference), discriminator.rewards(generated)
    in_order = float(_share(real[:, None] > fake[None, :]))
    metrics = {
        "discriminator/held_out_reference_logit": float(real.mean()),
        "discriminator/generated_logit": float(fake.mean()),
        "discriminator/margin": float(real.mean() - fake.mean()),
        "discriminator/separation": max(0.0, 2 * in_order - 1),
    }
    if discriminator.boundary is None:
        # Only the order has a meaning, so this is the area under the ROC curve.
        return {"discriminator/held_out_accuracy": in_order, **metrics}
    real, fake = real - discriminator.boundary, fake - discriminator.boundary
    return {
        "discriminator/held_out_accuracy": float((_share(real > 0) + _share(fake < 0)) / 2),
        **metrics,
        # A hinge loss does not train logits to be log-odds, so this is a diagnostic: how far the
        # share of positives is from the mean of the sigmoids.
        "discriminator/calibration_error": float(
            (_share(real > 0) - torch.sigmoid(real).mean()).abs()
            + (_share(fake > 0) - torch.sigmoid(fake).mean()).abs()
        )
        / 2,
    }


def _share(condition: Tensor) -> Float[Tensor, ""]:
    return condition.float().mean()
