import logging
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
from advgrpo.training import nonfinite
from advgrpo.training.loop import take_turn, train
from advgrpo.training.nonfinite import first_not_finite
from advgrpo.training.nonfinite_dump import keep, read_kept, reproduce
from advgrpo.training.state import TrainingState
from tests.training.test_loop import assert_same, weights

Make = Callable[..., TrainingState]
NAN = float("nan")


def spoil(session: TrainingState, *, rollouts: set[int]) -> None:
    """Let the discriminator reward the second image of some rollouts with NaN."""
    terms = session.reward.terms
    made = -1

    def spoiled(*arguments: object) -> torch.Tensor:
        nonlocal made
        made += 1
        rewards = terms(*arguments)
        if made in rollouts:
            rewards[1, 0] = NAN
        return rewards

    session.reward.terms = spoiled  # type: ignore[method-assign]


def break_adapter(session: TrainingState) -> None:
    """Make a weight infinite: latents follow."""
    parameter = next(iter(session.policy.trainable_parameters().values()))
    parameter.data.flatten()[0] = float("inf")


def kept_in(error: NonFiniteError) -> str:
    found = re.search(r"kept in (\S+)", error.message)
    assert found
    return found.group(1)


def test_the_first_tensor_and_image_that_is_not_finite_is_found() -> None:
    fine, bad = torch.zeros(3, 2), torch.zeros(3, 2, 2)
    bad[2, 1, 0] = float("-inf")
    finding = first_not_finite({"fine": fine, "bad": bad, "worse": bad * NAN})
    assert finding is not None
    assert (finding.tensor, finding.value, finding.image) == ("bad", float("-inf"), 2)
    assert first_not_finite({"fine": fine}) is None


def test_a_rollout_that_is_not_finite_names_tensor_rank_prompt_and_seed(session_of: Make) -> None:
    session = session_of()
    break_adapter(session)
    before = weights(session)
    with pytest.raises(NonFiniteError) as caught:
        take_turn(session)
    message = caught.value.message
    assert message.startswith("latents became nan on rank 0 in rollout 0 (prompt 'a ")
    assert "seed 0, image 0 of its group" in message
    assert_same(
        {name: value.nan_to_num(7.0) for name, value in weights(session).items()},
        {name: value.nan_to_num(7.0) for name, value in before.items()},
    )


@pytest.mark.parametrize("stage", [0, 2])
def test_a_gradient_that_is_not_finite_leaves_weights_alone_and_is_named(
    session_of: Make, stage: int
) -> None:
    session = session_of(f"training.zero_stage={stage}", "training.optimizer_steps_per_update=2")
    name, parameter = list(session.policy.trainable_parameters().items())[3]
    handle = parameter.register_hook(lambda gradient: gradient * NAN)
    before = weights(session)
    with pytest.raises(NonFiniteError, match=re.escape(f"the gradient of {name}")):
        take_turn(session)
    assert_same(weights(session), before)
    handle.remove()
    # What was left out leaves nothing behind: the next turn is as that of a fresh run.
    session.counters.turns = 0
    other = session_of(
        f"training.zero_stage={stage}", "training.optimizer_steps_per_update=2", folder="fresh"
    )
    assert take_turn(session)["policy/gradient_norm"] > 0
    take_turn(other)
    assert_same(weights(session), weights(other))


