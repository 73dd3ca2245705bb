from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from advgrpo.config.algorithms import NftConfig, OldPolicyConfig
from advgrpo.errors import ConfigError, OldPolicyError
from advgrpo.planning.memory import _adapter
from advgrpo.planning.models import models_of
from advgrpo.planning.work import work_of
from advgrpo.training.loop import train_on_rollout
from advgrpo.training.state import TrainingState
from tests.training.conftest import World

pytestmark = pytest.mark.usefixtures("loaded_once")

NFT = NftConfig()
Make = Callable[..., TrainingState]


def old_policy(state: TrainingState) -> dict[str, Tensor]:
    return {name.removeprefix("old."): v.clone() for name, v in state.algorithm.state().items()}


def test_at_the_first_step_old_and_trained_policy_have_the_same_velocity(make_state: Make) -> None:
    metrics = train_on_rollout(make_state(algorithm=NFT))
    # One optimizer step, and it is taken after all losses.
    assert metrics["policy/contrast"] == 0
    assert metrics["policy/old_policy_distance"] > 0
    assert metrics["policy/gradient_norm"] > 0
    assert metrics["policy/matching_error"] > 0


def test_later_steps_of_a_rollout_contrast_the_policies(make_state: Make) -> None:
    metrics = train_on_rollout(make_state("training.optimizer_steps_per_update=2", algorithm=NFT))
    assert metrics["policy/contrast"] > 0


def test_the_old_policy_follows_by_its_schedule(make_state: Make) -> None:
    slow = NftConfig(old_policy=OldPolicyConfig(flat_steps=1, growth=0.25, limit=0.5))
    state = make_state(algorithm=slow)
    before = old_policy(state)
    assert train_on_rollout(state)["policy/old_policy_decay"] == 0
    first = state.engine.adapter()
    assert all(torch.equal(value, first[name]) for name, value in old_policy(state).items())
    assert any((first[name] != before[name]).any() for name in before)

    assert train_on_rollout(state)["policy/old_policy_decay"] == 0.25
    second = state.engine.adapter()
    for name, value in old_policy(state).items():
        torch.testing.assert_close(value, 0.25 * first[name] + 0.75 * second[name])
    assert train_on_rollout(state)["policy/contrast"] > 0


def test_images_are_those_of_the_old_policy(make_state: Make) -> None:
    state = make_state(algorithm=NFT)
    train_on_rollout(state)
    for value in old_policy(state).values():
        value.zero_()
    sampled: list[dict[str, Tensor]] = []
    velocity = state.policy.velocity

    def watch(*arguments: object, **settings: object) -> Tensor:
        sampled.append(state.engine.adapter())
        return velocity(*arguments, **settings)

    state.policy.velocity = watch  # type: ignore[method-assign]
    own, old = state.engine.adapter(), old_policy(state)
    train_on_rollout(state)
    # 2 microbatches of 3 denoising steps; then per microbatch 2 draws of the old and the trained.
    assert len(sampled) == 2 * 3 + 2 * (2 + 2)
    assert all(torch.equal(sampled[0][name], old[name]) for name in old)
    assert all(torch.equal(sampled[8][name], own[name]) for name in own)


