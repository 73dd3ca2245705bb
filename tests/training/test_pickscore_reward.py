"""Training against a tuned PickScore."""

from collections.abc import Callable

import pytest
import torch

from advgrpo.training.loop import train, train_on_rollout
from advgrpo.training.state import TrainingState
from tests.training.conftest import World

pytestmark = pytest.mark.usefixtures("loaded_once")

Make = Callable[..., TrainingState]


@pytest.fixture
def tuned(world: World) -> list[str]:
    location = world.tiny.pickscore
    return [
        (
            f"discriminator={{type: pickscore, weights: {{location: {location}}}, "
            "held_out_fraction: 0.3, optimizer: {batch_size: 8, replay_images: 16}}"
        ),
        "training.reward={terms: [{type: discriminator}]}",
    ]


def blocks(state: TrainingState) -> dict[str, torch.Tensor]:
    parameters = state.discriminator.trainable_parameters()
    return {name: p.detach().clone() for name, p in parameters.items()}


def changed(state: TrainingState, before: dict[str, torch.Tensor]) -> bool:
    return any(not torch.equal(before[name], value) for name, value in blocks(state).items())


def test_policy_and_vision_blocks_are_both_trained(make_state: Make, tuned: list[str]) -> None:
    state = make_state(
        *tuned, "training.update_schedule={type: every_rollout, discriminator_steps: 2}"
    )
    before = blocks(state)
    metrics = train_on_rollout(state)
    assert metrics["policy/ratio_error_before_step"] == 0
    assert metrics["policy/gradient_norm"] > 0
    assert changed(state, before)


@pytest.mark.parametrize("outscored", [True, False])
def test_it_learns_only_while_it_is_outscored(
    make_state: Make, tuned: list[str], monkeypatch: pytest.MonkeyPatch, outscored: bool
) -> None:
    state = make_state(*tuned, "training.update_schedule={type: when_outscored}")
    margin = -1.0 if outscored else 1.0
    metrics = {"discriminator/margin": margin, "discriminator/separation": 1.0}
    monkeypatch.setattr("advgrpo.training.steps.discriminator_metrics", lambda *_: metrics)
    before = blocks(state)
    assert ("discriminator/loss" in train_on_rollout(state)) is outscored
    assert changed(state, before) is outscored


@pytest.mark.parametrize("outscored", [True, False])
def test_the_policy_may_be_paused_while_it_is_outscored(
    make_state: Make, tuned: list[str], monkeypatch: pytest.MonkeyPatch, outscored: bool
) -> None:
    state = make_state(
        *tuned, "training.update_schedule={type: when_outscored, pause_policy: true}"
    )
    margin = -1.0 if outscored else 1.0
    metrics = {"discriminator/margin": margin, "discriminator/separation": 1.0}
    monkeypatch.setattr("advgrpo.training.steps.discriminator_metrics", lambda *_: metrics)
    metrics = train_on_rollout(state)
    assert ("discriminator/loss" in metrics) is outscored
    assert ("policy/loss" in metrics) is not outscored
    assert state.counters.updates == (0 if outscored else 1)
    assert state.counters.rollouts == 1


def test_resuming_equals_not_stopping(make_state: Make, tuned: list[str]) -> None:
    settings = [*tuned, "training.update_schedule={type: every_rollout, discriminator_steps: 2}"]
    straight = make_state(*settings, folder="straight")
    train(straight)
    stopped = make_state(*settings, folder="stopped")
    stopped.log_metrics(train_on_rollout(stopped))
    stopped.save()
    resumed = make_state(*settings, folder="stopped")
    assert resumed.resume()
    train(resumed)
    assert straight.engine.state().keys() == resumed.engine.state().keys()
    for name, value in blocks(straight).items():
        assert torch.equal(value, blocks(resumed)[name])
    for name, value in straight.engine.state().items():
        assert torch.equal(value, resumed.engine.state()[name])
