"""Training and evaluation on a pretended GPU, in the precision of one."""

from pathlib import Path

import pytest
import torch

from advgrpo.config.algorithms import AwmConfig, NftConfig
from advgrpo.config.base import AlgorithmConfig
from advgrpo.data.prompts import read_prompts
from advgrpo.evaluation.evaluate import evaluate
from advgrpo.models.policies import speed
from advgrpo.models.scorers.build import build_scorers
from advgrpo.training import held_out
from advgrpo.training.loop import train_on_rollout
from advgrpo.training.metrics import measure_held_out
from advgrpo.training.reward_hacking import watch_reward
from tests.training.conftest import World

FORWARD = (
    "training.engine=ddp",
    # Inductor would generate code for a GPU.
    "training.compile=none",
    "policy.forward_dtype=bfloat16",
)


def test_a_run_trains_resumes_and_is_evaluated_on_a_gpu(
    world: World, tmp_path: Path, gpu: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Products of a GPU's size take minutes on the CPU.
    monkeypatch.setitem(speed._SIDE, "cuda", 64)
    settings = (
        *FORWARD,
        "training.sampling.num_inference_steps=5",
        "training.sampling.guidance_scale=2",
        "training.algorithm.window={type: fixed, start: 1, length: 2}",
        "training.algorithm.shared_prefix=true",
        "training.algorithm.fast_sampling={guidance_interval: [0, 0.5], tail_steps: 1}",
        "policy.decode_dtype=bfloat16",
        "policy.gradient_checkpointing=true",
        "evaluation.prompts=2",
    )
    # A critic's numbers do not matter here.
    monkeypatch.setattr(held_out, "LEAST_CRITIC_PROMPTS", 2)
    state = world.state(tmp_path, *settings)
    assert state.process_group.device == gpu
    assert train_on_rollout(state)["policy/gradient_norm"] > 0
    measure_held_out(state)
    watch_reward(state)
    state.save()
    again = world.state(tmp_path, *settings)
    assert again.resume()
    assert {p.device for p in again.policy.trainable_parameters().values()} == {gpu}
    assert train_on_rollout(again)["policy/gradient_norm"] > 0
    config = world.config(*settings)
    evaluate(
        again.policy,
        read_prompts(str(world.prompts)),
        world.reference_images,
        config=config.evaluation,
        sampling=config.training.sampling,
        scorers=build_scorers(config.evaluation.scorers, gpu, world.reference_images),
        backbone=again.monitor._backbone,
        reward=lambda images, _prompts: images.mean(dim=(1, 2, 3)),
    )


@pytest.mark.parametrize("algorithm", [NftConfig(), AwmConfig()], ids=["nft", "awm"])
def test_algorithms_on_noised_images_train_on_a_gpu(
    algorithm: AlgorithmConfig,
    world: World,
    tmp_path: Path,
    gpu: torch.device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(speed._SIDE, "cuda", 64)
    state = world.state(tmp_path, *FORWARD, algorithm=algorithm)
    assert state.process_group.device == gpu
    assert train_on_rollout(state)["policy/gradient_norm"] > 0
