import logging
import math
import re
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from advgrpo.cli.main import app
from advgrpo.errors import CheckpointError, NonFiniteError, StorageFullError
from advgrpo.storage import upload_folder
from advgrpo.tasks.reproduce import recompute
from advgrpo.training import nonfinite
from advgrpo.training.loop import train, train_on_rollout
from advgrpo.training.nonfinite import first_not_finite
from advgrpo.training.nonfinite_dump import read_dump, write_dump
from advgrpo.training.policy_update import learning_rate
from advgrpo.training.state import TrainingState
from tests.training.test_loop import assert_same, weights

pytestmark = pytest.mark.usefixtures("loaded_once")

Make = Callable[..., TrainingState]
NAN = float("nan")


def spoil(state: TrainingState, *, rollouts: set[int]) -> None:
    """Let the discriminator reward the second image of some rollouts with NaN."""
    terms = state.reward.terms
    made = -1

    def spoiled(*arguments: object) -> torch.Tensor:
        nonlocal made
        made += 1
        rewards = terms(*arguments)
        if made in rollouts:
            rewards[1, 0] = NAN
        return rewards

    state.reward.terms = spoiled  # type: ignore[method-assign]


def break_adapter(state: TrainingState) -> None:
    """Make a weight infinite: latents follow."""
    parameter = next(iter(state.policy.trainable_parameters().values()))
    parameter.data.flatten()[0] = float("inf")


def dump_of(error: NonFiniteError) -> str:
    found = re.search(r"dumped in (\S+)", error.message)
    assert found
    return found.group(1)


def test_the_first_tensor_and_image_that_is_not_finite_is_found() -> None:
    fine, bad = torch.zeros(3, 2), torch.zeros(3, 2, 2)
    bad[2, 1, 0] = float("-inf")
    finding = first_not_finite({"fine": fine, "bad": bad, "worse": bad * NAN})
    assert finding is not None
    assert (finding.tensor, finding.value, finding.image) == ("bad", float("-inf"), 2)
    assert first_not_finite({"fine": fine}) is None


def test_a_rollout_that_is_not_finite_names_tensor_rank_prompt_and_seed(make_state: Make) -> None:
    state = make_state()
    break_adapter(state)
    before = weights(state)
    with pytest.raises(NonFiniteError) as caught:
        train_on_rollout(state)
    message = caught.value.message
    assert message.startswith("latents became nan on rank 0 in rollout 0 (prompt 'a ")
    assert "seed 0, image 0 of its group" in message
    assert_same(
        {name: value.nan_to_num(7.0) for name, value in weights(state).items()},
        {name: value.nan_to_num(7.0) for name, value in before.items()},
    )


@pytest.mark.parametrize("engine", ["ddp", "deepspeed"])
def test_a_gradient_that_is_not_finite_leaves_weights_alone_and_is_named(
    make_state: Make, engine: str
) -> None:
    state = make_state(f"training.engine={engine}", "training.optimizer_steps_per_update=2")
    name, parameter = list(state.policy.trainable_parameters().items())[3]
    handle = parameter.register_hook(lambda gradient: gradient * NAN)
    before = weights(state)
    with pytest.raises(NonFiniteError, match=re.escape(f"the gradient of {name}")):
        train_on_rollout(state)
    assert_same(weights(state), before)
    handle.remove()
    # What was left out leaves nothing behind: the next turn is as that of a fresh run.
    state.counters.rollouts = 0
    other = make_state(
        f"training.engine={engine}", "training.optimizer_steps_per_update=2", folder="fresh"
    )
    assert train_on_rollout(state)["policy/gradient_norm"] > 0
    train_on_rollout(other)
    assert_same(weights(state), weights(other))


