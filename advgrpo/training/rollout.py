"""Generate a rollout: denoise with the policy and record what it takes to score it again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from advgrpo.algorithm import sde
from advgrpo.algorithm.randomness import gaussian_noise, generator_for
from advgrpo.algorithm.schedule import window_start
from advgrpo.algorithm.seeds import seed_for
from advgrpo.config import SamplingConfig
from advgrpo.config.algorithms import FlowSdeSampler, GrpoConfig, RandomWindow
from advgrpo.data.sampler import ImagePlan
from advgrpo.models.policies.base import FlowModel, PromptEmbeddings


@dataclass(frozen=True)
class Rollout:
    """This rank's share of what one update generated; the leading axis is the image."""

    update: int
    prompt_ids: Int[Tensor, "batch"]
    """Position of each image's prompt in the training prompts."""

    samples: Int[Tensor, "batch"]
    """Position of each image in its group."""

    latents: Float[Tensor, "batch step_plus_one channel latent_height latent_width"]
    """Latents before each trained denoising step, and after the last one; float32."""

    log_probs: Float[Tensor, "batch step"]
    """Log-probability of each trained denoising step, from the stored latents."""

    window_start: int
    """First trained denoising step."""

    images: Float[Tensor, "batch 3 height width"]
    """RGB in [0, 1]."""


class Denoiser:
    """One denoising step of the policy; draws in the rollout and scores in the update.

    Args:
        policy: The model being trained.
        sampling: Steps, guidance and sampler.
        algorithm: The sampler, and how a step is scored.
    """

    def __init__(self, policy: FlowModel, sampling: SamplingConfig, algorithm: GrpoConfig) -> None:
        self._policy = policy
        self._sampling = sampling
        self.algorithm = algorithm
        self._sigmas = policy.sigmas(sampling.num_inference_steps).tolist()

    def follow_ode(self, latents: Tensor, step: int, embeddings: PromptEmbeddings) -> Tensor:
        """Take a step without noise."""
        return sde.euler_step(
            latents,
            self._velocity(latents, step, embeddings),
            sigma=self._sigmas[step],
            next_sigma=self._sigmas[step + 1],
        )

    def distribution(
        self, latents: Tensor, step: int, embeddings: PromptEmbeddings
    ) -> sde.GaussianStep:
        """The policy's distribution of the next latents at a trained step."""
        velocity = self._velocity(latents, step, embeddings)
        sigma, next_sigma = self._sigmas[step], self._sigmas[step + 1]
        sampler = self.algorithm.sampler
        if isinstance(sampler, FlowSdeSampler):
            return sde.flow_sde_step(
                latents,
                velocity,
                sigma=sigma,
                next_sigma=next_sigma,
                noise_level=sampler.noise_level,
                largest_sigma_below_one=self._sigmas[1],
            )
        return sde.cps_step(
            latents,
            velocity,
            sigma=sigma,
            next_sigma=next_sigma,
            noise_level=sampler.noise_level,
        )

    def log_prob(self, next_latents: Tensor, step: sde.GaussianStep) -> Tensor:
        """Score next latents as the run is configured to."""
        if self.algorithm.log_prob == "released":
            return sde.released_log_prob(next_latents, step)
        return sde.gaussian_log_prob(next_latents, step)

    def _velocity(self, latents: Tensor, step: int, embeddings: PromptEmbeddings) -> Tensor:
        return self._policy.velocity(
            latents,
            self._sigmas[step],
            embeddings,
            guidance_scale=self._sampling.guidance_scale,
        )


def start_of_window(algorithm: GrpoConfig, *, seed: int, rollout: int) -> int:
    """Find the first trained denoising step of a rollout, the same for all images and ranks."""
    window = algorithm.window
    if isinstance(window, RandomWindow):
        generator = generator_for(seed, "window", rollout)
        return window_start(window.first_start, window.last_start, generator=generator)
    return window.start


