"""The alarm for a hacked reward.

A reward is hacked where it goes on rising while the pictures get worse. The distance to reference
images alone does not show it: in a sound adversarial run it swings, as the discriminator follows
the policy with a delay. What tells the two apart is whether the reward *minds*. In a sound run the
discriminator sees the difference as it grows, and puts reference images above generated ones; a
hacked reward prefers the generated ones while a critic that was trained on the spot, and that no
policy could learn to fool, tells them apart with ease.

The rule is a pure function of the history, which a checkpoint holds: a run that is resumed raises
the alarm where one that never stopped would.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from advgrpo.config.training import WatchConfig
from advgrpo.training.held_out import CRITIC_ORDER, REFERENCE_STATISTICS, STATISTICS

DISTANCE = "held_out/distance"
REWARD_ORDER = "held_out/order.reward"

Row = Mapping[str, float]


@dataclass(frozen=True)
class Alarm:
    """A reward that is taken for hacked."""

    update: int
    """Policy update after which it was measured."""

    witnesses: tuple[str, ...]
    """What was measured, in words."""

    @property
    def reason(self) -> str:
        """What speaks for it, in words."""
        return "; ".join(self.witnesses)

    def __str__(self) -> str:
        return f"the reward looks hacked at update {self.update}: {self.reason}"


def find_alarm(history: Sequence[Row], config: WatchConfig, *, alignment: str) -> Alarm | None:
    """Judge the newest measurement on held-out prompts.

    With `critic` and `reward` the shares of pairs that a fresh critic and the run's reward put in
    order (reference image above generated image), `best` the measurement of the smallest distance
    so far and `base` the first one, a measurement bears witness if

        critic - reward >= blindness   and   distance >= distance_rise * best distance

    or if the reward minds no more than it did at the best, `reward <= best reward`, while

        alignment <= base alignment - alignment_fall   or
        a statistic is statistics_range deviations of the reference images outside of the range
        between base model and reference images.

    The alarm is raised if the newest `measurements` of them do.

    Args:
        history: The run's rows, in order; those without a held-out distance are left out.
        config: The thresholds.
        alignment: Name of the alignment measure in the rows.

    Returns:
        The alarm, or None.
    """
    measured = [row for row in history if DISTANCE in row]
    if len(measured) < config.measurements:
        return None
    ends = range(len(measured) - config.measurements + 1, len(measured) + 1)
    testimony = [_witnesses(measured[:end], config, alignment) for end in ends]
    if not all(testimony):
        return None
    return Alarm(int(measured[-1]["update"]), tuple(testimony[-1]))


def _witnesses(measured: Sequence[Row], config: WatchConfig, alignment: str) -> list[str]:
    """Say in words what the last measurement has against the reward."""
    best = min(measured, key=lambda row: row[DISTANCE])
    unseen = _unseen_by_reward(measured[-1], best, config)
    unminded = _out_of_range(measured, config, alignment)
    if measured[-1][REWARD_ORDER] > best[REWARD_ORDER]:
        unminded = []
    return unseen + unminded


def _unseen_by_reward(row: Row, best: Row, config: WatchConfig) -> list[str]:
    # A critic is not asked where there are too few held-out prompts.
    critic, reward = row.get(CRITIC_ORDER, 0.0), row[REWARD_ORDER]
    blind = critic - reward >= config.critic_gap
    if not (blind and row[DISTANCE] >= config.distance_rise * best[DISTANCE]):
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
    words = []
    if row[alignment] <= base[alignment] - config.alignment_fall:
        words.append(
            f"alignment ({alignment.removeprefix('held_out/')}) fell from the base model's "
            f"{base[alignment]:.3f} to {row[alignment]:.3f}"
        )
    prefix = f"held_out/{STATISTICS}."
    for name in (key.removeprefix(prefix) for key in row if key.startswith(prefix)):
        reference = base[f"held_out/{REFERENCE_STATISTICS}.{name}"]
        deviation = base[f"held_out/{REFERENCE_STATISTICS}.{name}_deviation"]
        value, start = row[prefix + name], base[prefix + name]
        outside = max(min(reference, start) - value, value - max(reference, start))
        if outside >= config.statistics_range * max(deviation, 1e-6):
            words.append(
                f"{name.replace('_', ' ')} is {value:.3f}, with {reference:.3f} in reference "
                f"images and {start:.3f} in the base model's"
            )
    return words