def test_a_log_prob_that_is_nan_only_in_the_update_is_named(
    make_state: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = make_state()
    log_prob = state.algorithm.log_prob

    def spoiled(*arguments: torch.Tensor) -> torch.Tensor:
        found = log_prob(*arguments)
        return found * NAN if found.requires_grad else found

    monkeypatch.setattr(state.algorithm, "log_prob", spoiled)
    before = weights(state)
    with pytest.raises(NonFiniteError, match="the policy loss at denoising step 0 became nan"):
        train_on_rollout(state)
    assert_same(weights(state), before)


def test_a_discriminator_whose_gradient_is_not_finite_is_unchanged(make_state: Make) -> None:
    state = make_state("training.non_finite.action=skip")
    parameter = next(iter(state.discriminator.trainable_parameters().values()))
    parameter.register_hook(lambda gradient: gradient * NAN)
    before = parameter.detach().clone()
    metrics = train_on_rollout(state)
    assert torch.equal(parameter.detach(), before)
    assert metrics["cost/rollouts_left_out"] == 1
    assert state.counters.updates == 1


def test_a_run_that_may_skip_skips_the_rollout_and_continues(
    make_state: Make, caplog: pytest.LogCaptureFixture
) -> None:
    state = make_state("training.non_finite.action=skip")
    spoil(state, rollouts={1})
    with caplog.at_level(logging.WARNING, "advgrpo"):
        train(state)
    assert (state.counters.rollouts, state.counters.updates) == (3, 2)
    assert state.history[-1]["cost/rollouts_left_out"] == 1
    messages = [r.message for r in caplog.records if r.message.startswith("skipped")]
    assert len(messages) == 1
    assert "the reward discriminator became nan" in messages[0]
    resumed = make_state("training.non_finite.action=skip")
    assert resumed.resume()
    assert resumed.counters.skipped == 1


def test_a_run_that_skips_many_rollouts_dumps_only_the_first_ones(
    make_state: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(nonfinite, "MAX_DUMPS", 1)
    state = make_state("training.non_finite.action=skip")
    spoil(state, rollouts={0, 2})
    with caplog.at_level(logging.WARNING, "advgrpo"):
        train(state)
    messages = [r.message for r in caplog.records if r.message.startswith("skipped")]
    assert Path(dump_of(NonFiniteError(messages[0], repair=""))).is_dir()
    assert messages[1].endswith("; not dumped: the run has 1 dumps already")


def test_skipped_rollouts_without_a_dump_do_not_use_up_the_dumps(
    make_state: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nonfinite, "MAX_DUMPS", 1)
    state = make_state()
    # As after skipped steps of the discriminator, which are not dumped.
    state.counters.skipped = 5
    spoil(state, rollouts={0})
    with pytest.raises(NonFiniteError) as caught:
        train_on_rollout(state)
    assert Path(dump_of(caught.value)).is_dir()


@pytest.mark.parametrize("engine", ["ddp", "deepspeed"])
def test_a_skipped_step_after_others_ends_the_update_and_leaves_it_counted(
    make_state: Make, engine: str
) -> None:
    options = (
        "training.non_finite.action=skip",
        "training.optimizer_steps_per_update=2",
        "training.optimizer.decay=linear",
        f"training.engine={engine}",
    )
    state = make_state(*options)
    calls = 0

    def spoiled(gradient: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        # In the first update, after the backward passes of its first optimizer step.
        later = calls > state.config.algorithm.trained_steps and not state.counters.updates
        return gradient * NAN if later else gradient

    parameter = next(iter(state.policy.trainable_parameters().values()))
    parameter.register_hook(spoiled)
    before = weights(state)
    metrics = train_on_rollout(state)
    assert not all(torch.equal(value, before[name]) for name, value in weights(state).items())
    assert (state.counters.updates, state.counters.rollouts) == (1, 1)
    assert (state.counters.skipped, state.counters.skipped_in_a_row) == (1, 1)
    assert all(math.isfinite(value) for value in metrics.values())
    # Of the step that was taken alone.
    assert metrics["policy/ratio_mean"] == pytest.approx(1, abs=1e-7)
    # The next update uses the rates that follow: the third and fourth of four.
    assert train_on_rollout(state)["policy/learning_rate"] == learning_rate(state.config, 3, 1.0)
    assert state.counters.skipped_in_a_row == 0


def test_a_skipped_step_after_others_stops_a_run_that_must_not_skip(make_state: Make) -> None:
    state = make_state("training.optimizer_steps_per_update=2")
    calls = 0

    def spoiled(gradient: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return gradient * NAN if calls > state.config.algorithm.trained_steps else gradient

    next(iter(state.policy.trainable_parameters().values())).register_hook(spoiled)
    with pytest.raises(NonFiniteError, match="the gradient of"):
        train_on_rollout(state)


def test_a_run_stops_after_too_many_skipped_in_a_row(make_state: Make) -> None:
    state = make_state("training.non_finite={action: skip, most_in_a_row: 2}")
    spoil(state, rollouts=set(range(9)))
    with pytest.raises(NonFiniteError, match=r"3 rollouts in a row .*most_in_a_row=2"):
        train(state)


def test_only_consecutive_skipped_rollouts_count_as_in_a_row(make_state: Make) -> None:
    state = make_state(
        "training.non_finite={action: skip, most_in_a_row: 2}",
        "training.update_schedule={type: released, discriminator_rollouts: 3}",
    )
    # No rollout between these trains the policy, and all of them are sound.
    spoil(state, rollouts={0, 2, 4})
    for _ in range(5):
        train_on_rollout(state)
    assert (state.counters.skipped, state.counters.skipped_in_a_row) == (3, 1)


def test_a_discriminator_that_cannot_learn_any_more_stops_the_run(make_state: Make) -> None:
    state = make_state("training.non_finite={action: skip, most_in_a_row: 1}")
    parameter = next(iter(state.discriminator.trainable_parameters().values()))
    parameter.register_hook(lambda gradient: gradient * NAN)
    with pytest.raises(NonFiniteError) as caught:
        train(state)
    assert caught.value.message.count("rollouts in a row") == 1
    assert "that is 2 rollouts" in caught.value.message


@pytest.mark.parametrize("size", [2, 8])
def test_the_whole_microbatch_of_an_update_is_dumped(make_state: Make, size: int) -> None:
    state = make_state(f"training.rollout.update_microbatch_size={size}")
    parameter = list(state.policy.trainable_parameters().values())[3]
    parameter.register_hook(lambda gradient: gradient * NAN)
    with pytest.raises(NonFiniteError) as caught:
        train_on_rollout(state)
    dump, _ = read_dump(dump_of(caught.value))
    assert len(dump.images) == size


def test_a_dump_is_reproduced_bit_for_bit(make_state: Make) -> None:
    state = make_state()
    spoil(state, rollouts={0})
    with pytest.raises(NonFiniteError) as caught:
        train_on_rollout(state)
    dump, tensors = read_dump(dump_of(caught.value))
    assert (dump.seed, dump.rollout, len(dump.images)) == (0, 0, 4)
    with state.policy.without_engine():
        reports = {report.name: report for report in recompute(dump, tensors, state.policy)}
    assert all(report.not_finite == 0 for report in reports.values())
    assert reports["latents"].largest == float(tensors["latents"].abs().max())
    assert any(name.startswith("gradient of") for name in reports)


def test_the_command_names_what_is_not_finite(make_state: Make) -> None:
    state = make_state()
    break_adapter(state)
    with pytest.raises(NonFiniteError) as caught:
        train_on_rollout(state)
    result = CliRunner().invoke(app, ["reproduce", dump_of(caught.value)])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("latents became nan")
    assert lines[1].startswith("weight of transformer_blocks.0")
    assert "1 of " in lines[1]
    assert lines[-1].endswith("tensors are not finite")


def test_a_dump_that_cannot_be_written_does_not_hide_the_fault(
    make_state: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = make_state()
    break_adapter(state)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(
        NonFiniteError, match=r"latents became nan .*; its dump could not be written: "
    ):
        train_on_rollout(state)


@pytest.mark.parametrize("bytes_left", [0, 4096])
def test_a_full_disk_is_reported_when_a_rollout_is_dumped(
    make_state: Make, tmp_path: Path, bytes_left: int
) -> None:
    state = make_state()
    spoil(state, rollouts={0})
    with pytest.raises(NonFiniteError) as caught:
        train_on_rollout(state)
    dump, tensors = read_dump(dump_of(caught.value))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, hard))
    try:
        with pytest.raises(StorageFullError, match="File too large"):
            write_dump(str(tmp_path / "dump"), dump, tensors)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("content", [b"{}", b"[]", b"\xff", b"[" * 50_000])
def test_another_folder_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "dump.json").write_bytes(content)
    upload_folder(tmp_path / "other", str(tmp_path / "dump"))
    with pytest.raises(CheckpointError, match="does not hold the dump of a rollout"):
        read_dump(str(tmp_path / "dump"))
