import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from advgrpo.config import resolve
from advgrpo.data.sampler import (
    prompts_of_base_images,
    prompts_of_rollout,
    prompts_of_run,
    share_of_rank,
)
from advgrpo.data.splits import is_held_out
from advgrpo.errors import ConfigError


@given(
    prompts=st.integers(1, 12),
    group_size=st.integers(2, 9),
    steps=st.integers(1, 4),
    world_size=st.integers(1, 8),
)
def test_ranks_share_every_image_once_and_no_step_splits_a_group(
    prompts: int, group_size: int, steps: int, world_size: int
) -> None:
    ids = list(range(100, 100 + prompts))

    def share(rank: int) -> list[list[tuple[int, int, int]]]:
        plans = share_of_rank(
            ids,
            group_size=group_size,
            optimizer_steps=steps,
            world_size=world_size,
            rank=rank,
        )
        return [[(p.position, p.prompt_id, p.sample) for p in step] for step in plans]

    if prompts % steps or (prompts // steps * group_size) % world_size:
        with pytest.raises(ValueError, match="do not split"):
            share(0)
        return
    shares = [share(rank) for rank in range(world_size)]
    assert len({len(step) for one in shares for step in one}) == 1
    images = sorted(image for one in shares for step in one for image in step)
    assert [position for position, _, _ in images] == list(range(prompts * group_size))
    for step in range(steps):
        of_step = [prompt for one in shares for _, prompt, _ in one[step]]
        assert all(of_step.count(prompt) == group_size for prompt in of_step)


@given(
    world_size=st.integers(1, 9),
    prompts=st.integers(1, 9),
    group_size=st.integers(2, 9),
    microbatch=st.integers(1, 9),
)
def test_settings_either_hold_the_invariants_or_are_refused_with_the_setting(
    world_size: int, prompts: int, group_size: int, microbatch: int
) -> None:
    assume(prompts * group_size >= microbatch)
    rollout = {
        "prompts_per_update": prompts,
        "group_size": group_size,
        "microbatch_size": microbatch,
    }
    fits = prompts * group_size % (world_size * microbatch) == 0

    def check() -> None:
        overrides = [
            f"training.rollout={rollout}",
            f"discriminator.optimizer.batch_size={world_size * 8}",
        ]
        resolve("pocket", overrides).check_ranks(world_size)

    if not fits:
        with pytest.raises(ConfigError, match="microbatch_size"):
            check()
        return
    check()
    share_of_rank(
        range(prompts),
        group_size=group_size,
        optimizer_steps=1,
        world_size=world_size,
        rank=0,
    )


def test_a_pass_samples_every_prompt_once_and_the_next_pass_in_another_order() -> None:
    def a_pass(first: int) -> list[int]:
        rollouts = range(first, first + 5)
        drawn = [prompts_of_rollout(range(20), r, prompts_per_update=4, seed=0) for r in rollouts]
        return [prompt for rollout in drawn for prompt in rollout]

    assert sorted(a_pass(0)) == sorted(a_pass(5)) == list(range(20))
    assert a_pass(0) != a_pass(5)


def test_a_rollout_of_more_prompts_than_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="3 prompts are fewer"):
        prompts_of_rollout(range(3), 0, prompts_per_update=4, seed=0)


def test_about_the_configured_share_of_prompts_is_held_out() -> None:
    held = [is_held_out(f"prompt {k}", 0.1) for k in range(5000)]
    assert 0.08 < sum(held) / len(held) < 0.12


def test_the_prompts_of_a_run_are_those_of_its_rollouts() -> None:
    ids = list(range(3, 14))

    def of_run(rollouts: int | None) -> list[int]:
        return prompts_of_run(ids, rollouts=rollouts, prompts_per_update=3, seed=5)

    # Each pass over the prompts leaves two others out.
    for rollouts in (1, 3, 4):
        drawn = [
            prompts_of_rollout(ids, rollout, prompts_per_update=3, seed=5)
            for rollout in range(rollouts)
        ]
        assert set(of_run(rollouts)) == {prompt for prompts in drawn for prompt in prompts}
        assert len(of_run(rollouts)) == len(set(of_run(rollouts)))
    assert set(of_run(1000)) == set(of_run(None)) == set(ids)


def test_base_images_take_each_prompt_once_before_any_repeats() -> None:
    ids = prompts_of_base_images([5, 6, 7], 5, world_size=2, seed=0)
    assert sorted(ids[:3]) == [5, 6, 7]
    assert ids[3:] == ids[:3]