@torch.no_grad()
def generate_rollout(
    policy: FlowModel,
    denoiser: Denoiser,
    plans: Sequence[ImagePlan],
    prompts: Sequence[str],
    *,
    sampling: SamplingConfig,
    microbatch_size: int,
    rollout: int,
    seed: int,
    between: Callable[[], None] = lambda: None,
) -> Rollout:
    """Denoise this rank's images, microbatch by microbatch; their size changes no result.

    Args:
        policy: The model being trained.
        denoiser: Its denoising step.
        plans: Which images; whole microbatches.
        prompts: All training prompts; a plan's prompt id is a position in them.
        sampling: Steps, window and shared prefix.
        microbatch_size: Images that pass the transformer at once.
        rollout: Count of rollouts before this one.
        seed: The run's seed.
        between: Called after each microbatch.

    Returns:
        The rollout, in the order of the plans.
    """
    algorithm = denoiser.algorithm
    start = start_of_window(algorithm, seed=seed, rollout=rollout)
    trained = range(start, start + algorithm.window.length)
    latents, log_probs, images = [], [], []
    for first in range(0, len(plans), microbatch_size):
        batch = plans[first : first + microbatch_size]
        embeddings = policy.embed([prompts[plan.prompt_id] for plan in batch])
        seeds = _Seeds(batch, seed=seed, rollout=rollout, shared=algorithm.shared_prefix)
        current = gaussian_noise(seeds.start(), policy.latent_shape).to(policy.device)
        if algorithm.shared_prefix:
            current = _shared_prefix(denoiser, current, embeddings, seeds.groups(), steps=start)
        stored, scores = [current], []
        first_step = start if algorithm.shared_prefix else 0
        for step in range(first_step, sampling.num_inference_steps):
            if step not in trained:
                current = denoiser.follow_ode(current, step, embeddings)
                if step < start:
                    stored = [current]
                continue
            distribution = denoiser.distribution(current, step, embeddings)
            noise = gaussian_noise(seeds.of_step(step), policy.latent_shape).to(policy.device)
            current = sde.draw(distribution, noise)
            # Scored as it is stored: float32, after the draw.
            scores.append(denoiser.log_prob(current, distribution))
            stored.append(current)
        latents.append(torch.stack(stored, dim=1))
        log_probs.append(torch.stack(scores, dim=1))
        images.append(policy.decode(current))
        between()
    return Rollout(
        update=rollout,
        prompt_ids=torch.tensor([plan.prompt_id for plan in plans]),
        samples=torch.tensor([plan.sample for plan in plans]),
        latents=torch.cat(latents),
        log_probs=torch.cat(log_probs),
        window_start=start,
        images=torch.cat(images),
    )


class _Seeds:
    """Seeds of a microbatch's draws, from (run seed, rollout, prompt id, sample)."""

    def __init__(
        self, batch: Sequence[ImagePlan], *, seed: int, rollout: int, shared: bool
    ) -> None:
        self._batch, self._run, self._shared = batch, (seed, rollout), shared

    def start(self) -> list[int]:
        if self._shared:
            return [seed_for(*self._run, plan.prompt_id, "start") for plan in self._batch]
        return [seed_for(*self._run, plan.prompt_id, plan.sample, "start") for plan in self._batch]

    def of_step(self, step: int) -> list[int]:
        return [seed_for(*self._run, plan.prompt_id, plan.sample, step) for plan in self._batch]

    def groups(self) -> list[int]:
        """For each image, the first image of its prompt in the microbatch."""
        first: dict[int, int] = {}
        return [first.setdefault(plan.prompt_id, i) for i, plan in enumerate(self._batch)]


def _shared_prefix(
    denoiser: Denoiser,
    latents: Tensor,
    embeddings: PromptEmbeddings,
    groups: Sequence[int],
    *,
    steps: int,
) -> Tensor:
    leaders = sorted(set(groups))
    leading = latents[leaders]
    theirs = embeddings[leaders]
    for step in range(steps):
        leading = denoiser.follow_ode(leading, step, theirs)
    return leading[[leaders.index(group) for group in groups]]
