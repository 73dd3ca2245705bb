"""Steps of the training loop, each on the whole state."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from advgrpo.algorithm.advantage import best_and_worst, combined_rewards, group_advantages
from advgrpo.algorithm.seeds import seed_for
from advgrpo.data.sampler import ImagePlan, prompts_of_rollout, share_of_rank
from advgrpo.errors import NonFiniteError
from advgrpo.models.discriminators.base import pick
from advgrpo.models.scorers.diversity import in_group_distance
from advgrpo.training.discriminator_update import GeneratedFeatures, separation_metrics
from advgrpo.training.past_rollouts import RewardedRollout, TrainedImages
from advgrpo.training.rollout import Rollout, encode_images, generate_rollout
from advgrpo.training.state import TrainingState

HELD_OUT_REFERENCES = 256
"""Held-out reference images, at most, that the discriminator is evaluated on in each rollout."""


@dataclass(frozen=True)
class RolloutPlan:
    """The images of a rollout."""

    prompt_ids: Sequence[int]
    """One per group, over all ranks."""

    own: Sequence[ImagePlan]
    """This rank's images; those of an optimizer step are adjacent."""


@dataclass(frozen=True)
class Rewards:
    """What a rollout was rewarded with, over all ranks."""

    terms: Float[Tensor, "prompt sample term"]
    generated: GeneratedFeatures
    metrics: dict[str, float]

    @property
    def separation(self) -> float:
        """Separation of held-out references and rollout; see `separation_metrics`."""
        return self.metrics["discriminator/separation"]


def plan_rollout(state: TrainingState) -> RolloutPlan:
    """Choose the prompts of the next rollout, and this rank's share of the images."""
    config = state.config
    prompt_ids = prompts_of_rollout(
        state.references.training_ids,
        state.counters.rollouts,
        prompts_per_update=config.rollout.prompts_per_update,
        seed=state.seed,
    )
    # On all ranks, before anything is generated.
    state.references.require(prompt_ids)
    return RolloutPlan(prompt_ids, _own(state, prompt_ids, config.rollout.group_size))


def _own(state: TrainingState, prompt_ids: Sequence[int], images: int) -> list[ImagePlan]:
    """Return this rank's share of some images of each prompt; those of a step are adjacent."""
    steps = share_of_rank(
        prompt_ids,
        group_size=images,
        optimizer_steps=state.config.optimizer_steps_per_update,
        world_size=state.process_group.world_size,
        rank=state.process_group.rank,
    )
    return [image for step in steps for image in step]


def generate(state: TrainingState, plan: RolloutPlan) -> Rollout:
    """Generate this rank's images.

    Raises:
        Preempted: On all ranks, between two microbatches.
        NonFiniteError: On all ranks, if something that was generated is not finite.
    """
    with state.counters.timed("rollout"):
        rollout = generate_rollout(
            state.policy,
            state.algorithm.sample,
            plan.own,
            state.prompts.texts,
            microbatch_size=state.config.rollout.microbatch,
            rollout=state.counters.rollouts,
            # Collective, so a signal ends all ranks after the same microbatch.
            after_microbatch=state.stop.check,
        )
        state.guard.check_rollout(rollout)
    return rollout


def reward(state: TrainingState, plan: RolloutPlan, rollout: Rollout) -> Rewards:
    """Reward this rank's images and gather the rewards of all.

    Raises:
        NonFiniteError: On all ranks, if a reward is not finite.
    """
    group_size = state.config.rollout.group_size
    with state.counters.timed("reward"):
        # Once for the reward and for the discriminator's update: the frozen part dominates the
        # cost.
        features = state.discriminator.image_features(rollout.images)
        texts = state.texts(rollout.prompt_ids.tolist())
        terms = state.reward.terms(rollout.images, features, texts)
        state.guard.check_rewards(terms, state.reward.names, rollout)
        # By position, so that nothing that follows depends on the number of ranks.
        gathered = state.process_group.gather_in_order(
            {**features, "terms": terms}, [image.position for image in plan.own]
        )
        by_group = gathered.pop("terms").view(len(plan.prompt_ids), group_size, -1)
        ids = torch.tensor(plan.prompt_ids).repeat_interleave(group_size)
        generated = GeneratedFeatures(features=gathered, prompt_ids=ids)
        # Before any update, so the metrics describe images that the discriminator has not seen.
        metrics = reward_metrics(state, by_group) | discriminator_metrics(state, generated)
    state.counters.images_sampled += len(ids)
    return Rewards(by_group, generated, metrics)


