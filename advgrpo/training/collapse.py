"""Signs that a run learns nothing more, and the settings to look at."""

from collections.abc import Mapping, Sequence

UPDATES = 10
"""Updates that a sign is averaged over, as rollouts differ by the start of their window."""

EQUAL_GROUPS = 0.5
SATURATED_ACCURACY = 0.999
SATURATED_MARGIN = 20.0
LOST_DIVERSITY = 0.2

Row = Mapping[str, float]


def signs_of_collapse(history: Sequence[Row]) -> dict[str, str | None]:
    """Look for collapse in the newest updates.

    Args:
        history: The run's rows, in order; those without a rollout are left out.

    Returns:
        Sign -> what was measured and which settings to look at, in words, or None without it:
        `equal_rewards`, most groups have one reward for all images, so no advantage; `saturated`,
        the discriminator tells all images apart by a margin that no image of a group can bridge;
        `lost_diversity`, the images of a group have become alike. Empty before there are enough
        updates to tell.
    """
    rows = [row for row in history if "rollout/diversity_in_group" in row]
    if len(rows) < 2 * UPDATES:
        return {}
    newest, first = rows[-UPDATES:], rows[:UPDATES]
    return {
        "equal_rewards": _equal_rewards(newest),
        "saturated": _saturated(newest),
        "lost_diversity": _lost_diversity(newest, first),
    }


def _equal_rewards(rows: Sequence[Row]) -> str | None:
    share = _mean(rows, "reward/groups_without_spread")
    if share <= EQUAL_GROUPS:
        return None
    return (
        f"{share:.0%} of groups have equal rewards and teach nothing; look at "
        "training.algorithm.sampler.noise_level, training.rollout.group_size and training.reward"
    )


def _saturated(rows: Sequence[Row]) -> str | None:
    spread = "reward/discriminator_std_in_group"
    if spread not in rows[0]:
        return None
    accuracy = min(row["discriminator/held_out_accuracy"] for row in rows)
    margin = _mean(rows, "discriminator/margin")
    if accuracy < SATURATED_ACCURACY or margin < SATURATED_MARGIN * _mean(rows, spread):
        return None
    return (
        f"the discriminator tells all images apart by {margin:.3g}, while rewards differ by "
        f"{_mean(rows, spread):.3g} within a group; look at "
        "training.update_schedule.discriminator_steps and discriminator.optimizer.learning_rate"
    )


def _lost_diversity(newest: Sequence[Row], first: Sequence[Row]) -> str | None:
    now, then = (_mean(rows, "rollout/diversity_in_group") for rows in (newest, first))
    if now > LOST_DIVERSITY * then:
        return None
    return (
        f"images of a group differ by {now:.3g}, once by {then:.3g}; look at "
        "training.optimizer.learning_rate and training.algorithm.kl_weight"
    )


def _mean(rows: Sequence[Row], name: str) -> float:
    return sum(row[name] for row in rows) / len(rows)
