import logging
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
import torch

from advgrpo.config import resolve
from advgrpo.data.sampler import ImagePlan
from advgrpo.errors import CheckpointError, NonFiniteError, Preempted, RatioError
from advgrpo.models.policies.base import PromptEmbeddings
from advgrpo.runtime.process_group import ProcessGroup
from advgrpo.testing import RecordingLogger
from advgrpo.training.discriminator_update import GeneratedFeatures
from advgrpo.training.loop import train, train_on_rollout
from advgrpo.training.metrics import throughput
from advgrpo.training.rollout import Rollout, generate_rollout
from advgrpo.training.state import TrainingState
from advgrpo.training.steps import discriminator_metrics
from tests.training.conftest import World

pytestmark = pytest.mark.usefixtures("loaded_once")

Make = Callable[..., TrainingState]


def weights(state: TrainingState) -> dict[str, torch.Tensor]:
    """Return all that a run needs to continue identically."""
    tensors = {f"policy.{k}": v for k, v in state.engine.state().items()}
    tensors |= {f"algorithm.{k}": v.clone() for k, v in state.algorithm.state().items()}
    tensors |= {f"average.{k}": v.clone() for k, v in state.average.values.items()}
    tensors |= {
        f"discriminator.{k}": v.detach().clone()
        for k, v in state.discriminator.trainable_parameters().items()
    }
    tensors |= {f"adam.{k}": v for k, v in state.discriminator_updater.state().items()}
    tensors |= {f"replay.{k}": v for k, v in state.replay.state().items()}
    return tensors


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert different == []


def test_before_the_first_optimizer_step_the_ratio_is_exactly_one(make_state: Make) -> None:
    state = make_state()
    metrics = train_on_rollout(state)
    assert metrics["policy/ratio_error_before_step"] == 0
    assert metrics["policy/ratio_mean"] == 1
    assert metrics["policy/gradient_norm"] > 0


@pytest.mark.parametrize(
    "overrides",
    [
        ["training.sampling.guidance_scale=2.5"],
        ["training.algorithm.sampler={type: flow_sde}"],
        ["training.algorithm.sampler={type: flow_sde}", "training.algorithm.normalize_ratio=true"],
        ["training.algorithm.divergence_bound=1e-3"],
        ["training.algorithm.shared_prefix=true", "training.algorithm.window.first_start=0"],
        ["policy.gradient_checkpointing=true"],
        [
            "training.sampling.guidance_scale=2.5",
            "training.algorithm.window.length=1",
            "training.algorithm.fast_sampling={guidance_interval: [0.3, 1], tail_steps: 1}",
        ],
    ],
    ids=str,
)
def test_the_ratio_is_one_in_every_way_of_sampling(make_state: Make, overrides: list[str]) -> None:
    assert train_on_rollout(make_state(*overrides))["policy/ratio_error_before_step"] == 0


