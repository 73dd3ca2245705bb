"""Detection of hacked rewards and of collapse.

A reward is hacked when it keeps rising while the images get worse. The distance to reference images
alone does not show it: in a sound adversarial run it oscillates, because the discriminator follows
the policy with a delay. The difference is whether the reward reacts. In a sound run the
discriminator sees the growing difference and scores reference images above generated ones; a hacked
reward prefers the generated ones, while a freshly trained critic, which no policy could learn to
fool, separates them easily.

Both rules are pure functions of the history, which a checkpoint holds: a resumed run raises an
alarm where one that never stopped would.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from advgrpo.config.training import WatchConfig
from advgrpo.records import ALARM_METRIC
from advgrpo.telemetry.logging import event
from advgrpo.training.algorithms.ratio import CLIPPED_BEFORE_STEP
from advgrpo.training.held_out import CRITIC_ORDER, REFERENCE_STATISTICS, STATISTICS
from advgrpo.training.state import TrainingState

DISTANCE = "held_out/distance"
REWARD_ORDER = "held_out/order.reward"

COLLAPSE_UPDATES = 10
"""Updates that signs of collapse average over, because rollouts differ by their window."""

EQUAL_GROUPS = 0.5
SATURATED_ACCURACY = 0.999
SATURATED_MARGIN = 20.0
LOST_DIVERSITY = 0.2
CLIPPED_SHARE = 0.01

Row = Mapping[str, float]

logger = logging.getLogger("advgrpo")


@dataclass(frozen=True)
class Alarm:
    """A reward that looks hacked."""

    update: int
    """Policy update after which it was measured."""

    evidence: tuple[str, ...]

    @property
    def reason(self) -> str:
        """The evidence as one text."""
        return "; ".join(self.evidence)

    def __str__(self) -> str:
        return f"the reward looks hacked at update {self.update}: {self.reason}"


def watch_reward(state: TrainingState) -> None:
    """Evaluate the newest held-out metrics; every rank must call it.

    An alarm is logged, and recorded in the history, among the metrics and in a tag of the run. A
    sign of collapse is logged when it first appears.
    """
    config = state.config.monitoring.watch
    if config.action == "none":
        return
    alarm = find_alarm(state.history, config, alignment=state.best.alignment)
    # The metrics are equal on all ranks; should they ever differ, a rank that stopped alone would
    # leave the others waiting in a collective.
    raised = state.process_group.all_reduce_max(float(alarm is not None))
    signs = signs_of_collapse(state.history)
    # Before the new row is logged: it would be found as the last evaluation.
    known = {name for name in signs if _has_sign(state, name)}
    state.log_metrics(
        {
            ALARM_METRIC: raised,
            **{f"watch/{name}": float(bool(text)) for name, text in signs.items()},
        }
    )
    if not state.process_group.is_first:
        return
    for name, text in signs.items():
        if text and name not in known:
            updates = state.counters.updates
            logger.warning(
                "update %d: %s", updates, text, extra=event("collapse", update=updates, sign=name)
            )
    if alarm is not None:
        state.logger.tags({ALARM_METRIC: str(alarm)})
        consequence = (
            "training ends with the best adapter so far"
            if config.action == "stop"
            else "training continues (training.monitoring.watch.action=warn)"
        )
        logger.warning(
            "%s; %s", alarm, consequence, extra=event("alarm_raised", update=alarm.update)
        )


def _has_sign(state: TrainingState, sign: str) -> bool:
    """Return whether the last evaluation had a sign of collapse."""
    before = [row for row in state.history if f"watch/{sign}" in row]
    return bool(before) and before[-1][f"watch/{sign}"] > 0


def tag_alarms(state: TrainingState) -> None:
    """Tag the run with the alarms of its history, as `watch_reward` did when it raised them."""
    for alarm in alarms(state):
        state.logger.tags({ALARM_METRIC: str(alarm)})


def stopped_early(state: TrainingState) -> bool:
    """Return whether an alarm ended the run."""
    if state.config.monitoring.watch.action != "stop":
        return False
    # From the history instead of a flag, so that a resumed run ends where the first one did.
    return any(row.get(ALARM_METRIC, 0) > 0 for row in state.history)


def alarms(state: TrainingState) -> list[Alarm]:
    """List the alarms that were raised, in order."""
    config, history = state.config.monitoring.watch, state.history
    # Recomputed, because the history holds only numbers, not the evidence as text.
    candidates = (
        find_alarm(history[: end + 1], config, alignment=state.best.alignment)
        for end, row in enumerate(history)
        if row.get(ALARM_METRIC, 0) > 0
    )
    return [alarm for alarm in candidates if alarm is not None]


def find_alarm(history: Sequence[Row], config: WatchConfig, *, alignment: str) -> Alarm | None:
    """Evaluate the newest held-out metrics.

    `critic` and `reward` are the shares of pairs that a fresh critic and the run's reward put in
    order (reference image above generated image), `best` is the row of the smallest distance so far
    and `base` the first one. A row is evidence of hacking if

        critic - reward >= critic_gap   and   distance >= distance_rise * best distance

    or if the reward reacts no more than it did at the best, `reward <= best reward`, while

        alignment <= base alignment - alignment_fall   or
        a statistic is statistics_range standard deviations of the reference images outside of the
        range between base model and reference images.

    The alarm is raised if the newest `measurements` rows are.

    Args:
        history: The run's rows, in order; those without a held-out distance are ignored.
        config: The thresholds.
        alignment: Name of the alignment metric in the rows.

    Returns:
        The alarm, or None.
    """
    measured = [row for row in history if DISTANCE in row]
    if len(measured) < config.measurements:
        return None
    ends = range(len(measured) - config.measurements + 1, len(measured) + 1)
    evidence = [_evidence(measured[:end], config, alignment) for end in ends]
    # Several evaluations in a row: the metrics of a few dozen images fluctuate.
    if not all(evidence):
        return None
    return Alarm(int(measured[-1]["update"]), tuple(evidence[-1]))


def _evidence(measured: Sequence[Row], config: WatchConfig, alignment: str) -> list[str]:
    # Includes the newest row: at a new best distance, no rise can be found.
    best = min(measured, key=lambda row: row[DISTANCE])
    evidence = _unseen_by_reward(measured[-1], best, config)
    # In a sound run the discriminator reacts to images that drift, and its order rises; then the
    # drift is not counted as hacking.
    if measured[-1][REWARD_ORDER] <= best[REWARD_ORDER]:
        evidence += _out_of_range(measured, config, alignment)
    return evidence


def _unseen_by_reward(row: Row, best: Row, config: WatchConfig) -> list[str]:
    # With too few held-out prompts no critic is trained.
    critic, reward = row.get(CRITIC_ORDER, 0.0), row[REWARD_ORDER]
    is_blind = critic - reward >= config.critic_gap
    if not (is_blind and row[DISTANCE] >= config.distance_rise * best[DISTANCE]):
        return []
    then = f"at update {best['update']:.0f}"
    orders = (
        f"a fresh critic puts the reference image above the generated one in {critic:.0%} of "
        f"pairs, the run's reward in {reward:.0%} ({best[REWARD_ORDER]:.0%} {then})"
    )
    return [
        orders,
        f"the held-out distance is {row[DISTANCE]:.3g}; it was {best[DISTANCE]:.3g} {then}",
    ]


def _out_of_range(measured: Sequence[Row], config: WatchConfig, alignment: str) -> list[str]:
    base, row = measured[0], measured[-1]
    evidence = []
    if row[alignment] <= base[alignment] - config.alignment_fall:
        evidence.append(
            f"alignment ({alignment.removeprefix('held_out/')}) fell from the base model's "
            f"{base[alignment]:.3f} to {row[alignment]:.3f}"
        )
    prefix = f"held_out/{STATISTICS}."
    for name in (key.removeprefix(prefix) for key in row if key.startswith(prefix)):
        reference = base[f"held_out/{REFERENCE_STATISTICS}.{name}"]
        deviation = base[f"held_out/{REFERENCE_STATISTICS}.{name}_deviation"]
        value, start = row[prefix + name], base[prefix + name]
        # The policy is meant to move from the base model to the reference images, so anything in
        # between is fine. Negative inside of that range.
        outside = max(min(reference, start) - value, value - max(reference, start))
        # A statistic that all reference images share has no deviation to measure with.
        if outside >= config.statistics_range * max(deviation, 1e-6):
            evidence.append(
                f"{name.replace('_', ' ')} is {value:.3f}, with {reference:.3f} in reference "
                f"images and {start:.3f} in the base model's"
            )
    return evidence


def signs_of_collapse(history: Sequence[Row]) -> dict[str, str | None]:
    """Search the newest updates for signs that the run cannot learn any more.

    Args:
        history: The run's rows, in order; those without a rollout are ignored.

    Returns:
        Sign -> the numbers and the settings to change, or None without it: `equal_rewards`, most
        groups have one reward for all images, so no advantage; `saturated`, the discriminator
        separates all images by a margin that no image of a group can bridge; `lost_diversity`, the
        images of a group have become alike; `clipped_before_step`, rollout and update round so far
        apart that images give no gradient. Only the last one before there are enough updates.
    """
    scored = [row for row in history if CLIPPED_BEFORE_STEP in row]
    signs = {"clipped_before_step": _clipped_before_step(scored)} if scored else {}
    rows = [row for row in history if "rollout/diversity_in_group" in row]
    if len(rows) < 2 * COLLAPSE_UPDATES:
        return signs
    # At least twice as many rows, so that the two do not overlap.
    newest, first = rows[-COLLAPSE_UPDATES:], rows[:COLLAPSE_UPDATES]
    return signs | {
        "equal_rewards": _equal_rewards(newest),
        "saturated": _saturated(newest),
        "lost_diversity": _lost_diversity(newest, first),
    }


def _clipped_before_step(rows: Sequence[Row]) -> str | None:
    share = _mean(rows[-COLLAPSE_UPDATES:], CLIPPED_BEFORE_STEP)
    if share <= CLIPPED_SHARE:
        return None
    return (
        f"{share:.0%} of images are outside of the clip range before the first optimizer step, so "
        "half of them give no gradient; give rollout and update one microbatch size, raise "
        "training.algorithm.clip_range, or remove training.algorithm.ratio_tolerance to refuse it"
    )


def _equal_rewards(rows: Sequence[Row]) -> str | None:
    share = _mean(rows, "reward/groups_without_spread")
    if share <= EQUAL_GROUPS:
        return None
    return (
        f"{share:.0%} of groups have equal rewards and teach nothing; change "
        "training.rollout.group_size, training.reward or, of grpo, "
        "training.algorithm.sampler.noise_level"
    )


def _saturated(rows: Sequence[Row]) -> str | None:
    spread = "reward/discriminator_std_in_group"
    # A reward without a discriminator has no such metric.
    if spread not in rows[0]:
        return None
    # The minimum: a single rollout with images on the wrong side still gives a signal.
    accuracy = min(row["discriminator/held_out_accuracy"] for row in rows)
    margin = _mean(rows, "discriminator/margin")
    if accuracy < SATURATED_ACCURACY or margin < SATURATED_MARGIN * _mean(rows, spread):
        return None
    return (
        f"the discriminator separates all images by {margin:.3g}, while rewards differ by "
        f"{_mean(rows, spread):.3g} within a group; lower "
        "training.update_schedule.discriminator_steps or discriminator.optimizer.learning_rate"
    )


def _lost_diversity(newest: Sequence[Row], first: Sequence[Row]) -> str | None:
    now, then = (_mean(rows, "rollout/diversity_in_group") for rows in (newest, first))
    if now > LOST_DIVERSITY * then:
        return None
    return (
        f"images of a group differ by {now:.3g}, at first by {then:.3g}; lower "
        "training.optimizer.learning_rate or raise training.algorithm.kl_weight"
    )


def _mean(rows: Sequence[Row], name: str) -> float:
    return sum(row[name] for row in rows) / len(rows)