def test_a_log_prob_that_is_no_number_in_the_update_alone_is_named(
    session_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = session_of()
    log_prob = session.denoiser.log_prob

    def spoiled(*arguments: torch.Tensor) -> torch.Tensor:
        found = log_prob(*arguments)
        return found * NAN if found.requires_grad else found

    monkeypatch.setattr(session.denoiser, "log_prob", spoiled)
    before = weights(session)
    with pytest.raises(NonFiniteError, match="the policy loss at denoising step 0 became nan"):
        take_turn(session)
    assert_same(weights(session), before)


def test_a_discriminator_whose_gradient_is_not_finite_is_left_alone(session_of: Make) -> None:
    session = session_of("training.non_finite.action=skip")
    parameter = next(iter(session.discriminator.trainable_parameters().values()))
    parameter.register_hook(lambda gradient: gradient * NAN)
    before = parameter.detach().clone()
    metrics = take_turn(session)
    assert torch.equal(parameter.detach(), before)
    assert metrics["cost/rollouts_left_out"] == 1
    assert session.counters.updates == 1


def test_told_to_skip_a_run_leaves_the_rollout_out_and_goes_on(
    session_of: Make, caplog: pytest.LogCaptureFixture
) -> None:
    session = session_of("training.non_finite.action=skip")
    spoil(session, rollouts={1})
    with caplog.at_level(logging.WARNING, "advgrpo"):
        train(session)
    assert (session.counters.turns, session.counters.updates) == (3, 2)
    assert session.history[-1]["cost/rollouts_left_out"] == 1
    said = [r.message for r in caplog.records if r.message.startswith("left out")]
    assert len(said) == 1
    assert "the reward discriminator became nan" in said[0]
    resumed = session_of("training.non_finite.action=skip")
    assert resumed.resume()
    assert resumed.counters.skipped == 1


def test_a_run_that_leaves_many_rollouts_out_keeps_the_first_ones_only(
    session_of: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(nonfinite, "MOST_KEPT", 1)
    session = session_of("training.non_finite.action=skip")
    spoil(session, rollouts={0, 2})
    with caplog.at_level(logging.WARNING, "advgrpo"):
        train(session)
    said = [r.message for r in caplog.records if r.message.startswith("left out")]
    assert Path(kept_in(NonFiniteError(said[0], repair=""))).is_dir()
    assert said[1].endswith("; not kept, as 1 before it were")


def test_a_run_stops_after_too_many_left_out_in_a_row(session_of: Make) -> None:
    session = session_of("training.non_finite={action: skip, most_in_a_row: 2}")
    spoil(session, rollouts=set(range(9)))
    with pytest.raises(NonFiniteError, match=r"3 rollouts in a row .*most_in_a_row=2"):
        train(session)


def test_only_rollouts_left_out_one_after_the_other_are_in_a_row(session_of: Make) -> None:
    session = session_of(
        "training.non_finite={action: skip, most_in_a_row: 2}",
        "training.update_schedule={type: released, discriminator_rollouts: 3}",
    )
    # No rollout between these trains the policy, and all of them are sound.
    spoil(session, rollouts={0, 2, 4})
    for _ in range(5):
        take_turn(session)
    assert (session.counters.skipped, session.counters.skipped_in_a_row) == (3, 1)


def test_a_discriminator_that_never_learns_again_stops_the_run(session_of: Make) -> None:
    session = session_of("training.non_finite={action: skip, most_in_a_row: 1}")
    parameter = next(iter(session.discriminator.trainable_parameters().values()))
    parameter.register_hook(lambda gradient: gradient * NAN)
    with pytest.raises(NonFiniteError) as caught:
        train(session)
    assert caught.value.message.count("rollouts in a row") == 1
    assert "that is 2 rollouts" in caught.value.message


@pytest.mark.parametrize("size", [2, 8])
def test_of_an_update_the_microbatch_at_fault_is_kept_whole(session_of: Make, size: int) -> None:
    session = session_of(f"training.rollout.update_microbatch_size={size}")
    parameter = list(session.policy.trainable_parameters().values())[3]
    parameter.register_hook(lambda gradient: gradient * NAN)
    with pytest.raises(NonFiniteError) as caught:
        take_turn(session)
    kept, _ = read_kept(kept_in(caught.value))
    assert len(kept.images) == size


def test_what_was_kept_is_computed_anew_bit_for_bit(session_of: Make) -> None:
    session = session_of()
    spoil(session, rollouts={0})
    with pytest.raises(NonFiniteError) as caught:
        take_turn(session)
    kept, tensors = read_kept(kept_in(caught.value))
    assert (kept.seed, kept.rollout, len(kept.images)) == (0, 0, 4)
    with session.policy.without_engine():
        reports = {report.name: report for report in reproduce(kept, tensors, session.policy)}
    assert all(report.not_finite == 0 for report in reports.values())
    assert reports["latents"].largest == float(tensors["latents"].abs().max())
    assert any(name.startswith("gradient of") for name in reports)


def test_the_command_names_what_is_not_finite(session_of: Make) -> None:
    session = session_of()
    break_adapter(session)
    with pytest.raises(NonFiniteError) as caught:
        take_turn(session)
    result = CliRunner().invoke(app, ["reproduce", kept_in(caught.value)])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("latents became nan")
    assert lines[1].startswith("weight of transformer_blocks.0")
    assert "1 of " in lines[1]
    assert lines[-1].endswith("tensors are not finite")


def test_what_cannot_be_kept_does_not_hide_what_went_wrong(
    session_of: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = session_of()
    break_adapter(session)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(NonFiniteError, match=r"latents became nan .*; it could not be kept: "):
        take_turn(session)


@pytest.mark.parametrize("bytes_left", [0, 4096])
def test_a_full_disk_is_told_where_a_rollout_is_kept(
    session_of: Make, tmp_path: Path, bytes_left: int
) -> None:
    session = session_of()
    spoil(session, rollouts={0})
    with pytest.raises(NonFiniteError) as caught:
        take_turn(session)
    kept, tensors = read_kept(kept_in(caught.value))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, hard))
    try:
        with pytest.raises(StorageFullError, match="File too large"):
            keep(str(tmp_path / "kept"), kept, tensors)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("facts", [b"{}", b"[]", b"\xff", b"[" * 50_000])
def test_another_folder_is_refused(tmp_path: Path, facts: bytes) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "facts.json").write_bytes(facts)
    upload_folder(tmp_path / "other", str(tmp_path / "kept"))
    with pytest.raises(CheckpointError, match="does not hold a kept rollout"):
        read_kept(str(tmp_path / "kept"))
