"""What is measured of each turn, and of the held-out prompts now and then."""

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
"""Most held-out reference images that the discriminator is measured on each turn."""


def reward_metrics(
    session: TrainingState, terms: Float[Tensor, "prompt sample term"]
) -> dict[str, float]:
    """Describe a rollout's rewards, term by term."""
    metrics: dict[str, float] = {}
    for name, term in zip(session.reward.names, terms.unbind(-1), strict=True):
        metrics[f"reward/{name}"] = float(term.mean())
        metrics[f"reward/{name}_std_in_group"] = float(term.std(dim=1, correction=0).mean())
    spread = terms.std(dim=1, correction=0).amax(dim=-1)
    metrics["reward/groups_without_spread"] = float((spread < 1e-6).float().mean())
    return metrics


def discriminator_metrics(session: TrainingState, generated: GeneratedFeatures) -> dict[str, float]:
    """Measure the discriminator on this rollout, before it is trained on it."""
    discriminator, references = session.discriminator, session.references
    held_out = torch.tensor(references.held_out_ids[:HELD_OUT_REFERENCES])
    real = references.take(held_out, torch.zeros_like(held_out))
    fake_prompts = session.texts(generated.prompt_ids.tolist())
    metrics = separation_metrics(
        discriminator,
        discriminator.with_prompts(real, session.texts(held_out.tolist())),
        discriminator.with_prompts(generated.features, fake_prompts),
    )
    group = session.config.rollout.group_size
    first = next(iter(generated.features.values()))
    by_group = first.flatten(1).view(-1, group, first[0].numel())
    return metrics | {"rollout/diversity_in_group": float(in_group_distance(by_group).mean())}


def measure_held_out(session: TrainingState) -> None:
    """Measure the moving average on held-out prompts; keep it if it is the best so far."""

    def rewards(images: Tensor, prompts: Sequence[str]) -> Mapping[str, Tensor]:
        features = session.discriminator.image_features(images)
        return session.reward.values(images, features, prompts)

    if not any("held_out/distance" in row for row in session.history):
        session.note(session.monitor.reference_metrics)
    updates = session.counters.updates
    with session.counters.timed("held-out measures"):
        with session.engine.adapter_as(session.average.values):
            held_out = session.monitor.measure(session.policy, rewards)
        order = session.reward.order(held_out.rewards, session.reference_rewards.values())
        session.best.consider(held_out.metrics, session.average.values)
    session.note(held_out.metrics)
    session.note({f"held_out/order.{name}": share for name, share in order.items()})
    shown_images = held_out.images[: session.config.monitoring.grid_images]
    if session.process_group.is_first and len(shown_images):
        grid = encode_png(image_grid(shown_images, columns=8))
        session.logger.picture("held_out", updates, grid)


def cost_metrics(session: TrainingState) -> dict[str, float]:
    """Describe what the run took so far."""
    counters = session.counters
    sampling = counters.seconds.get("rollout", 0.0)
    return {
        "cost/images_sampled": float(counters.images_sampled),
        "cost/rollouts_left_out": float(counters.skipped),
        "cost/images_per_second": counters.images_sampled / sampling if sampling else 0.0,
        "cost/peak_memory_mib": session.process_group.all_reduce_max(peak_memory_mib()),
        **{f"seconds/{part}": seconds for part, seconds in counters.seconds.items()},
    }


def log_update(session: TrainingState, seconds: float) -> None:
    """Log that an update is done, for machines: on a terminal there is the progress."""
    row, counters = session.history[-1], session.counters
    logger.info(
        "update %d of %d is done",
        counters.updates,
        session.config.updates,
        extra=machine_event(
            "update_finished",
            update=counters.updates,
            updates=session.config.updates,
            loss=row["policy/loss"],
            reward=row["reward/" + session.reward.names[0]],
            seconds=round(seconds, 3),
        ),
    )


def shown(session: TrainingState) -> dict[str, float]:
    """Pick the figures that stand beside the progress bar."""
    row = session.history[-1]
    distances = [r["held_out/distance"] for r in session.history if "held_out/distance" in r]
    return {
        "reward": row["reward/" + session.reward.names[0]],
        "discriminator accuracy": row["discriminator/held_out_accuracy"],
        "distance": distances[-1],
    }