def add_past(
    state: TrainingState, plan: RolloutPlan, rollout: Rollout, rewards: Rewards
) -> TrainedImages:
    """Join a rollout and those that train the policy again; every rank must call it."""
    if not state.past.capacity:
        return TrainedImages(rollout, rewards.terms)
    own = [image.position for image in plan.own]
    now = RewardedRollout(
        rollout.without_pixels(),
        pick(rewards.generated.features, torch.tensor(own)),
        rewards.terms.flatten(0, 1)[own],
    )

    def terms_now(past: RewardedRollout) -> Tensor:
        texts = state.texts(past.rollout.prompt_ids.tolist())
        return state.reward.terms_again(past.terms, past.features, texts)

    with state.counters.timed("reward"):
        return state.past.join(now, rewards.terms, terms_now)


def compute_advantages(
    state: TrainingState, plan: RolloutPlan, terms: Float[Tensor, "prompt sample term"]
) -> Float[Tensor, "image"]:
    """Combine the reward terms and return the advantages of this rank's images.

    Args:
        state: The run.
        plan: Of the rollout.
        terms: Of all ranks; of the rollout, or of several of its size.
    """
    # Over all ranks: standardization and normalization by batch need all images.
    rewards = combined_rewards(
        list(terms.unbind(-1)), state.reward.weights, standardize=state.reward.standardize
    )
    advantages = group_advantages(rewards, normalization=state.config.advantage_normalization)
    # Flattened in the order of positions: prompt-major, then sample.
    by_rollout = advantages.view(-1, len(plan.prompt_ids) * advantages.shape[1])
    own = by_rollout[:, [image.position for image in plan.own]].flatten()
    return own[state.past.order].to(state.process_group.device)


def select_images(
    state: TrainingState, rollout: Rollout, advantages: Float[Tensor, "image"]
) -> tuple[Rollout, Float[Tensor, "chosen"]]:
    """Choose the images of each group that train the policy."""
    if (select := state.config.rollout.select) is None:
        return rollout, advantages
    groups = advantages.view(-1, state.config.rollout.group_size)
    chosen = best_and_worst(groups, best=select.best, worst=select.worst)
    return rollout.part(chosen.cpu()), advantages[chosen]


def add_references(
    state: TrainingState,
    plan: RolloutPlan,
    rollout: Rollout,
    advantages: Float[Tensor, "image"],
) -> tuple[Rollout, Float[Tensor, "trained"]]:
    """Add reference images of the rollout's prompts, with the largest advantage.

    Raises:
        NonFiniteError: On all ranks, if the VAE encodes one into latents that are not finite.
    """
    config = state.config
    if not (count := config.rollout.references_per_prompt):
        return rollout, advantages
    # After the positions of generated images, so that each has noise of its own.
    first = config.rollout.group_size * (1 + config.rollout.replayed_rollouts)
    shares = _own(state, plan.prompt_ids, count)
    own = [replace(image, sample=first + image.sample) for image in shares]
    drawn = [seed_for(state.seed, rollout.number, image.prompt_id, "reference") for image in own]
    with state.counters.timed("policy update"):
        pixels = state.references.images(
            [image.prompt_id for image in own],
            [start + image.sample for start, image in zip(drawn, own, strict=True)],
        )
        references = encode_images(
            state.policy,
            state.algorithm.record,
            own,
            pixels,
            microbatch_size=config.rollout.microbatch,
            rollout=rollout.number,
        )
        state.guard.check_rollout(references)
    certain = advantages.new_full((len(own),), config.algorithm.advantage_clip)
    # The images of an optimizer step are adjacent.
    positions = torch.arange(len(advantages) + len(own)).split([len(advantages), len(own)])
    steps = config.optimizer_steps_per_update
    order = torch.cat([each.view(steps, -1) for each in positions], dim=1).flatten()
    joined = Rollout.joined([rollout.without_pixels(), references]).part(order)
    return joined, torch.cat([advantages, certain])[order]


