"""Effects of an alarm on the run."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from advgrpo.config import resolve
from advgrpo.errors import ConfigError
from advgrpo.models.policies.base import Policy
from advgrpo.records import ALARM_METRIC
from advgrpo.tasks.train import _metrics
from advgrpo.tasks.train_worker import write_results
from advgrpo.testing import RecordingLogger
from advgrpo.training.held_out import HeldOut, Rewards
from advgrpo.training.loop import train
from advgrpo.training.reward_hacking import alarms, stopped_early, tag_alarms
from advgrpo.training.state import TrainingState
from tests.training.test_loop import train_until_stopped

pytestmark = pytest.mark.usefixtures("loaded_once")

Make = Callable[..., TrainingState]

MEASURED = ("training.updates=4", "training.monitoring.held_out_every_updates=1")
STOP = (*MEASURED, "training.monitoring.watch.action=stop")
HACKED = (50.0, 1.0, 5.0, 6.0, 0.5)
"""Distances at updates 0 to 4; the reward always prefers generated images."""


class ScriptedMonitor:
    """Replaces the held-out monitor: distances are given, nothing is generated."""

    reference_metrics: Mapping[str, float] = {}

    def __init__(self, state: TrainingState, distances: Sequence[float], reward: float) -> None:
        self._distances, self._counters = distances, state.counters
        prompts = len(state.reference_rewards.values()["discriminator"])
        self._rewards = {
            name: torch.full((prompts,), reward) for name in ("discriminator", "pickscore")
        }

    def measure(self, policy: Policy, rewards: Rewards) -> HeldOut:  # noqa: ARG002
        metrics = {
            "held_out/distance": self._distances[self._counters.updates],
            "held_out/order.critic": 0.95,
            "held_out/brightness.mean": 0.5,
            "held_out/reward": 0.0,
        }
        return HeldOut(metrics, torch.zeros(0, 3, 32, 32), self._rewards)


@pytest.fixture
def scripted(make_state: Make) -> Make:
    def make(*overrides: str, reward: float = 1e3, **arguments: object) -> TrainingState:
        state = make_state(*overrides, **arguments)
        return replace(state, monitor=ScriptedMonitor(state, HACKED, reward))

    return make


@pytest.fixture
def warnings_text(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    caplog.set_level(logging.WARNING, logger="advgrpo")
    return lambda: " ".join(record.getMessage() for record in caplog.records)


def test_an_alarm_is_logged_and_tagged_and_the_run_continues(
    scripted: Make, warnings_text: Callable[[], str]
) -> None:
    logger = RecordingLogger()
    state = scripted(*MEASURED, logger=logger)
    train(state)
    assert state.counters.updates == 4
    assert not stopped_early(state)
    rows = [row for row in state.history if ALARM_METRIC in row]
    raised = {int(row["update"]): row[ALARM_METRIC] for row in rows}
    assert raised == {1: 0, 2: 1, 3: 1, 4: 0}
    assert [update for update, row in logger.rows if row.get(ALARM_METRIC)] == [2, 3]
    assert "hacked at update 3" in logger.facts[ALARM_METRIC]
    assert "hacked at update 2: a fresh critic puts" in warnings_text()
    # A resumed run is tagged with the alarms of its history.
    again = RecordingLogger()
    tag_alarms(replace(state, logger=again))
    assert again.facts == logger.facts
    assert "training continues" in warnings_text()


def test_a_reward_that_agrees_with_a_critic_raises_no_alarm(
    scripted: Make, warnings_text: Callable[[], str]
) -> None:
    logger = RecordingLogger()
    state = scripted(*STOP, reward=-1e3, logger=logger)
    train(state)
    assert state.counters.updates == 4
    assert logger.facts == {}
    assert "looks hacked" not in warnings_text()


def test_an_alarm_can_end_the_run_with_the_best_adapter(
    scripted: Make, warnings_text: Callable[[], str], tmp_path: Path
) -> None:
    state = scripted(*STOP)
    train(state)
    assert state.counters.updates == 2
    assert state.best.metrics["held_out/distance"] == 1.0
    assert "training ends" in warnings_text()

    write_results(state, tmp_path / "result")
    totals = json.loads((tmp_path / "result" / "totals.json").read_text("utf-8"))
    assert totals["stopped_early"] is True
    assert [alarm["update"] for alarm in totals["alarms"]] == [2]
    assert "run's reward in 0%" in totals["alarms"][0]["reason"]
    metrics = _metrics(tmp_path / "result" / "totals.json")
    assert (metrics["watch/stopped_early"], metrics["watch/alarms"]) == (1, 1)


def test_a_run_that_an_alarm_ended_stays_ended_when_it_is_restarted(scripted: Make) -> None:
    first = scripted(*STOP)
    train(first)
    again = scripted(*STOP)
    assert again.resume()
    train(again)
    assert again.counters.rollouts == first.counters.rollouts == 2
    assert alarms(again) == alarms(first) != []


def test_a_resumed_run_raises_the_alarm_where_one_that_never_stopped_does(scripted: Make) -> None:
    settings = (*STOP, "training.monitoring.watch.measurements=2")
    straight = scripted(*settings, folder="straight")
    train(straight)

    # In the third rollout: the first alarming measurement was made.
    train_until_stopped(scripted(*settings, folder="stopped"), microbatches=5)
    second = scripted(*settings, folder="stopped")
    assert second.resume()
    assert second.counters.updates == 2
    train(second)
    assert second.counters.updates == straight.counters.updates == 3
    assert alarms(second) == alarms(straight) != []
    for name, value in straight.best.values.items():
        assert torch.equal(second.best.values[name], value)


def test_the_watch_can_be_disabled(scripted: Make, warnings_text: Callable[[], str]) -> None:
    state = scripted(*MEASURED, "training.monitoring.watch.action=none")
    train(state)
    assert state.counters.updates == 4
    assert not any(ALARM_METRIC in row for row in state.history)
    assert "looks hacked" not in warnings_text()


def test_collapse_is_logged_once_with_the_setting_to_change(
    scripted: Make, warnings_text: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("advgrpo.training.reward_hacking.COLLAPSE_UPDATES", 1)
    state = scripted(*MEASURED, reward=-1e3)
    monkeypatch.setattr(state.reward, "terms", lambda images, _f, _p: torch.ones(len(images), 2))
    train(state)
    assert warnings_text().count("training.algorithm.sampler.noise_level") == 1
    assert state.history[-1]["watch/equal_rewards"] == 1


def test_stopping_without_keeping_the_best_is_refused() -> None:
    with pytest.raises(ConfigError, match="select_adapter=last does not keep"):
        resolve(
            "pocket",
            [
                "training.monitoring.watch.action=stop",
                "training.monitoring.select_adapter=last",
            ],
        )


def test_real_held_out_metrics_include_all_that_the_alarm_reads(
    make_state: Make, warnings_text: Callable[[], str]
) -> None:
    state = make_state("training.updates=1")
    train(state)
    first, last = state.history[0], state.history[-1]
    assert first["held_out/reference_image.edge_density_deviation"] > 0
    assert 0 <= last["held_out/order.reward"] <= 1
    assert {"held_out/order.discriminator", "held_out/order.pickscore"} <= last.keys()
    assert {"held_out/image.edge_density", "held_out/image.dark_fraction"} <= last.keys()
    assert last[ALARM_METRIC] == 0
    assert "held_out/order.critic" not in last
    assert "3 held-out prompts are too few" in warnings_text()