@pytest.mark.parametrize("steps", [1, 2])
def test_an_old_policy_with_the_trained_weights_takes_no_pass_of_its_own(
    make_state: Make, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    at_once = NftConfig(old_policy=OldPolicyConfig(growth=0))
    setting = f"training.optimizer_steps_per_update={steps}"
    without, anyway = (make_state(setting, algorithm=at_once) for _ in range(2))
    calls = 0
    velocity = without.policy.velocity

    def count(*arguments: object, **settings: object) -> Tensor:
        nonlocal calls
        calls += 1
        return velocity(*arguments, **settings)

    without.policy.velocity = count  # type: ignore[method-assign]
    train_on_rollout(without)
    calls = 0
    train_on_rollout(without)
    # As above, but the first optimizer step of the rollout has no passes of the old policy.
    assert calls == 2 * 3 + 2 * 2 + 2 * 2 * (steps - 1) / steps

    train_on_rollout(anyway)
    monkeypatch.setattr("advgrpo.training.algorithms.nft._relative_distance", lambda *_: 1e-9)
    train_on_rollout(anyway)
    other = anyway.engine.adapter()
    assert all(torch.equal(value, other[name]) for name, value in without.engine.adapter().items())


def test_velocities_that_depend_on_more_than_the_weights_stop_the_run(make_state: Make) -> None:
    state = make_state(algorithm=NFT)
    velocity = state.policy.velocity

    def with_dropout(*arguments: object, **settings: object) -> Tensor:
        found = velocity(*arguments, **settings)
        return found * 1.2 if torch.is_grad_enabled() else found

    state.policy.velocity = with_dropout  # type: ignore[method-assign]
    before = state.engine.state()
    with pytest.raises(OldPolicyError, match="contrast_tolerance"):
        train_on_rollout(state)
    assert all(torch.equal(value, before[name]) for name, value in state.engine.state().items())


def test_an_old_policy_whose_weights_have_no_effect_stops_the_run(
    make_state: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = NftConfig(old_policy=OldPolicyConfig(growth=0.5))
    state = make_state(algorithm=slow)

    @contextmanager
    def ignored(values: object) -> Iterator[None]:  # noqa: ARG001
        yield

    monkeypatch.setattr(state.engine, "adapter_as", ignored)
    train_on_rollout(state)
    with pytest.raises(OldPolicyError, match="weights have no effect"):
        train_on_rollout(state)


def test_an_old_policy_that_is_the_trained_one_stops_the_run(make_state: Make) -> None:
    state = make_state(algorithm=NFT)
    # The live parameters, as of a framework that keeps no copy.
    state.algorithm._old = dict(state.policy.trainable_parameters())  # type: ignore[attr-defined]
    for value in state.algorithm._old.values():  # type: ignore[attr-defined]
        value.requires_grad_(True)
    with torch.no_grad(), pytest.raises(OldPolicyError, match="equal after an update"):
        state.algorithm.finish_update(1)
        values = {"advantage": torch.ones(4)}
        state.algorithm.metrics([values], state.process_group, unchanged=1)


def test_equal_rewards_leave_old_and_trained_policy_alone(
    make_state: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = make_state("training.optimizer.weight_decay=0", algorithm=NFT)
    monkeypatch.setattr(state.reward, "terms", lambda images, _f, _p: torch.ones(len(images), 2))
    before = state.engine.adapter()
    for _ in range(2):
        assert train_on_rollout(state)["policy/old_policy_distance"] == 0
    assert all(torch.equal(value, before[name]) for name, value in state.engine.adapter().items())


def test_the_distance_from_the_base_policy_is_zero_at_first_and_then_counts(
    make_state: Make,
) -> None:
    state = make_state(algorithm=NftConfig(kl_weight=0.1))
    first, second = train_on_rollout(state), train_on_rollout(state)
    assert first["policy/divergence_from_base"] == 0
    assert second["policy/divergence_from_base"] > 0


def test_more_draws_than_sigmas_are_refused(world: World) -> None:
    with pytest.raises(ConfigError, match=r"draws=4: must not exceed .*num_inference_steps=3"):
        world.config("training.algorithm={type: nft, draws: 4}")


def test_guidance_is_refused(world: World) -> None:
    with pytest.raises(ConfigError, match="guidance_scale switches it on"):
        world.config("training.algorithm={type: nft}", "training.sampling.guidance_scale=2")


def test_planning_counts_the_old_policy(world: World) -> None:
    grpo, nft = world.config(), world.config("training.algorithm={type: nft}")
    works = [work_of(run, 1) for run in (grpo, nft)]
    assert works[0].rollout_passes_per_update == works[1].rollout_passes_per_update == 8 * 3
    assert [work.update_passes_per_update for work in works] == [8 * 2, 8 * 2]
    assert [work.extra_passes_per_update for work in works] == [0, 8 * 2]
    at_once = "training.algorithm={type: nft, old_policy: {growth: 0}}"
    without = [world.config(at_once, f"training.optimizer_steps_per_update={n}") for n in (1, 2)]
    assert [work_of(run, 1).extra_passes_per_update for run in without] == [0, 8 * 2 / 2]
    models = models_of(nft)
    sizes = [_adapter(run, models, 1).bytes for run in (grpo, nft)]
    # Weight, gradient, average, best and three states of Adam; then the old policy.
    assert sizes[1] * 7 == sizes[0] * 8
