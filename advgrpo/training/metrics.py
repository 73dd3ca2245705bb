"""Metrics of held-out prompts and of cost."""

import logging
from collections.abc import Mapping, Sequence

from torch import Tensor

from advgrpo.config.passes import rollout_passes, trained_passes
from advgrpo.config.policy import PolicyConfig
from advgrpo.config.training import TrainingConfig
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


def cost_metrics(state: TrainingState, *, updated: bool) -> dict[str, float]:
    """Return what the run cost so far, and its throughput after an update of the policy."""
    counters = state.counters
    sampling = counters.seconds.get("rollout", 0.0)
    costs = {
        "cost/images_sampled": float(counters.images_sampled),
        "cost/rollouts_left_out": float(counters.skipped),
        "cost/images_per_second": counters.images_sampled / sampling if sampling else 0.0,
        # A collective call: every rank must compute these metrics, although only the first one logs
        # them.
        "cost/peak_memory_mib": state.process_group.all_reduce_max(peak_memory_mib()),
        **{f"seconds/{part}": seconds for part, seconds in counters.seconds.items()},
    }
    return costs | _performance_metrics(state, costs) if updated else costs


def _performance_metrics(state: TrainingState, costs: Mapping[str, float]) -> dict[str, float]:
    """Return the throughput since the last update; every rank must call it."""
    before: Mapping[str, float] = next(
        (row for row in reversed(state.history) if "cost/images_sampled" in row), {}
    )
    speed = state.speed
    return throughput(
        {name: value - before.get(name, 0) for name, value in costs.items()},
        state.policy.config,
        state.config,
        pass_flops=speed.pass_flops,
        decode_flops=speed.decode_flops,
        rate=speed.matmul_rate * state.process_group.world_size,
    )


def throughput(
    spent: Mapping[str, float],
    policy: PolicyConfig,
    training: TrainingConfig,
    *,
    pass_flops: float,
    decode_flops: float,
    rate: float,
) -> dict[str, float]:
    """Return images per second, and the shares of a matmul rate that rollout and update achieve.

    Args:
        spent: Images and seconds of one update, by the names of `cost_metrics`.
        policy: Settings of the policy.
        training: Settings of the training.
        pass_flops: Of a forward pass of one image.
        decode_flops: Of decoding one image.
        rate: FLOPs per second of large matrix products, over all ranks.

    Returns:
        Shares (`mfu_...`) count the passes that the algorithm needs, not recomputed activations.
    """
    algorithm, sampled = training.algorithm, spent["cost/images_sampled"]
    images = training.rollout.images
    each = rollout_passes(policy, training) / images * pass_flops + decode_flops
    # The base weights are frozen, so that a backward pass computes the gradients of inputs alone
    # and costs as much as a forward pass.
    passes = training.rollout.trained_images * trained_passes(policy, training)
    extra = algorithm.extra_passes(training.optimizer_steps_per_update)
    updated = passes * (2 + extra) * pass_flops
    rollout, update = spent["seconds/rollout"], spent["seconds/policy update"]
    return {
        "performance/images_per_second": sampled / (rollout + spent["seconds/reward"] + update),
        "performance/mfu_rollout": sampled * each / rollout / rate,
        "performance/mfu_update": updated / update / rate,
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
        "images/s": row["performance/images_per_second"],
        "mfu rollout": row["performance/mfu_rollout"],
        "mfu update": row["performance/mfu_update"],
    }
