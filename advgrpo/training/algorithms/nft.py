"""DiffusionNFT: the old policy generates images, the trained one learns to tell good from bad."""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from advgrpo.algorithm.ema import old_policy_decay
from advgrpo.algorithm.nft_loss import nft_loss
from advgrpo.algorithm.sde import follow_ode
from advgrpo.config.algorithms import NftConfig
from advgrpo.config.policy import SamplingConfig
from advgrpo.data.sampler import ImagePlan
from advgrpo.errors import OldPolicyError
from advgrpo.models.policies.adapter_weights import AdapterWeights
from advgrpo.models.policies.base import FlowModel, PromptEmbeddings
from advgrpo.runtime.process_group import ProcessGroup
from advgrpo.training.algorithms.base import Algorithm, PassLoss
from advgrpo.training.algorithms.noised import noised_copies
from advgrpo.training.algorithms.ratio import mean_metrics
from advgrpo.training.rollout import Rollout, Sample, initial_noise

Latents = Float[Tensor, "batch channel height width"]

_OLD = "old."
_APART = 1e-3
"""Relative distance of weights from which on velocities must differ in any precision."""

_PUSH = 1e-3
"""Size of an advantage that must move the weights."""


class Nft(Algorithm):
    """DiffusionNFT.

    A rollout records `clean_latents` of images that the old policy generates by the ODE. Losses are
    computed on noised copies of them.

    Source:
        DiffusionNFT, arXiv:2509.16117, algorithm 1.
    """

    config: NftConfig

    def __init__(
        self,
        config: NftConfig,
        sampling: SamplingConfig,
        policy: FlowModel,
        adapter: AdapterWeights,
        *,
        seed: int,
    ) -> None:
        super().__init__(config, sampling, policy, adapter, seed=seed)
        self._schedule = policy.sigmas(sampling.num_inference_steps)
        self._old = adapter.adapter()
        self._distance_before, self._decay = 0.0, 0.0

    def sample(
        self, plans: Sequence[ImagePlan], embeddings: PromptEmbeddings, rollout: int
    ) -> Sample:
        """Follow the ODE of the old policy; each image has its own start noise."""
        latents = initial_noise(self.policy, plans, seed=self.seed, rollout=rollout)
        with self.adapter.adapter_as(self._old):
            velocity = partial(self._velocity, embeddings=embeddings)
            latents = follow_ode(velocity, latents, self._schedule.tolist())
        return Sample(latents, self.record(latents))

    def losses(
        self,
        rollout: Rollout,
        advantages: Float[Tensor, "batch"],
        embeddings: PromptEmbeddings,
    ) -> Iterator[PassLoss]:
        """Compute the contrastive loss at each draw of sigma and noise."""
        config = self.config
        copies = noised_copies(
            rollout.recorded["clean_latents"],
            list(zip(rollout.prompt_ids.tolist(), rollout.samples.tolist(), strict=True)),
            self._schedule,
            draws=config.draws,
            seed=self.seed,
            rollout=rollout.number,
        )
        # Known here, because neither a skipped step nor one without gradient needs to move weights.
        distance = _relative_distance(self.adapter.adapter(), self._old)
        old_velocities: list[Latents | None] = [None] * len(copies)
        # Equal policies have equal velocities, which the first rollout makes sure of.
        if distance or rollout.number == 0:
            # All copies before the first graph: replacing weights afterwards would invalidate it.
            with torch.no_grad(), self.adapter.adapter_as(self._old), self.policy.as_in_update():
                old_velocities = [
                    self._velocity(copy.latents, copy.sigma, embeddings) for copy in copies
                ]
        for index, (copy, old_velocity) in enumerate(zip(copies, old_velocities, strict=True)):
            base_velocity = None
            if config.kl_weight:
                with torch.no_grad(), self.policy.base_policy():
                    base_velocity = self._velocity(copy.latents, copy.sigma, embeddings)
            velocity = self._velocity(copy.latents, copy.sigma, embeddings)
            result = nft_loss(
                velocity,
                velocity if old_velocity is None else old_velocity,
                copy.target,
                advantages,
                sigma=copy.sigma,
                beta=config.beta,
                advantage_clip=config.advantage_clip,
            )
            total, values = (
                result.loss,
                {
                    "contrast": result.contrast,
                    "matching_error": result.error,
                    "advantage": advantages,
                    "old_policy_distance": torch.tensor(distance),
                },
            )
            if base_velocity is not None:
                divergence = ((velocity - base_velocity) ** 2).mean()
                total = total + config.kl_weight * divergence
                values["divergence_from_base"] = divergence.detach()
            yield PassLoss(f"draw {index} at sigma {copy.sigma:.3g}", total, values)

    def check_before_update(
        self, values: Mapping[str, Tensor], process_group: ProcessGroup
    ) -> None:
        """Require equal velocities of equal policies, and different ones of different policies.

        Raises:
            OldPolicyError: On all ranks, if the velocities on any rank are not as the weights.
        """
        # NaN passes: the search after the optimizer step names the tensor that it came from.
        contrast = process_group.all_reduce_max(_largest(values["contrast"]))
        # Equal on all ranks, as the weights are.
        distance, tolerance = float(values["old_policy_distance"]), self.config.contrast_tolerance
        if distance == 0 and tolerance < contrast < math.inf:
            raise OldPolicyError(
                f"old and trained policy have equal weights, but velocities that differ by "
                f"{contrast:.2e}, more than training.algorithm.contrast_tolerance={tolerance:g}: "
                "passes with and without gradient do not compute the same policy",
                repair="remove dropout from the transformer's config.json, or set "
                "training.compile=none",
            )
        if distance > _APART and contrast == 0:
            raise OldPolicyError(
                f"old and trained policy have equal velocities, but weights that differ by "
                f"{distance:.2e}: the old policy's weights have no effect",
                repair="set training.compile=none and training.zero_stage=2; if that changes "
                "nothing, report it as a bug",
            )

    def finish_update(self, optimizer_steps: int) -> None:
        """Let the old policy follow the trained one."""
        config, trained = self.config.old_policy, self.adapter.adapter()
        self._distance_before = _relative_distance(trained, self._old)
        self._decay = old_policy_decay(
            optimizer_steps,
            flat_steps=config.flat_steps,
            growth=config.growth,
            limit=config.limit,
        )
        for name, value in self._old.items():
            # Not lerp, which may round at a decay of 0: the policies must then be equal.
            value.mul_(self._decay).add_(trained[name], alpha=1 - self._decay)

    def metrics(
        self,
        passes: Sequence[Mapping[str, Tensor]],
        process_group: ProcessGroup,
        *,
        unchanged: int,
    ) -> dict[str, float]:
        """Describe the contrast of trained and old policy, and the matching error.

        Raises:
            OldPolicyError: On all ranks, if the update did not move the trained policy away from
                the old one.
        """
        del unchanged
        largest = max(_largest(values["advantage"]) for values in passes)
        if process_group.all_reduce_max(largest) > _PUSH and self._distance_before == 0:
            raise OldPolicyError(
                "old and trained policy are equal after an update with unequal rewards: the "
                "optimizer did not move the adapter, or moved the old policy with it",
                repair="raise training.optimizer.learning_rate; if that changes nothing, report it "
                "as a bug",
            )
        means = ("contrast", "matching_error", "divergence_from_base")
        return {
            "policy/old_policy_distance": self._distance_before,
            "policy/old_policy_decay": self._decay,
            **mean_metrics(passes, process_group, names=means),
        }

    def state(self) -> dict[str, Tensor]:
        """Return the old policy's weights."""
        return {_OLD + name: value for name, value in self._old.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore the old policy's weights."""
        for name, value in self._old.items():
            value.copy_(state[_OLD + name])

    def _velocity(self, latents: Latents, sigma: float, embeddings: PromptEmbeddings) -> Latents:
        # The settings switch guidance off; a family whose transformer takes the scale needs it.
        scale = self.sampling.guidance_scale
        return self.policy.velocity(latents, sigma, embeddings, guidance_scale=scale)


def _largest(values: Tensor) -> float:
    """Return the largest magnitude; infinity if one is not a number."""
    # Comparisons with NaN are false, so max() may drop it; infinity survives the reductions.
    return float(values.abs().max().nan_to_num(math.inf))


def _relative_distance(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float:
    """Return the largest distance of two weights of one name, relative to the larger norm."""
    distances = [0.0]
    for name, value in first.items():
        norm = max(float(value.norm()), float(second[name].norm()))
        distances.append(float((value - second[name]).norm()) / norm if norm else 0.0)
    return max(distances)