def update_policy(
    state: TrainingState,
    rollout: Rollout,
    advantages: Float[Tensor, "image"],
    separation: float,
) -> dict[str, float]:
    """Take the policy's optimizer steps on images.

    Raises:
        TrainingError: On all ranks, if a gradient is not finite or the algorithm's check fails.
    """
    with state.counters.timed("policy update"):
        metrics = state.policy_updater.update(
            rollout,
            advantages,
            state.prompts.texts,
            update=state.counters.updates,
            separation=separation,
        )
    state.counters.updates += 1
    return metrics


def update_discriminator(
    state: TrainingState, generated: GeneratedFeatures, steps: int
) -> dict[str, float]:
    """Take the discriminator's optimizer steps, and add the images to the replay pool."""
    metrics: dict[str, float] = {}
    with state.counters.timed("discriminator update"):
        try:
            metrics = state.discriminator_updater.update(
                generated,
                state.replay,
                steps=steps,
                purpose=f"rollout {state.counters.rollouts + 1}",
            )
        except NonFiniteError as fault:
            state.guard.skip(fault)
    # Also after a skipped step: the images themselves passed the checks.
    state.replay.add(generated.features, generated.prompt_ids)
    return metrics


def reward_metrics(
    state: TrainingState, terms: Float[Tensor, "prompt sample term"]
) -> dict[str, float]:
    """Return mean and spread of a rollout's rewards, term by term."""
    metrics: dict[str, float] = {}
    for name, term in zip(state.reward.names, terms.unbind(-1), strict=True):
        metrics[f"reward/{name}"] = float(term.mean())
        # Within groups: advantages are centred on them, so only this spread is learned from.
        metrics[f"reward/{name}_std_in_group"] = float(term.std(dim=1, correction=0).mean())
    # Not an exact comparison: equal images in other microbatches may differ in the last bits of
    # their rewards, whose size grows with the rewards.
    rounding = 1e-6 * terms.abs().amax(dim=1).clamp_min(1)
    # A group teaches nothing only if none of its terms has any spread.
    equal = (terms.amax(dim=1) - terms.amin(dim=1) < rounding).all(dim=-1)
    metrics["reward/groups_without_spread"] = float(equal.float().mean())
    return metrics


def discriminator_metrics(state: TrainingState, generated: GeneratedFeatures) -> dict[str, float]:
    """Evaluate the discriminator on a rollout, before it is trained on it."""
    discriminator, references = state.discriminator, state.references
    # The order of held_out_ids does not follow the prompt file, so its first ones are a fair
    # sample.
    held_out = torch.tensor(references.held_out_ids[:HELD_OUT_REFERENCES])
    # One reference image of each prompt is enough for a mean.
    real = references.take(held_out, torch.zeros_like(held_out))
    fake_prompts = state.texts(generated.prompt_ids.tolist())
    metrics = separation_metrics(
        discriminator,
        discriminator.with_prompts(real, state.texts(held_out.tolist())),
        discriminator.with_prompts(generated.features, fake_prompts),
    )
    group = state.config.rollout.group_size
    # Diversity is measured in the first kind of features; every discriminator has one.
    first = next(iter(generated.features.values()))
    by_group = first.flatten(1).view(-1, group, first[0].numel())
    return metrics | {"rollout/diversity_in_group": float(in_group_distance(by_group).mean())}
