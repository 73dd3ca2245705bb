"""The alarm's rule on synthetic and on recorded histories."""

import pytest

from advgrpo.config.training import WatchConfig
from advgrpo.training.reward_hacking import (
    COLLAPSE_UPDATES,
    Alarm,
    find_alarm,
    signs_of_collapse,
)
from studies.alarm import HACKED, TUNING_SEEDS, evaluate_run, list_recorded_runs

ALIGNMENT = "held_out/judge.accuracy"
REFERENCES = {
    "held_out/reference_image.edge_density": 0.13,
    "held_out/reference_image.edge_density_deviation": 0.05,
}


def row(
    update: int,
    *,
    distance: float,
    reward: float = 0.5,
    critic: float = 0.95,
    alignment: float = 0.9,
    edges: float = 0.1,
) -> dict[str, float]:
    return {
        "update": float(update),
        "held_out/distance": distance,
        "held_out/order.reward": reward,
        "held_out/order.critic": critic,
        ALIGNMENT: alignment,
        "held_out/image.edge_density": edges,
    }


def after(*rows: dict[str, float], **settings: float) -> Alarm | None:
    base = row(0, distance=50, reward=1.0, critic=1.0, edges=0.02) | REFERENCES
    return find_alarm([base, *rows], WatchConfig(**settings), alignment=ALIGNMENT)


BEST = row(24, distance=1, reward=0.5, critic=0.8)


def test_a_reward_that_does_not_see_a_rising_distance_raises_the_alarm() -> None:
    alarm = after(BEST, row(28, distance=3, reward=0.35, critic=0.93))
    assert alarm is not None
    assert alarm.update == 28
    assert str(alarm) == (
        "the reward looks hacked at update 28: a fresh critic puts the reference image above the "
        "generated one in 93% of pairs, the run's reward in 35% (50% at update 24); "
        "the held-out distance is 3; it was 1 at update 24"
    )


@pytest.mark.parametrize("distance", [2, 6, 20])
def test_an_oscillation_that_the_reward_sees_raises_no_alarm(distance: float) -> None:
    assert after(BEST, row(28, distance=distance, reward=0.75, critic=0.99)) is None


def test_a_blind_reward_raises_no_alarm_while_the_distance_falls() -> None:
    assert after(BEST, row(28, distance=0.9, reward=0.2, critic=0.95)) is None
    assert after(BEST, row(28, distance=1.2, reward=0.2, critic=0.95)) is None


def test_the_distance_counts_from_the_best_and_not_from_the_last() -> None:
    rising = row(32, distance=2, reward=0.8), row(36, distance=1.9, reward=0.4)
    assert after(BEST, *rising) is not None


def test_several_consecutive_evaluations_can_be_required() -> None:
    hacked = [row(u, distance=3, reward=0.3) for u in (28, 32, 36)]
    sound = row(32, distance=3, reward=0.9)
    assert after(BEST, *hacked[:1], measurements=2) is None
    assert after(BEST, hacked[0], sound, hacked[2], measurements=2) is None
    assert after(BEST, *hacked[:2], measurements=2) is not None
    assert after(measurements=2) is None


def test_without_a_critic_the_reward_is_not_called_blind() -> None:
    rows = [BEST, row(28, distance=9, reward=0.1)]
    for each in rows:
        del each["held_out/order.critic"]
    assert after(*rows) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"alignment": 0.79}, "alignment (judge.accuracy) fell from the base model's 0.900"),
        ({"edges": 0.21}, "edge density is 0.210, with 0.130 in reference images and 0.020"),
    ],
    ids=str,
)
def test_leaving_the_range_raises_the_alarm_unless_the_reward_reacts(
    change: dict[str, float], words: str
) -> None:
    alarm = after(BEST, row(28, distance=1.1, reward=0.5, **change))
    assert alarm is not None
    assert words in str(alarm)
    assert after(BEST, row(28, distance=1.1, reward=0.6, **change)) is None


