"""Pre-training of the discriminator on images of the base model."""

from collections.abc import Sequence

import torch
from torch import Tensor

from advgrpo.algorithm.seeds import seed_for
from advgrpo.config.discriminator import DiscriminatorConfig
from advgrpo.config.policy import SamplingConfig
from advgrpo.data.sampler import prompts_of_base_images
from advgrpo.models.discriminators.base import Discriminator, concatenate
from advgrpo.models.discriminators.replay import ReplayPool
from advgrpo.models.policies.base import FlowModel
from advgrpo.models.policies.sampling import sample_images
from advgrpo.records import PromptSet
from advgrpo.runtime.process_group import ProcessGroup
from advgrpo.telemetry.progress import Progress
from advgrpo.training.discriminator_update import (
    DiscriminatorUpdater,
    GeneratedFeatures,
    separation_metrics,
)
from advgrpo.training.reference_features import ReferenceFeatures

STEPS_BETWEEN_METRICS = 4


def pretrain_discriminator(
    policy: FlowModel,
    discriminator: Discriminator,
    references: ReferenceFeatures,
    prompts: PromptSet,
    *,
    config: DiscriminatorConfig,
    sampling: SamplingConfig,
    batch_size: int,
    process_group: ProcessGroup,
    seed: int,
) -> list[dict[str, float]]:
    """Train the discriminator on base-model images until it separates held-out images.

    Args:
        policy: Its base model generates the images.
        discriminator: Trained in place.
        references: Features of the reference images.
        prompts: The training prompts.
        config: Number of images and of steps at most, and target accuracy.
        sampling: Steps and guidance of the base model.
        batch_size: Images generated at once.
        process_group: The processes; each generates a share.
        seed: The run's seed.

    Returns:
        Metrics by optimizer step, the last row being the result. Without any step, the metrics of
        the untrained discriminator.

    Raises:
        NonFiniteError: If the loss is NaN or infinite.
    """
    goal = config.pretraining

    def base_images(ids: Sequence[int], count: int) -> GeneratedFeatures:
        return _base_images(
            policy, discriminator, prompts, ids, count, sampling, batch_size, process_group, seed
        )

    # Generated once: the base model does not change, so all steps can train on the same images.
    fresh = base_images(references.training_ids, goal.images)
    # Held out on both sides: memorized images of either kind would raise the accuracy.
    unseen = base_images(references.held_out_ids, goal.held_out_images)
    ids = torch.tensor(references.held_out_ids)
    unseen_references = discriminator.with_prompts(
        references.take(ids, torch.zeros_like(ids)), [prompts.texts[i] for i in ids.tolist()]
    )
    updater = DiscriminatorUpdater(
        discriminator, references, prompts.texts, config.optimizer, process_group, seed=seed
    )

    def held_out_metrics() -> dict[str, float]:
        return separation_metrics(
            discriminator,
            unseen_references,
            discriminator.with_prompts(
                unseen.features, [prompts.texts[i] for i in unseen.prompt_ids.tolist()]
            ),
        )

    history: list[dict[str, float]] = [] if goal.steps else [{"step": 0.0, **held_out_metrics()}]
    progress = Progress("reward pre-training", goal.steps, "steps")
    for step in range(0, goal.steps, STEPS_BETWEEN_METRICS):
        steps = min(STEPS_BETWEEN_METRICS, goal.steps - step)
        # No replay: there is no earlier policy to remember.
        metrics = updater.update(
            fresh, ReplayPool(0), steps=steps, purpose=f"pre-training step {step}"
        )
        metrics |= held_out_metrics()
        history.append({"step": float(step + steps), **metrics})
        accuracy = metrics["discriminator/held_out_accuracy"]
        progress.advance(steps, {"discriminator accuracy": accuracy})
        if accuracy >= goal.target_accuracy:
            break
    return history


def _base_images(
    policy: FlowModel,
    discriminator: Discriminator,
    prompts: PromptSet,
    prompt_ids: Sequence[int],
    count: int,
    sampling: SamplingConfig,
    batch_size: int,
    process_group: ProcessGroup,
    seed: int,
) -> GeneratedFeatures:
    """Generate base-model images of prompts in a random order; every rank gets all features."""
    prompt_order = prompts_of_base_images(
        prompt_ids, count, world_size=process_group.world_size, seed=seed
    )
    # A prompt that repeats gets different images, because the index is part of an image's seed.
    mine = list(enumerate(prompt_order))[process_group.rank :: process_group.world_size]
    parts: list[dict[str, Tensor]] = []
    progress = Progress("base model images", len(mine), "images")
    for first in range(0, len(mine), batch_size):
        batch = mine[first : first + batch_size]
        # An initial adapter may be loaded; the discriminator starts from the base model.
        with policy.base_policy():
            images = sample_images(
                policy,
                [prompts.texts[prompt_id] for _, prompt_id in batch],
                [seed_for(seed, "base images", prompt_id, k) for k, prompt_id in batch],
                num_inference_steps=sampling.num_inference_steps,
                guidance_scale=sampling.guidance_scale,
            )
        parts.append(dict(discriminator.image_features(images)))
        progress.advance(len(batch))
    # Ranks took every world_size-th image; gathering joins their shares one after the other.
    order_back = (
        torch.tensor(range(len(prompt_order)))
        .view(-1, process_group.world_size)
        .T.flatten()
        .argsort()
    )
    features = {
        name: process_group.gather(value).cpu()[order_back]
        for name, value in concatenate(parts).items()
    }
    return GeneratedFeatures(features=features, prompt_ids=torch.tensor(prompt_order))
