"""The training loop: adversarial RL in one straight line."""

import logging

from advgrpo.errors import ConfigError, NonFiniteError, Preempted
from advgrpo.telemetry.logging import bind
from advgrpo.telemetry.progress import Progress
from advgrpo.training.due import is_due, is_due_without_update
from advgrpo.training.metrics import cost_metrics, log_update, measure_held_out, progress_metrics
from advgrpo.training.reward_hacking import stopped_early, watch_reward
from advgrpo.training.rollout import generate_rollout
from advgrpo.training.state import TrainingState
from advgrpo.training.steps import (
    add_past,
    add_references,
    compute_advantages,
    generate,
    plan_rollout,
    reward,
    select_images,
    update_discriminator,
    update_policy,
)
from advgrpo.training.update_schedule import plan_updates

logger = logging.getLogger("advgrpo")


def train(state: TrainingState) -> None:
    """Train until all updates are made or an alarm ends the run.

    Args:
        state: The run; its adapter, discriminator, history and counters change in place.

    Raises:
        Preempted: If the process received a signal to stop; the state is saved.
        TrainingError: If training cannot continue; earlier checkpoints are intact.
    """
    config, counters = state.config, state.counters
    progress = Progress("adversarial training", config.updates, "updates")
    progress.resume_at(counters.updates)
    try:
        compile_policy(state)
        # The base model is measured first: alarms and the best adapter compare with it. A resumed
        # run has it in its history.
        if not state.history:
            measure_held_out(state)
        while not is_over(state):
            before = counters.updates
            # Log records of a rollout carry the update that it works towards.
            bind(update=before + 1)
            metrics = train_on_rollout(state)
            if counters.updates == before:
                # A rollout for the discriminator alone, or a skipped one, gets no row.
                if is_due_without_update(state):
                    state.save()
                continue
            state.log_metrics(metrics)
            if is_due(config.monitoring.held_out_every_updates, state):
                measure_held_out(state)
                # Before the checkpoint: a resumed run must find the alarm in its history.
                watch_reward(state)
            progress.advance(1, progress_metrics(state))
            log_update(state, progress.seconds_since_before)
            # An alarm may end the run between two checkpoints.
            if is_due(config.checkpoint_every_updates, state) or is_over(state):
                state.save()
    except Preempted:
        # Preempted is raised between microbatches of a rollout, before anything was updated, so
        # that the state is that of the last complete rollout.
        state.save()
        raise


def train_on_rollout(state: TrainingState) -> dict[str, float]:
    """Generate a rollout, reward it, and update policy and discriminator as scheduled.

    Returns:
        Metrics over all ranks; none if the rollout was skipped.

    Raises:
        Preempted: Before anything was updated.
        NonFiniteError: If something became NaN or infinite and the run must stop.
    """
    counters, skipped = state.counters, state.counters.skipped
    schedule = plan_updates(state.config, counters.rollouts)
    try:
        plan = plan_rollout(state)
        # Not the wall clock: waiting in collective calls would make all ranks look equally slow.
        began = state.process_group.busy_clock()
        rollout = generate(state, plan)
        rewards = reward(state, plan, rollout)
        busy = state.process_group.busy_clock() - began
        metrics = rewards.metrics | state.stragglers.metrics(busy)
        # Compared with held-out reference images, so that memorizing references does not count.
        is_outscored = metrics["discriminator/margin"] < 0
        if schedule.trains_policy and not (schedule.pause_policy and is_outscored):
            trained = add_past(state, plan, rollout, rewards)
            advantages = compute_advantages(state, plan, trained.terms)
            chosen = select_images(state, trained.rollout, advantages)
            images, advantages = add_references(state, plan, *chosen)
            # Before the discriminator's update: the policy is updated by the reward that scored it,
            # and the metrics describe that one.
            metrics |= update_policy(state, images, advantages, rewards.separation)
            if trained.now is not None:
                # Not if the update was skipped: its images may be at fault.
                state.past.add(trained.now)
    except NonFiniteError as fault:
        # Its number is used up: it seeds prompts and noise, so using it again would repeat the
        # fault.
        state.guard.skip(fault)
        counters.rollouts += 1
        return {}
    if schedule.discriminator_steps and (is_outscored or not schedule.only_when_outscored):
        metrics |= update_discriminator(state, rewards.generated, schedule.discriminator_steps)
    counters.rollouts += 1
    # The discriminator's update may have been skipped, too.
    if counters.skipped == skipped:
        counters.skipped_in_a_row = 0
    return metrics | cost_metrics(state, updated="policy/loss" in metrics)


def compile_policy(state: TrainingState) -> None:
    """Compile the policy's passes on a microbatch, if they are to be; every rank must call it.

    Raises:
        ConfigError: On all ranks, if the settings name a backend but no compiler is installed.
    """
    config, on_gpu = state.config, state.process_group.device.type == "cuda"
    if config.compile_backend(on_gpu=on_gpu) is None:
        return
    fault = None
    size = max(config.rollout.microbatch, config.rollout.microbatch_of_update)
    with state.counters.timed("compilation"):
        try:
            # The rollout to come: its draws are seeded by their purpose, so they are not used up.
            rollout = generate_rollout(
                state.policy,
                state.algorithm.sample,
                plan_rollout(state).own[:size],
                state.prompts.texts,
                microbatch_size=config.rollout.microbatch,
                rollout=state.counters.rollouts,
            )
            state.policy_updater.warm_up(rollout, state.prompts.texts)
        except ConfigError as error:
            fault = error
    if not state.process_group.all_reduce_max(float(fault is not None)):
        return
    message = fault.message if fault else "another process cannot compile the transformer"
    if config.compile != "auto":
        raise fault or ConfigError(message, repair="set training.compile=none")
    # On all ranks: kernels of other ranks must not round otherwise.
    state.policy.compile(None)
    if state.process_group.is_first:
        logger.warning("%s; training continues uncompiled (training.compile=auto)", message)


def is_over(state: TrainingState) -> bool:
    """Return whether all updates were made, or an alarm ended the run."""
    return state.counters.updates >= state.config.updates or stopped_early(state)
