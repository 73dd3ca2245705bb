"""Training and evaluation on a pretended GPU, in the precision of one."""

from pathlib import Path

import pytest
import torch

from advgrpo.data.prompts import read_prompts
from advgrpo.evaluation.evaluate import evaluate
from advgrpo.models.policies import speed
from advgrpo.models.scorers.build import build_scorers
from advgrpo.training.loop import train_on_rollout
from advgrpo.training.metrics import measure_held_out
from advgrpo.training.reward_hacking import watch_reward
from tests.training.conftest import World


def test_a_run_trains_resumes_and_is_evaluated_on_a_gpu(
    world: World, tmp_path: Path, gpu: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Products of a GPU's size take minutes on the CPU.
    monkeypatch.setitem(speed._SIDE, "cuda", 64)
    settings = (
        "training.engine=ddp",
        # Inductor would generate code for a GPU.
        "training.compile=none",
        "training.sampling.guidance_scale=2",
        "policy.forward_dtype=bfloat16",
        "policy.decode_dtype=bfloat16",
        "policy.gradient_checkpointing=true",
        "evaluation.prompts=2",
    )
    state = world.state(tmp_path, *settings)
    assert state.process_group.device == gpu
    assert train_on_rollout(state)["policy/gradient_norm"] > 0
    measure_held_out(state)
    watch_reward(state)
    state.save()
    again = world.state(tmp_path, *settings)
    assert again.resume()
    assert {p.device for p in again.policy.trainable_parameters().values()} == {gpu}
    config = world.config(*settings)
    evaluate(
        again.policy,
        read_prompts(str(world.prompts)),
        world.reference_images,
        config=config.evaluation,
        sampling=config.training.sampling,
        scorers=build_scorers(config.evaluation.scorers, gpu, world.reference_images),
        backbone=again.monitor._backbone,
    )
