"""Adversarial GRPO, as one straight line."""

from collections.abc import Mapping

import torch

from advgrpo.algorithm.advantage import combined_rewards, group_advantages
from advgrpo.data.sampler import prompts_of_rollout, share_of_rank
from advgrpo.errors import NonFiniteError, Preempted
from advgrpo.telemetry.logging import bind
from advgrpo.telemetry.progress import Progress
from advgrpo.training.discriminator_update import GeneratedFeatures
from advgrpo.training.metrics import (
    cost_metrics,
    discriminator_metrics,
    log_update,
    measure_held_out,
    reward_metrics,
    shown,
)
from advgrpo.training.reward_hacking_watch import stopped_early, watch
from advgrpo.training.rollout import generate_rollout
from advgrpo.training.state import TrainingState
from advgrpo.training.update_schedule import UpdatePlan, plan_updates, rollouts_per_update


def train(session: TrainingState) -> None:
    """Take all turns of a run, from wherever it stands, unless an alarm ends it.

    Args:
        session: The run; its adapter, discriminator, history and counters change in place.

    Raises:
        Preempted: If the process was asked to stop; the state is saved.
        TrainingError: If training cannot go on; earlier checkpoints are intact.
    """
    config, counters = session.config, session.counters
    progress = Progress("adversarial training", config.updates, "updates")
    progress.resume_at(counters.updates)
    try:
        if not session.history:
            measure_held_out(session)
        while not is_over(session):
            before = counters.updates
            bind(update=before + 1)
            metrics = take_turn(session)
            if counters.updates == before:
                if _is_due_without_update(session):
                    session.save()
                continue
            session.note(metrics)
            if is_due(config.monitoring.held_out_every_updates, session):
                measure_held_out(session)
                watch(session)
            progress.advance(1, shown(session))
            log_update(session, progress.seconds_since_before)
            if is_due(config.checkpoint_every_updates, session) or is_over(session):
                session.save()
    except Preempted:
        session.save()
        raise


def is_over(session: TrainingState) -> bool:
    """Tell whether all updates were made, or an alarm ended the run."""
    return session.counters.updates >= session.config.updates or stopped_early(session)


def is_due(every: int, session: TrainingState) -> bool:
    """Tell whether something that happens every so many updates, and at the end, is due."""
    updates = session.counters.updates
    return updates % every == 0 or updates == session.config.updates


def _is_due_without_update(session: TrainingState) -> bool:
    """Tell whether a checkpoint is due although the policy waits, which it may do for long."""
    config = session.config
    every = config.checkpoint_every_updates * rollouts_per_update(config)
    return session.counters.turns % every == 0


def take_turn(session: TrainingState) -> dict[str, float]:
    """Generate a rollout, reward it, and update whoever's turn it is.

    Returns:
        Measures of the turn over all ranks; none if the rollout was left out.

    Raises:
        Preempted: Before anything was updated.
        NonFiniteError: If something became NaN or infinite and the run is not to go on.
    """
    counters = session.counters
    skipped = counters.skipped
    turn = plan_updates(session.config, counters.turns)
    try:
        metrics, generated = _take_turn(session, turn)
    except NonFiniteError as fault:
        session.guard.skip(fault)
        counters.turns += 1
        return {}
    metrics |= _update_discriminator(session, turn, generated, is_fooled=_is_fooled(metrics))
    counters.turns += 1
    if counters.skipped == skipped:
        counters.skipped_in_a_row = 0
    return metrics | cost_metrics(session)


def _take_turn(
    session: TrainingState, turn: UpdatePlan
) -> tuple[dict[str, float], GeneratedFeatures]:
    config, counters, process_group = session.config, session.counters, session.process_group
    prompt_ids = prompts_of_rollout(
        session.references.training_ids,
        counters.turns,
        prompts_per_update=config.rollout.prompts_per_update,
        seed=session.seed,
    )
    steps = share_of_rank(
        prompt_ids,
        group_size=config.rollout.group_size,
        optimizer_steps=config.optimizer_steps_per_update,
        world_size=process_group.world_size,
        rank=process_group.rank,
    )
    plans = [plan for step in steps for plan in step]
    began = process_group.busy_clock()
    with counters.timed("rollout"):
        rollout = generate_rollout(
            session.policy,
            session.denoiser,
            plans,
            session.prompts.texts,
            sampling=config.sampling,
            microbatch_size=config.rollout.microbatch_size,
            rollout=counters.turns,
            seed=session.seed,
            between=session.stop.check,
        )
        session.guard.check_rollout(rollout)
    with counters.timed("reward"):
        features = session.discriminator.image_features(rollout.images)
        texts = session.texts(rollout.prompt_ids.tolist())
        terms = session.reward.terms(rollout.images, features, texts)
        session.guard.check_rewards(terms, session.reward.names, rollout)
        everyone = process_group.gather_in_order(
            {**features, "terms": terms}, [plan.position for plan in plans]
        )
        by_group = everyone.pop("terms").view(len(prompt_ids), config.rollout.group_size, -1)
        ids = torch.tensor(prompt_ids).repeat_interleave(config.rollout.group_size)
        generated = GeneratedFeatures(features=everyone, prompt_ids=ids)
        metrics = reward_metrics(session, by_group) | discriminator_metrics(session, generated)
    metrics |= session.stragglers.metrics(process_group.busy_clock() - began)
    counters.images_sampled += len(ids)
    if turn.trains_policy and not (_is_fooled(metrics) and turn.pause_policy):
        rewards = combined_rewards(
            list(by_group.unbind(-1)),
            session.reward.weights,
            standardize=session.reward.standardize,
        )
        advantages = group_advantages(rewards, normalization=config.advantage_normalization)
        mine = advantages.flatten()[[plan.position for plan in plans]].to(process_group.device)
        with counters.timed("policy update"):
            metrics |= session.policy_updater.update(
                rollout, mine, session.prompts.texts, update=counters.updates
            )
        counters.updates += 1
    return metrics, generated


def _update_discriminator(
    session: TrainingState, turn: UpdatePlan, generated: GeneratedFeatures, *, is_fooled: bool
) -> dict[str, float]:
    metrics: dict[str, float] = {}
    if turn.discriminator_steps and (is_fooled or not turn.only_when_outscored):
        with session.counters.timed("discriminator update"):
            try:
                metrics = session.discriminator_updater.update(
                    generated,
                    session.replay,
                    steps=turn.discriminator_steps,
                    turn=f"rollout {session.counters.turns + 1}",
                )
            except NonFiniteError as fault:
                session.guard.skip(fault)
        session.replay.add(generated.features, generated.prompt_ids)
    return metrics


def _is_fooled(metrics: Mapping[str, float]) -> bool:
    return metrics["discriminator/margin"] < 0
