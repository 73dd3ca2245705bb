"""GRPO on denoising steps: the clipped policy loss on the ratio of log-probabilities."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from advgrpo.algorithm import sde
from advgrpo.algorithm.dpm_solver import follow_dpm_solver
from advgrpo.algorithm.policy_loss import (
    PolicyLoss,
    clipped_policy_loss,
    divergence_policy_loss,
    normalized_log_ratio,
)
from advgrpo.algorithm.randomness import gaussian_noise, generator_for
from advgrpo.algorithm.schedule import window_start
from advgrpo.algorithm.seeds import seed_for
from advgrpo.config.algorithms import GrpoConfig
from advgrpo.config.denoising_steps import FlowSdeSampler, RandomWindow, SlidingWindow
from advgrpo.config.policy import SamplingConfig
from advgrpo.data.sampler import ImagePlan
from advgrpo.models.policies.adapter_weights import AdapterWeights
from advgrpo.models.policies.base import FlowModel, PromptEmbeddings
from advgrpo.runtime.process_group import ProcessGroup
from advgrpo.training.algorithms.base import Algorithm, PassLoss
from advgrpo.training.algorithms.ratio import check_ratio, ratio_metrics
from advgrpo.training.rollout import Rollout, Sample, initial_noise

Latents = Float[Tensor, "batch channel height width"]


class Grpo(Algorithm):
    """GRPO.

    A rollout records `latents` (before each trained denoising step, and after the last one;
    float32, `[batch, step + 1, channel, height, width]`) and `log_probs` (of each trained step,
    from the stored latents, `[batch, step]`); if the loss needs them also
    `means` (of each trained step's distribution, shaped as latents).

    Source:
        Flow-GRPO, arXiv:2505.05470.
    """

    config: GrpoConfig

    def __init__(
        self,
        config: GrpoConfig,
        sampling: SamplingConfig,
        policy: FlowModel,
        adapter: AdapterWeights,
        *,
        seed: int,
    ) -> None:
        super().__init__(config, sampling, policy, adapter, seed=seed)
        self._sigmas = policy.sigmas(sampling.num_inference_steps).tolist()

    def sample(
        self, plans: Sequence[ImagePlan], embeddings: PromptEmbeddings, rollout: int
    ) -> Sample:
        """Follow the ODE, but draw the steps of the window from their distributions."""
        start, shared = self._window_start(rollout), self.config.shared_prefix
        end = start + self.config.window.length
        latents = initial_noise(
            self.policy, plans, seed=self.seed, rollout=rollout, same_in_group=shared
        )
        if shared:
            # A group that spans microbatches computes the prefix in each: the start noise depends
            # on the prompt alone, so the prefixes agree.
            latents = self._shared_prefix(latents, embeddings, plans, steps=start)
        else:
            for step in range(start):
                latents = self._follow_ode(latents, step, embeddings)
        # The latents after a step are the input of the next, so `length + 1` tensors serve all
        # steps.
        recorded, log_probs, means = [latents], [], []
        for step in range(start, end):
            with self.policy.as_in_update():
                distribution = self._distribution(latents, step, embeddings)
            # Each image has its own noise in the window, with a shared prefix, too: it is what
            # makes the images of a group differ.
            seeds = [seed_for(self.seed, rollout, p.prompt_id, p.sample, step) for p in plans]
            noise = gaussian_noise(seeds, self.policy.latent_shape).to(self.policy.device)
            latents = sde.draw(distribution, noise)
            # Scored as it is stored, float32 and after the draw: latents that are rounded later
            # would move the ratio by more than the clip range.
            log_probs.append(self.log_prob(latents, distribution))
            recorded.append(latents)
            means.append(distribution.mean)
        # Without noise after the window, so that rewards within a group differ by trained steps
        # only.
        latents = self._finish(latents, end, embeddings)
        tensors = {"latents": recorded, "log_probs": log_probs}
        if self.config.records_means:
            tensors["means"] = means
        return Sample(latents, {name: torch.stack(t, dim=1) for name, t in tensors.items()})

    def losses(
        self,
        rollout: Rollout,
        advantages: Float[Tensor, "batch"],
        embeddings: PromptEmbeddings,
    ) -> Iterator[PassLoss]:
        """Compute the clipped policy loss at each trained denoising step."""
        config, start = self.config, self._window_start(rollout.number)
        recorded = rollout.recorded["latents"]
        advantages = advantages.clamp(-config.advantage_clip, config.advantage_clip)
        for index in range(config.window.length):
            step, latents = start + index, recorded[:, index]
            # Without a weight, the pass through the base policy is saved.
            base_mean = None
            if config.kl_weight:
                with torch.no_grad(), self.policy.base_policy():
                    base_mean = self._distribution(latents, step, embeddings).mean
            distribution = self._distribution(latents, step, embeddings)
            # The recorded latents, not new ones: gradients flow through the distribution only.
            log_prob = self.log_prob(recorded[:, index + 1], distribution)
            result = self._policy_loss(log_prob, distribution, rollout, index, advantages)
            total, values = (
                result.loss,
                {
                    "ratio": result.ratio,
                    "clipped_above": result.clipped_above,
                    "clipped_below": result.clipped_below,
                },
            )
            if base_mean is not None:
                divergence = sde.gaussian_divergence(
                    distribution.mean, base_mean, std=distribution.std
                ).mean()
                total = total + config.kl_weight * divergence
                values["divergence_from_base"] = divergence.detach()
            # A generator: the caller differentiates each loss before the next forward pass.
            yield PassLoss(f"denoising step {step}", total, values)

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
        """Describe ratios, clipping and the divergence from the base policy."""
        clip_range = self.config.binding_clip_range
        return ratio_metrics(passes, process_group, unchanged=unchanged, clip_range=clip_range)

    def log_prob(self, next_latents: Latents, step: sde.GaussianStep) -> Float[Tensor, "batch"]:
        """Score next latents as the run is configured to."""
        if self.config.log_prob == "released":
            return sde.released_log_prob(next_latents, step)
        return sde.gaussian_log_prob(next_latents, step)

    def _policy_loss(
        self,
        log_prob: Float[Tensor, "batch"],
        distribution: sde.GaussianStep,
        rollout: Rollout,
        index: int,
        advantages: Float[Tensor, "batch"],
    ) -> PolicyLoss:
        config, before = self.config, rollout.recorded["log_probs"][:, index]
        clip_range = config.clip_range
        if not config.records_means:
            return clipped_policy_loss(log_prob, before, advantages, clip_range=clip_range)
        mean, std = rollout.recorded["means"][:, index], distribution.std
        divergence = sde.gaussian_divergence(distribution.mean, mean, std=std)
        bound = config.divergence_bound
        if bound is not None:
            return divergence_policy_loss(log_prob, before, advantages, divergence, bound=bound)
        log_ratio = normalized_log_ratio(log_prob, before, divergence, std=std)
        result = clipped_policy_loss(
            log_ratio, torch.zeros_like(log_ratio), advantages, clip_range=clip_range
        )
        step = self._window_start(rollout.number) + index
        # A step's mean moves with the velocity by the length of the step, and the loss with it.
        length = self._sigmas[step] - self._sigmas[step + 1]
        return replace(result, loss=result.loss / length)

    def _window_start(self, rollout: int) -> int:
        """Return the first trained denoising step, the same for all images and ranks."""
        window = self.config.window
        if isinstance(window, SlidingWindow):
            return window.starts[rollout // window.rollouts_per_position % len(window.starts)]
        if isinstance(window, RandomWindow):
            generator = generator_for(self.seed, "window", rollout)
            return window_start(window.first_start, window.last_start, generator=generator)
        return window.start

    def _follow_ode(self, latents: Latents, step: int, embeddings: PromptEmbeddings) -> Latents:
        return sde.euler_step(
            latents,
            self._velocity(latents, self._sigmas[step], embeddings, position=float(step)),
            sigma=self._sigmas[step],
            next_sigma=self._sigmas[step + 1],
        )

    def _finish(self, latents: Latents, start: int, embeddings: PromptEmbeddings) -> Latents:
        """Follow the ODE from the end of the window to the image."""
        steps, fast = self.sampling.num_inference_steps, self.config.fast_sampling
        if fast.tail_steps is None:
            for step in range(start, steps):
                latents = self._follow_ode(latents, step, embeddings)
            return latents
        # Between the sigmas of the schedule where it must be.
        positions = [*fast.tail(start, steps), steps]
        sigmas = np.interp(positions, range(steps + 1), self._sigmas).tolist()
        at = dict(zip(sigmas, positions, strict=True))
        return follow_dpm_solver(
            lambda x, sigma: self._velocity(x, sigma, embeddings, position=at[sigma]),
            latents,
            sigmas,
        )

    def _distribution(
        self, latents: Latents, step: int, embeddings: PromptEmbeddings
    ) -> sde.GaussianStep:
        """Return the policy's distribution of the next latents at a trained step."""
        velocity = self._velocity(latents, self._sigmas[step], embeddings, position=float(step))
        sigma, next_sigma = self._sigmas[step], self._sigmas[step + 1]
        sampler = self.config.sampler
        if isinstance(sampler, FlowSdeSampler):
            return sde.flow_sde_step(
                latents,
                velocity,
                sigma=sigma,
                next_sigma=next_sigma,
                noise_level=sampler.noise_level,
                # As in Flow-GRPO: the first step starts from sigma 1.
                largest_sigma_below_one=self._sigmas[1],
            )
        return sde.cps_step(
            latents,
            velocity,
            sigma=sigma,
            next_sigma=next_sigma,
            noise_level=sampler.noise_level,
        )

    def _velocity(
        self, latents: Latents, sigma: float, embeddings: PromptEmbeddings, *, position: float
    ) -> Latents:
        steps, scale = self.sampling.num_inference_steps, self.sampling.guidance_scale
        guided = self.config.fast_sampling.is_guided(position, steps)
        return self.policy.velocity(
            latents, sigma, embeddings, guidance_scale=scale if guided else None
        )

    def _shared_prefix(
        self,
        latents: Latents,
        embeddings: PromptEmbeddings,
        plans: Sequence[ImagePlan],
        *,
        steps: int,
    ) -> Latents:
        """Denoise the first image of each group and copy it to the others of the microbatch."""
        first: dict[int, int] = {}
        leaders = [first.setdefault(plan.prompt_id, i) for i, plan in enumerate(plans)]
        # A smaller batch than in the update, which is harmless: the prefix is not scored.
        chosen = sorted(set(leaders))
        leading = latents[chosen]
        theirs = embeddings[chosen]
        for step in range(steps):
            leading = self._follow_ode(leading, step, theirs)
        return leading[[chosen.index(leader) for leader in leaders]]
