"""Metrics of held-out prompts and of cost."""

import logging
from collections.abc import Mapping, Sequence

from torch import Tensor

from advgrpo.data.images import encode_png, image_grid
from advgrpo.runtime.peak_memory import peak_memory_mib
from advgrpo.telemetry.logging import machine_event
from advgrpo.training.state import TrainingState

logger = logging.getLogger("advgrpo")


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
        # Collective under ZeRO-3, on entering and on leaving: nothing in the block may end one rank
        # alone.
        with state.engine.adapter_as(state.average.values):
            held_out = state.monitor.measure(state.policy, rewards)
        # Both kinds must be scored by the same discriminator, so it may not be trained in between.
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
        # A collective call: every rank must compute these metrics, although only the first one logs
        # them.
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
    # Never empty: held-out prompts are evaluated before the first update.
    distances = [r["held_out/distance"] for r in state.history if "held_out/distance" in r]
    return {
        "reward": row["reward/" + state.reward.names[0]],
        "discriminator accuracy": row["discriminator/held_out_accuracy"],
        "distance": distances[-1],
    }
