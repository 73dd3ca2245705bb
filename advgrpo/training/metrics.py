"""Metrics of each rollout, of held-out prompts and of cost."""

import logging
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from advgrpo.data.images import encode_png, image_grid
from advgrpo.models.scorers.diversity import in_group_distance
from advgrpo.telemetry.logging import machine_event
from advgrpo.training.counters import peak_memory_mib
from advgrpo.training.discriminator_update import GeneratedFeatures, separation_metrics
from advgrpo.training.state import TrainingState

logger = logging.getLogger("advgrpo")

HELD_OUT_REFERENCES = 256
"""Held-out reference images, at most, that the discriminator is evaluated on in each rollout."""


def reward_metrics(
    state: TrainingState, terms: Float[Tensor, "prompt sample term"]
) -> dict[str, float]:
    """Return mean and spread of a rollout's rewards, term by term."""
    metrics: dict[str, float] = {}
    for name, term in zip(state.reward.names, terms.unbind(-1), strict=True):
        metrics[f"reward/{name}"] = float(term.mean())
        metrics[f"reward/{name}_std_in_group"] = float(term.std(dim=1, correction=0).mean())
    # A group teaches nothing only if none of its terms has any spread.
    spread = terms.std(dim=1, correction=0).amax(dim=-1)
    metrics["reward/groups_without_spread"] = float((spread < 1e-6).float().mean())
    return metrics


def discriminator_metrics(state: TrainingState, generated: GeneratedFeatures) -> dict[str, float]:
    """Evaluate the discriminator on a rollout, before it is trained on it."""
    discriminator, references = state.discriminator, state.references
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


def measure_held_out(state: TrainingState) -> None:
    """Evaluate the moving average on held-out prompts; keep it if it is the best so far."""

    def rewards(images: Tensor, prompts: Sequence[str]) -> Mapping[str, Tensor]:
        features = state.discriminator.image_features(images)
        return state.reward.values(images, features, prompts)

    # Metrics of the reference images are constants of the run, so they are logged once.
    if not any("held_out/distance" in row for row in state.history):
        state.log_metrics(state.monitor.reference_metrics)
    updates = state.counters.updates
    with state.counters.timed("held-out metrics"):
        with state.engine.adapter_as(state.average.values):
            held_out = state.monitor.measure(state.policy, rewards)
        order = state.reward.order(held_out.rewards, state.reference_rewards.values())
        state.best.update(held_out.metrics, state.average.values)
    state.log_metrics(held_out.metrics)
    state.log_metrics({f"held_out/order.{name}": share for name, share in order.items()})
    grid_images = held_out.images[: state.config.monitoring.grid_images]
    if state.process_group.is_first and len(grid_images):
        grid = encode_png(image_grid(grid_images, columns=8))
        state.logger.picture("held_out", updates, grid)


def cost_metrics(state: TrainingState) -> dict[str, float]:
    """Return what the run cost so far."""
    counters = state.counters
    sampling = counters.seconds.get("rollout", 0.0)
    return {
        "cost/images_sampled": float(counters.images_sampled),
        "cost/rollouts_left_out": float(counters.skipped),
        "cost/images_per_second": counters.images_sampled / sampling if sampling else 0.0,
        "cost/peak_memory_mib": state.process_group.all_reduce_max(peak_memory_mib()),
        **{f"seconds/{part}": seconds for part, seconds in counters.seconds.items()},
    }


def log_update(state: TrainingState, seconds: float) -> None:
    """Log that an update is done, as an event: a terminal shows the progress bar instead."""
    row, counters = state.history[-1], state.counters
    logger.info(
        "finished update %d of %d",
        counters.updates,
        state.config.updates,
        extra=machine_event(
            "update_finished",
            update=counters.updates,
            updates=state.config.updates,
            loss=row["policy/loss"],
            reward=row["reward/" + state.reward.names[0]],
            seconds=round(seconds, 3),
        ),
    )


def progress_metrics(state: TrainingState) -> dict[str, float]:
    """Select the metrics that the progress bar shows."""
    row = state.history[-1]
    distances = [r["held_out/distance"] for r in state.history if "held_out/distance" in r]
    return {
        "reward": row["reward/" + state.reward.names[0]],
        "discriminator accuracy": row["discriminator/held_out_accuracy"],
        "distance": distances[-1],
    }
