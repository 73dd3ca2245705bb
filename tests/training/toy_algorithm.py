"""A second RL algorithm: reward-weighted flow matching on clean latents, with an old policy."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from advgrpo.algorithm.randomness import gaussian_noise, generator_for
from advgrpo.algorithm.sde import euler_step
from advgrpo.algorithm.seeds import seed_for
from advgrpo.config import SamplingConfig
from advgrpo.config.base import AlgorithmConfig
from advgrpo.data.sampler import ImagePlan
from advgrpo.models.policies.adapter_weights import AdapterWeights
from advgrpo.models.policies.base import FlowModel, PromptEmbeddings
from advgrpo.runtime.process_group import ProcessGroup
from advgrpo.training.algorithms.base import Algorithm, PassLoss
from advgrpo.training.rollout import Rollout, Sample, initial_noise


class ToyConfig(AlgorithmConfig):
    type: Literal["toy"] = "toy"
    temperature: float = 1.0
    old_decay: float = 0.5

    @property
    def trained_steps(self) -> int:
        return 3

    @property
    def recorded_latents(self) -> int:
        return 1


class RewardWeightedMatching(Algorithm):
    """Matches the velocity towards images of the old policy, weighted by exp(advantage)."""

    config: ToyConfig

    def __init__(
        self,
        config: ToyConfig,
        sampling: SamplingConfig,
        policy: FlowModel,
        adapter: AdapterWeights,
        *,
        seed: int,
    ) -> None:
        super().__init__(config, sampling, policy, adapter, seed=seed)
        self._old = adapter.adapter()

    def sample(
        self, plans: Sequence[ImagePlan], embeddings: PromptEmbeddings, rollout: int
    ) -> Sample:
        latents = initial_noise(self.policy, plans, seed=self.seed, rollout=rollout)
        sigmas = self.policy.sigmas(self.sampling.num_inference_steps).tolist()
        with self.adapter.adapter_as(self._old):
            for sigma, next_sigma in pairwise(sigmas):
                velocity = self.policy.velocity(latents, sigma, embeddings, guidance_scale=1.0)
                latents = euler_step(latents, velocity, sigma=sigma, next_sigma=next_sigma)
        return Sample(latents, {"clean_latents": latents})

    def losses(
        self, rollout: Rollout, advantages: Tensor, embeddings: PromptEmbeddings
    ) -> Iterator[PassLoss]:
        clean = rollout.recorded["clean_latents"]
        weights = torch.exp(advantages / self.config.temperature)
        images = list(zip(rollout.prompt_ids.tolist(), rollout.samples.tolist(), strict=True))
        for draw in range(self.config.trained_steps):
            generator = generator_for(self.seed, rollout.number, "sigma", draw)
            sigma = 0.1 + 0.8 * float(torch.rand((), generator=generator))
            seeds = [seed_for(self.seed, rollout.number, *image, draw) for image in images]
            noise = gaussian_noise(seeds, self.policy.latent_shape).to(clean.device)
            noised = (1 - sigma) * clean + sigma * noise
            velocity = self.policy.velocity(noised, sigma, embeddings, guidance_scale=1.0)
            errors = ((velocity - (noise - clean)) ** 2).mean(dim=(1, 2, 3))
            yield PassLoss(f"draw {draw}", (weights * errors).mean(), {"error": errors.detach()})

    def metrics(
        self,
        passes: Sequence[Mapping[str, Tensor]],
        process_group: ProcessGroup,
        *,
        unchanged: int,
    ) -> dict[str, float]:
        del unchanged
        errors = torch.cat([values["error"] for values in passes])
        return {"policy/matching_error": process_group.all_reduce_mean(float(errors.mean()))}

    def finish_update(self, optimizer_steps: int) -> None:  # noqa: ARG002
        for name, value in self.adapter.adapter().items():
            self._old[name].lerp_(value, 1 - self.config.old_decay)

    def state(self) -> dict[str, Tensor]:
        return {f"old.{name}": value for name, value in self._old.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        for name, value in self._old.items():
            value.copy_(state[f"old.{name}"])