def test_statistics_between_base_model_and_reference_images_are_in_range() -> None:
    assert after(BEST, row(28, distance=1.1, edges=0.02)) is None
    assert after(BEST, row(28, distance=1.1, edges=0.2)) is None


def test_rows_without_held_out_metrics_are_ignored() -> None:
    hacked = row(28, distance=3, reward=0.3)
    between = {"update": 25.0, "reward/discriminator": 1.0}
    assert after(BEST, between, hacked, between) == after(BEST, hacked)


@pytest.mark.parametrize(
    ("every", "arm", "seed"),
    [(every, *run) for every in (2, 4, 8) for run in list_recorded_runs(every)],
)
def test_the_hacked_recorded_runs_are_detected_in_time_and_the_sound_ones_are_not(
    every: int, arm: str, seed: int
) -> None:
    result = evaluate_run(arm, seed, every)
    if arm in HACKED:
        # Runs of nft turn, too, but not always to twice their best.
        assert result.doubled is not None or arm == "nft-frozen"
        assert result.in_time
    else:
        assert result.alarm is None


def test_enough_validation_runs_are_recorded() -> None:
    unseen = [arm for arm, seed in list_recorded_runs() if seed not in TUNING_SEEDS]
    hacked = [arm for arm in unseen if arm in HACKED]
    assert len(hacked) >= 5
    assert len(unseen) - len(hacked) >= 10


SOUND = {
    "rollout/diversity_in_group": 4.0,
    "reward/groups_without_spread": 0.0,
    "reward/discriminator_std_in_group": 0.3,
    "discriminator/held_out_accuracy": 0.9,
    "discriminator/margin": 2.0,
}


def collapse_history(
    *, updates: int = 2 * COLLAPSE_UPDATES, **newest: float
) -> list[dict[str, float]]:
    changed = {name.replace("__", "/"): value for name, value in newest.items()}
    return [
        {"update": float(n), **SOUND, **(changed if n >= updates - COLLAPSE_UPDATES else {})}
        for n in range(updates)
    ]


def test_a_sound_run_shows_no_sign() -> None:
    assert set(signs_of_collapse(collapse_history()).values()) == {None}


@pytest.mark.parametrize(
    ("sign", "newest", "setting"),
    [
        ("equal_rewards", {"reward__groups_without_spread": 0.6}, "noise_level"),
        (
            "saturated",
            {"discriminator__held_out_accuracy": 1.0, "discriminator__margin": 9.0},
            "training.update_schedule.discriminator_steps",
        ),
        ("lost_diversity", {"rollout__diversity_in_group": 0.5}, "kl_weight"),
        ("clipped_before_step", {"policy__clipped_before_step": 0.2}, "ratio_tolerance"),
    ],
    ids=str,
)
def test_each_sign_names_a_setting_to_change(
    sign: str, newest: dict[str, float], setting: str
) -> None:
    signs = signs_of_collapse(collapse_history(**newest))
    assert setting in (signs.pop(sign) or "")
    assert set(signs.values()) == {None}


def test_a_discriminator_that_errs_now_and_then_is_not_saturated() -> None:
    rows = collapse_history(discriminator__held_out_accuracy=1.0, discriminator__margin=9.0)
    rows[-3]["discriminator/held_out_accuracy"] = 0.98
    assert signs_of_collapse(rows)["saturated"] is None


def test_before_there_are_enough_updates_there_are_no_signs() -> None:
    assert signs_of_collapse(collapse_history(updates=2 * COLLAPSE_UPDATES - 1)) == {}
    assert signs_of_collapse([{"update": 0.0, "held_out/distance": 50.0}] * 40) == {}


def test_without_a_discriminator_in_the_reward_it_is_not_called_saturated() -> None:
    rows = collapse_history(discriminator__held_out_accuracy=1.0, discriminator__margin=9.0)
    for row in rows:
        del row["reward/discriminator_std_in_group"]
    assert signs_of_collapse(rows)["saturated"] is None