def test_latents_that_were_rounded_after_scoring_stop_the_run(
    make_state: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    # The default tolerance, half of the clip range, refuses what would clip.
    state = make_state("training.algorithm.clip_range=1e-6")

    def rounded(*args: object, **kwargs: object) -> object:
        rollout = generate_rollout(*args, **kwargs)
        return replace(
            rollout,
            recorded={
                **rollout.recorded,
                "latents": rollout.recorded["latents"].bfloat16().float(),
            },
        )

    monkeypatch.setattr("advgrpo.training.steps.generate_rollout", rounded)
    before = state.engine.state()
    with pytest.raises(RatioError, match="ratio_tolerance"):
        train_on_rollout(state)
    assert_same(state.engine.state(), before)


def test_equal_rewards_leave_the_policy_alone(
    make_state: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In float32 the mean of twelve times 77.7 is another number.
    state = make_state("training.optimizer.weight_decay=0", "training.rollout.group_size=12")
    monkeypatch.setattr(
        state.reward, "terms", lambda images, _f, _p: torch.full((len(images), 2), 77.7)
    )
    before = state.engine.state()
    metrics = train_on_rollout(state)
    after = state.engine.state()
    assert metrics["reward/groups_without_spread"] == 1
    for name in before:
        if name.startswith("weight."):
            assert torch.equal(after[name], before[name])


def test_nan_rewards_stop_the_run_before_a_step(
    make_state: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = make_state()
    monkeypatch.setattr(
        state.reward, "terms", lambda images, _f, _p: torch.full((len(images), 2), float("nan"))
    )
    before = state.engine.state()
    with pytest.raises(NonFiniteError, match="the reward discriminator became nan on rank 0"):
        train_on_rollout(state)
    assert_same(state.engine.state(), before)


def train_until_stopped(state: TrainingState, *, microbatches: int) -> None:
    """Train until a signal arrives while this microbatch is generated, counted from 1."""
    numbers = count(1)

    def check() -> None:
        if next(numbers) == microbatches:
            raise Preempted("stopped by a signal")

    state.stop.check = check  # type: ignore[method-assign]
    with pytest.raises(Preempted):
        train(state)


def test_a_resumed_run_equals_one_that_never_stopped(make_state: Make) -> None:
    schedule = ("training.updates=4", "training.optimizer.decay=linear")
    straight = make_state(*schedule, folder="straight")
    train(straight)

    first = make_state(*schedule, folder="stopped")
    # A rollout has two microbatches; this is the first one of the third.
    train_until_stopped(first, microbatches=5)
    second = make_state(*schedule, folder="stopped")
    assert second.resume()
    assert second.counters.updates == 2
    assert_same(weights(second), weights(first))
    assert "checkpoint" in second.counters.seconds
    train(second)

    assert_same(weights(second), weights(straight))
    measured = [
        {k: v for k, v in row.items() if not k.startswith(("seconds/", "cost/", "performance/"))}
        for row in second.history
    ]
    expected = [
        {k: v for k, v in row.items() if not k.startswith(("seconds/", "cost/", "performance/"))}
        for row in straight.history
    ]
    assert measured == expected
    assert second.counters.images_sampled == straight.counters.images_sampled
    assert_same(second.best.values, straight.best.values)


class OtherRank(ProcessGroup):
    """A process group whose other rank has no checkpoint after a given rollout."""

    def __init__(self, rollout: int) -> None:
        super().__init__()
        self._rollout = float(rollout)

    def all_reduce_min(self, value: float) -> float:
        return min(value, self._rollout)

    def all_reduce_max(self, value: float) -> float:
        return max(value, self._rollout)


def _with_two_checkpoints(make_state: Make) -> None:
    state = make_state("training.checkpoint_every_updates=1")
    train(state)
    assert state.checkpoints.rollouts() == [1, 2]


def test_all_ranks_resume_from_the_newest_checkpoint_that_is_sound_on_each(
    make_state: Make,
) -> None:
    _with_two_checkpoints(make_state)
    state = make_state(process_group=OtherRank(1))
    assert state.resume()
    assert state.counters.updates == 1


def test_ranks_that_do_not_see_the_same_checkpoints_do_not_restart(make_state: Make) -> None:
    _with_two_checkpoints(make_state)
    with pytest.raises(CheckpointError, match="others none") as error:
        make_state(process_group=OtherRank(-1)).resume()
    assert "all machines see the same" in error.value.repair


def test_the_history_of_a_checkpoint_is_logged_again(make_state: Make) -> None:
    lost, found = RecordingLogger(), RecordingLogger()
    train(make_state(logger=lost))
    assert make_state(logger=found).resume()
    merged: dict[int, dict[str, float]] = {}
    for update, metrics in lost.rows:
        merged.setdefault(update, {}).update(metrics)
    assert found.rows == list(merged.items())
    assert found.pictures == lost.pictures
    assert found.pictures


def test_a_finished_run_that_is_restarted_does_nothing(make_state: Make) -> None:
    first = make_state()
    train(first)
    again = make_state()
    assert again.resume()
    before = weights(again)
    train(again)
    assert_same(weights(again), before)


def test_the_checkpoint_of_another_run_is_refused(world: World, tmp_path: Path) -> None:
    world.state(tmp_path, run_digest="one").save()
    with pytest.raises(CheckpointError, match="other settings"):
        world.state(tmp_path, run_digest="two").resume()


def test_the_released_schedule_trains_the_discriminator_alone_between_updates(
    make_state: Make,
) -> None:
    state = make_state(
        "training.update_schedule={type: released, discriminator_rollouts: 2}", "training.updates=1"
    )
    before = weights(state)
    train_on_rollout(state)
    between = weights(state)
    assert state.counters.updates == 0
    for name, value in between.items():
        if name.startswith("policy.weight"):
            assert torch.equal(value, before[name])
    changed = [n for n in between if n.startswith("discriminator.") and "weight" in n]
    assert any(not torch.equal(between[n], before[n]) for n in changed)
    train(state)
    assert (state.counters.updates, state.counters.rollouts) == (1, 3)
    assert state.counters.images_sampled == 3 * 8


def test_rollouts_while_the_policy_is_paused_are_not_lost_with_the_process(
    make_state: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = (
        "training.update_schedule={type: when_outscored, pause_policy: true}",
        "training.checkpoint_every_updates=2",
        "training.updates=1",
    )
    killed_in: int | None = None

    def outscored_three_times(
        state: TrainingState, generated: GeneratedFeatures
    ) -> dict[str, float]:
        rollouts = state.counters.rollouts
        if rollouts == killed_in:
            raise RuntimeError("killed")
        margin = -1.0 if rollouts < 3 else 1.0
        return discriminator_metrics(state, generated) | {"discriminator/margin": margin}

    target = "advgrpo.training.steps.discriminator_metrics"
    monkeypatch.setattr(target, outscored_three_times)
    straight = make_state(*settings, folder="straight")
    train(straight)
    assert (straight.counters.rollouts, straight.counters.updates) == (4, 1)

    killed_in = 3
    killed = make_state(*settings, folder="killed")
    with pytest.raises(RuntimeError, match="killed"):
        train(killed)
    killed_in = None
    resumed = make_state(*settings, folder="killed")
    assert resumed.resume()
    assert (resumed.counters.rollouts, resumed.counters.updates) == (2, 0)
    train(resumed)
    assert_same(weights(resumed), weights(straight))


@pytest.mark.parametrize(("separation", "share"), [(1.0, 1.0), (0.25, 0.25), (0.0, 0.01)])
def test_the_learning_rate_follows_the_separation_of_the_rollout(
    make_state: Make, monkeypatch: pytest.MonkeyPatch, separation: float, share: float
) -> None:
    def separated(state: TrainingState, generated: GeneratedFeatures) -> dict[str, float]:
        return discriminator_metrics(state, generated) | {"discriminator/separation": separation}

    monkeypatch.setattr("advgrpo.training.steps.discriminator_metrics", separated)
    settings = ["training.optimizer.learning_rate=1e-3", "training.optimizer.decay=constant"]
    fixed = train_on_rollout(make_state(*settings, folder="fixed"))
    assert fixed["policy/learning_rate"] == 1e-3
    scaled = make_state(*settings, "training.optimizer.scale_by_separation=true", folder="scaled")
    assert train_on_rollout(scaled)["policy/learning_rate"] == pytest.approx(share * 1e-3)


def test_all_work_on_a_rollout_is_reported_under_its_number(make_state: Make) -> None:
    state, entered = make_state(), list[tuple[str, int]]()
    state.counters.on_enter = lambda part, rollout: entered.append((part, rollout))
    for rollout in (0, 1):
        entered.clear()
        train_on_rollout(state)
        parts = ("rollout", "reward", "policy update", "discriminator update")
        assert entered == [(part, rollout) for part in parts]


def test_a_frozen_discriminator_stays_as_it_was(make_state: Make) -> None:
    state = make_state("training.update_schedule={type: frozen}", "training.updates=1")
    before = weights(state)
    train(state)
    after = weights(state)
    for name in before:
        if name.startswith("discriminator."):
            assert torch.equal(after[name], before[name])


def test_two_optimizer_steps_share_a_rollout_in_whole_groups(make_state: Make) -> None:
    state = make_state("training.optimizer_steps_per_update=2", "training.updates=1")
    metrics = train_on_rollout(state)
    assert float(state.engine.state()["step"]) == 2
    # The second step is off-policy by one step.
    assert metrics["policy/ratio_std"] > 0


def test_divergence_from_the_base_is_zero_at_first_and_then_pulls_back(make_state: Make) -> None:
    state = make_state("training.algorithm.kl_weight=0.1")
    first, second = train_on_rollout(state), train_on_rollout(state)
    assert first["policy/divergence_from_base"] == 0
    assert second["policy/divergence_from_base"] > 0


def test_a_bound_on_the_divergence_replaces_the_clip_range(make_state: Make) -> None:
    two_steps = "training.optimizer_steps_per_update=2"
    clip = "training.algorithm.clip_range=1e-9"

    def masked(bound: str) -> float:
        folder = f"bound {bound}"
        state = make_state(
            two_steps, clip, f"training.algorithm.divergence_bound={bound}", folder=folder
        )
        metrics = train_on_rollout(state)
        assert metrics["policy/ratio_error_before_step"] == 0
        return metrics["policy/clipped_above"] + metrics["policy/clipped_below"]

    assert masked("1e3") == 0
    assert masked("1e-12") > 0


def test_a_sliding_window_moves_and_starts_again(make_state: Make) -> None:
    window = (
        "training.algorithm.window={type: sliding, first_start: 0, last_start: 1, length: 1, "
        "rollouts_per_position: 2}"
    )
    state = make_state(window, "training.updates=5")
    starts = [
        next(iter(state.algorithm.losses(part, torch.ones(2), embeddings))).name
        for part, embeddings in _parts(state, rollouts=5)
    ]
    assert [name.rpartition(" ")[2] for name in starts] == ["0", "0", "1", "1", "0"]


def _parts(state: TrainingState, *, rollouts: int) -> Iterator[tuple[Rollout, PromptEmbeddings]]:
    plans = [ImagePlan(0, 0, 0), ImagePlan(1, 0, 1)]
    for number in range(rollouts):
        rollout = generate_rollout(
            state.policy,
            state.algorithm.sample,
            plans,
            state.prompts.texts,
            microbatch_size=2,
            rollout=number,
        )
        yield rollout, state.policy.embed(state.texts([0, 0]))


def test_every_update_logs_metrics_that_other_trainers_omit(make_state: Make) -> None:
    logger = RecordingLogger()
    train(make_state(logger=logger))
    logged = {update: set() for update in (0, 1, 2)}
    for update, row in logger.rows:
        logged[update] |= row.keys()
    assert {"held_out/distance", "held_out/brightness.mean"} <= logged[0]
    assert {
        "policy/ratio_mean",
        "policy/ratio_std",
        "policy/clipped_above",
        "policy/clipped_below",
        "policy/gradient_norm",
        "discriminator/margin",
        "discriminator/held_out_accuracy",
        "discriminator/gradient_norm",
        "rollout/diversity_in_group",
        "seconds/rollout",
        "cost/images_per_second",
        "cost/peak_memory_mib",
        "performance/mfu_rollout",
    } <= logged[1]
    assert logger.pictures["held_out", 2].startswith(b"\x89PNG")


def test_throughput_is_that_of_the_passes_which_the_algorithm_needs() -> None:
    run = resolve("pocket", ["training.algorithm.shared_prefix=false"])
    spent = {
        "cost/images_sampled": 64.0,
        "seconds/rollout": 2.0,
        "seconds/reward": 0.5,
        "seconds/policy update": 1.0,
    }
    # 64 images of 8 passes; 2 trained steps, forward and backward.
    assert throughput(
        spent, run.policy, run.training, pass_flops=10.0, decode_flops=5.0, rate=200.0
    ) == {
        "performance/images_per_second": 64 / 3.5,
        "performance/mfu_rollout": 64 * (8 * 10 + 5) / 2 / 200,
        "performance/mfu_update": 64 * 2 * 2 * 10 / 200,
    }


def test_only_a_checkpoint_that_was_written_is_logged_as_saved(
    make_state: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = make_state()
    logged: list[str] = []
    logger = logging.getLogger("advgrpo")
    # Not caplog: a task that ran in this process before leaves a filter on its handler.
    monkeypatch.setattr(logger, "info", lambda text, *values, **_: logged.append(text % values))
    state.save()
    # As a run does that is stopped before its first rollout after a restart.
    state.save()
    assert [text for text in logged if "saved" in text] == ["saved update 0"]
