from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from advgrpo.algorithm.advantage import combined_rewards, group_advantages
from advgrpo.errors import ConfigError
from advgrpo.planning.memory import host_memory
from advgrpo.planning.models import models_of
from advgrpo.planning.work import work_of
from advgrpo.training.loop import train, train_on_rollout
from advgrpo.training.rollout import Rollout, generate_rollout
from advgrpo.training.state import TrainingState
from tests.training.conftest import World
from tests.training.test_loop import assert_same, train_until_stopped, weights

pytestmark = pytest.mark.usefixtures("loaded_once")

NFT = "training.algorithm={type: nft}"
ONE, TWO = (f"training.rollout.replayed_rollouts={count}" for count in (1, 2))
Make = Callable[..., TrainingState]


@dataclass
class Seen:
    """What rollouts and updates of a run were given."""

    generated: list[Rollout]
    trained: list[Rollout]
    advantages: list[Tensor]
    expected: list[Tensor]
    """Advantages of all rollouts so far, newest first, by the whole reward at each update."""


@pytest.fixture
def watched(make_state: Make, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Seen]:
    """Train on rollouts and return what the updates were given."""

    def watch(*overrides: str, rollouts: int) -> Seen:
        state, seen = make_state(NFT, *overrides), Seen([], [], [], [])
        update = state.policy_updater.update

        def generated(*arguments: object, **settings: object) -> Rollout:
            seen.generated.append(generate_rollout(*arguments, **settings))
            return seen.generated[-1]

        def updated(
            rollout: Rollout, advantages: Tensor, *arguments: object, **settings: object
        ) -> dict[str, float]:
            seen.trained.append(rollout)
            seen.advantages.append(advantages)
            seen.expected.append(advantages_by_today(state, seen.generated[::-1]))
            return update(rollout, advantages, *arguments, **settings)

        monkeypatch.setattr("advgrpo.training.steps.generate_rollout", generated)
        state.policy_updater.update = updated  # type: ignore[method-assign]
        for _ in range(rollouts):
            train_on_rollout(state)
        assert float(state.engine.state()["step"]) == rollouts * (
            state.config.optimizer_steps_per_update
        )
        return seen

    return watch


def advantages_by_today(state: TrainingState, rollouts: list[Rollout]) -> Tensor:
    terms = [
        state.reward.terms(
            rollout.images,
            state.discriminator.image_features(rollout.images),
            state.texts(rollout.prompt_ids.tolist()),
        )
        for rollout in rollouts
    ]
    by_group = torch.cat(terms).view(-1, state.config.rollout.group_size, len(state.reward.names))
    rewards = combined_rewards(
        list(by_group.unbind(-1)), state.reward.weights, standardize=state.reward.standardize
    )
    normalization = state.config.advantage_normalization
    return group_advantages(rewards, normalization=normalization).flatten()


def test_earlier_images_train_again_by_the_reward_of_today(
    watched: Callable[..., Seen],
) -> None:
    seen = watched(ONE, "training.updates=3", rollouts=3)
    for number in (1, 2):
        both = Rollout.joined([seen.generated[number], seen.generated[number - 1]])
        assert_same(seen.trained[number].recorded, both.recorded)
        assert torch.equal(seen.trained[number].prompt_ids, both.prompt_ids)
        assert seen.trained[number].number == number
    # The second update knows both rollouts; the discriminator was trained between them.
    torch.testing.assert_close(seen.advantages[1], seen.expected[1], atol=1e-4, rtol=1e-3)
    before, now = seen.advantages[0][:8], seen.advantages[1][8:]
    assert float((before - now).abs().max()) > 1e-2


def test_the_first_rollouts_stand_in_for_those_before_them_with_other_noise(
    watched: Callable[..., Seen],
) -> None:
    seen = watched(TWO, "training.updates=4", rollouts=4)
    for number, places in enumerate([(0, 0, 0), (1, 0, 0), (2, 1, 0), (3, 2, 1)]):
        stood_in = Rollout.joined([seen.generated[place] for place in places])
        assert_same(seen.trained[number].recorded, stood_in.recorded)
        images = list(
            zip(
                seen.trained[number].prompt_ids.tolist(),
                seen.trained[number].samples.tolist(),
                strict=True,
            )
        )
        # Noise follows from the two.
        assert len(set(images)) == len(images) == 24


def test_an_optimizer_step_has_whole_groups_of_each_rollout(watched: Callable[..., Seen]) -> None:
    seen = watched(ONE, "training.optimizer_steps_per_update=2", rollouts=2)
    now, before = (seen.generated[number].prompt_ids for number in (1, 0))
    expected = torch.cat([now[:4], before[:4], now[4:], before[4:]])
    assert torch.equal(seen.trained[1].prompt_ids, expected)
    by_rollout = seen.expected[1].view(2, 2, 4).transpose(0, 1).flatten()
    torch.testing.assert_close(seen.advantages[1], by_rollout, atol=1e-4, rtol=1e-3)


def test_selected_images_of_earlier_rollouts_train_again(watched: Callable[..., Seen]) -> None:
    seen = watched(
        ONE,
        "training.rollout.select={best: 1, worst: 1}",
        "training.rollout.update_microbatch_size=2",
        rollouts=2,
    )
    assert len(seen.trained[1].prompt_ids) == 8
    assert all(group.min() < 0 < group.max() for group in seen.advantages[1].view(4, 2))


def test_a_run_that_resumes_trains_on_the_same_earlier_rollouts(make_state: Make) -> None:
    straight = make_state(NFT, TWO, folder="straight")
    train(straight)

    train_until_stopped(make_state(NFT, TWO, folder="stopped"), microbatches=4)
    resumed = make_state(NFT, TWO, folder="stopped")
    assert resumed.resume()
    kept = resumed.past.state()
    assert {name.partition(".")[0] for name in kept} == {"0"}
    train(resumed)
    assert_same(weights(resumed), weights(straight))
    assert_same(resumed.past.state(), straight.past.state())


def test_algorithms_that_compare_with_the_present_policy_refuse_earlier_images(
    world: World,
) -> None:
    for algorithm in ("grpo", "awm"):
        with pytest.raises(ConfigError, match=r"rollout.replayed_rollouts=1: .*set rollout"):
            world.config(ONE, f"training.algorithm={{type: {algorithm}}}")


def test_planning_counts_them(world: World) -> None:
    def planned(*overrides: str) -> tuple[int, int, int | None]:
        run = world.config(NFT, *overrides)
        work = work_of(run, 2)
        features = host_memory(run, models_of(run), 2)[0].bytes
        return work.update_passes_per_update, work.rollout_passes_per_update, features

    update, rollout, memory = planned()
    update_again, rollout_again, memory_again = planned(TWO)
    assert (update_again, rollout_again) == (3 * update, rollout)
    # Each of two processes holds half of the two rollouts.
    assert memory is not None
    assert memory_again is not None
    images = 8 + world.config().discriminator.optimizer.replay_images
    assert memory_again * images == memory * (images + 8)
