"""AWM, advantage-weighted matching: GRPO whose likelihood is minus the error of flow matching."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from advgrpo.algorithm.policy_loss import clipped_policy_loss
from advgrpo.algorithm.sde import follow_ode
from advgrpo.config.algorithms import AwmConfig
from advgrpo.config.policy import SamplingConfig
from advgrpo.data.sampler import ImagePlan
from advgrpo.models.policies.adapter_weights import AdapterWeights
from advgrpo.models.policies.base import FlowModel, PromptEmbeddings
from advgrpo.runtime.process_group import ProcessGroup
from advgrpo.training.algorithms.base import Algorithm, PassLoss
from advgrpo.training.algorithms.noised import NoisedCopy, noised_copies
from advgrpo.training.algorithms.ratio import check_ratio, ratio_metrics
from advgrpo.training.rollout import Rollout, Sample, initial_noise

Latents = Float[Tensor, "batch channel height width"]


class Awm(Algorithm):
    """AWM.

    A rollout records `clean_latents` of images that the policy generates by the ODE, and
    `log_probs`: minus the mean squared error of the velocity on each noised copy
    (`[batch, draw]`).

    Source:
        Advantage Weighted Matching, arXiv:2509.25050, algorithm 1.
    """

    config: AwmConfig

    def __init__(
        self,
        config: AwmConfig,
        sampling: SamplingConfig,
        policy: FlowModel,
        adapter: AdapterWeights,
        *,
        seed: int,
    ) -> None:
        super().__init__(config, sampling, policy, adapter, seed=seed)
        self._schedule = policy.sigmas(sampling.num_inference_steps)

    def sample(
        self, plans: Sequence[ImagePlan], embeddings: PromptEmbeddings, rollout: int
    ) -> Sample:
        """Follow the ODE, and score each image on its noised copies."""
        latents = initial_noise(self.policy, plans, seed=self.seed, rollout=rollout)
        velocity = partial(self._velocity, embeddings=embeddings)
        latents = follow_ode(velocity, latents, self._schedule.tolist())
        copies = self._copies(latents, [(p.prompt_id, p.sample) for p in plans], rollout)
        with self.policy.as_in_update():
            scores = [
                self._log_prob(self._velocity(copy.latents, copy.sigma, embeddings), copy)
                for copy in copies
            ]
        recorded = {"clean_latents": latents, "log_probs": torch.stack(scores, dim=1)}
        return Sample(latents, recorded)

    def losses(
        self,
        rollout: Rollout,
        advantages: Float[Tensor, "batch"],
        embeddings: PromptEmbeddings,
    ) -> Iterator[PassLoss]:
        """Compute the clipped policy loss on each noised copy."""
        config = self.config
        images = list(zip(rollout.prompt_ids.tolist(), rollout.samples.tolist(), strict=True))
        copies = self._copies(rollout.recorded["clean_latents"], images, rollout.number)
        advantages = advantages.clamp(-config.advantage_clip, config.advantage_clip)
        for index, copy in enumerate(copies):
            base_velocity = None
            if config.kl_weight:
                with torch.no_grad(), self.policy.base_policy():
                    base_velocity = self._velocity(copy.latents, copy.sigma, embeddings)
            velocity = self._velocity(copy.latents, copy.sigma, embeddings)
            log_prob = self._log_prob(velocity, copy)
            result = clipped_policy_loss(
                log_prob,
                rollout.recorded["log_probs"][:, index],
                advantages,
                clip_range=config.clip_range,
            )
            total, values = (
                result.loss,
                {
                    "ratio": result.ratio,
                    "clipped_above": result.clipped_above,
                    "clipped_below": result.clipped_below,
                    "matching_error": -log_prob.detach(),
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
        """Require that the ratio is 1.

        Raises:
            RatioError: On all ranks, if it is further away on any than is tolerated.
        """
        check_ratio(values, process_group, tolerance=self.config.accepted_ratio_error)

    def metrics(
        self,
        passes: Sequence[Mapping[str, Tensor]],
        process_group: ProcessGroup,
        *,
        unchanged: int,
    ) -> dict[str, float]:
        """Describe ratios, clipping, the matching error and the distance from the base policy."""
        clip_range = self.config.clip_range
        return ratio_metrics(passes, process_group, unchanged=unchanged, clip_range=clip_range)

    def _copies(
        self, clean: Latents, images: Sequence[tuple[int, int]], rollout: int
    ) -> list[NoisedCopy]:
        return noised_copies(
            clean,
            images,
            self._schedule,
            draws=self.config.draws,
            seed=self.seed,
            rollout=rollout,
        )

    def _velocity(self, latents: Latents, sigma: float, embeddings: PromptEmbeddings) -> Latents:
        # The settings switch guidance off; a family whose transformer takes the scale needs it.
        scale = self.sampling.guidance_scale
        return self.policy.velocity(latents, sigma, embeddings, guidance_scale=scale)

    @staticmethod
    def _log_prob(velocity: Latents, copy: NoisedCopy) -> Float[Tensor, "batch"]:
        # The same weight at every sigma, as in flow matching; released code offers others, too.
        return -((velocity - copy.target) ** 2).mean(dim=(1, 2, 3))
