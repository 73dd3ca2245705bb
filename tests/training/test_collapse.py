import pytest

from advgrpo.training.collapse import UPDATES, signs_of_collapse

SOUND = {
    "rollout/diversity_in_group": 4.0,
    "reward/groups_without_spread": 0.0,
    "reward/discriminator_std_in_group": 0.3,
    "discriminator/held_out_accuracy": 0.9,
    "discriminator/margin": 2.0,
}


def history(*, updates: int = 2 * UPDATES, **newest: float) -> list[dict[str, float]]:
    changed = {name.replace("__", "/"): value for name, value in newest.items()}
    return [
        {"update": float(n), **SOUND, **(changed if n >= updates - UPDATES else {})}
        for n in range(updates)
    ]


def test_a_sound_run_shows_no_sign() -> None:
    assert set(signs_of_collapse(history()).values()) == {None}


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
    ],
    ids=str,
)
def test_each_sign_names_a_setting_to_look_at(
    sign: str, newest: dict[str, float], setting: str
) -> None:
    signs = signs_of_collapse(history(**newest))
    assert setting in (signs.pop(sign) or "")
    assert set(signs.values()) == {None}


def test_a_discriminator_that_errs_now_and_then_is_not_saturated() -> None:
    rows = history(discriminator__held_out_accuracy=1.0, discriminator__margin=9.0)
    rows[-3]["discriminator/held_out_accuracy"] = 0.98
    assert signs_of_collapse(rows)["saturated"] is None


def test_before_there_are_enough_updates_nothing_is_said() -> None:
    assert signs_of_collapse(history(updates=2 * UPDATES - 1)) == {}
    assert signs_of_collapse([{"update": 0.0, "held_out/distance": 50.0}] * 40) == {}


def test_without_a_discriminator_in_the_reward_it_is_not_called_saturated() -> None:
    rows = history(discriminator__held_out_accuracy=1.0, discriminator__margin=9.0)
    for row in rows:
        del row["reward/discriminator_std_in_group"]
    assert signs_of_collapse(rows)["saturated"] is None
