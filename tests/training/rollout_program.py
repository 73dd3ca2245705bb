"""Program of the test of microbatches and ranks: the same rollout in many ways.

Ranks are forked after all was imported, which takes longer than what they do.
"""

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from advgrpo.data.prompts import read_prompts
from advgrpo.data.sampler import share_of_rank
from advgrpo.models.discriminators import build_discriminator
from advgrpo.models.policies import load_policy
from advgrpo.models.policies.adapter_weights import AdapterWeights
from advgrpo.models.scorers.pickscore import PickScore
from advgrpo.runtime.process_group import ProcessGroup, free_port
from advgrpo.testing import TinyModels
from advgrpo.training.algorithms.registry import build_algorithm
from advgrpo.training.reward import Reward
from advgrpo.training.rollout import generate_rollout
from tests.loaded_once import reading_models_once
from tests.training.conftest import SMALL

PROMPTS, GROUP = (2, 5, 7, 11), 4
WAYS = {
    1: {
        "all at once": ["training.rollout.microbatch_size=16"],
        "one by one": ["training.rollout.microbatch_size=1"],
        "in twos": ["training.rollout.microbatch_size=2"],
        "two passes": ["training.rollout.microbatch_size=8", "policy.guidance=two_passes"],
        "decoded in slices": ["training.rollout.microbatch_size=16", "policy.decode_batch_size=3"],
    },
    2: {"in fours": ["training.rollout.microbatch_size=4"]},
    4: {
        "all at once": ["training.rollout.microbatch_size=4"],
        "in twos": ["training.rollout.microbatch_size=2", "policy.decode_batch_size=1"],
    },
}
"""Number of ranks -> name -> settings."""

COMMON = (
    *SMALL,
    "training.rollout.prompts_per_update=4",
    "training.sampling.num_inference_steps=4",
    "training.sampling.guidance_scale=2.5",
    "training.algorithm.shared_prefix=true",
    "training.algorithm.window={type: fixed, start: 1, length: 2}",
)


def roll_out(tiny: TinyModels, texts: tuple[str, ...], overrides: list[str]) -> dict:
    """Draw and reward the images of a rollout; all ranks get those of all."""
    config, process_group = tiny.config(*COMMON, *overrides), ProcessGroup()
    training = config.training
    policy = load_policy(config.policy, process_group.device, seed=1)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in policy.trainable_parameters().values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    discriminator = build_discriminator(config.discriminator, process_group.device, seed=0)
    (plans,) = share_of_rank(
        PROMPTS,
        group_size=GROUP,
        optimizer_steps=1,
        world_size=process_group.world_size,
        rank=process_group.rank,
    )
    adapter = AdapterWeights(policy.trainable_parameters())
    algorithm = build_algorithm(training.algorithm, training.sampling, policy, adapter, seed=0)
    rollout = generate_rollout(
        policy,
        algorithm.sample,
        plans,
        texts,
        microbatch_size=training.rollout.microbatch_size,
        rollout=0,
    )
    features = discriminator.image_features(rollout.images)
    terms = training.reward.scorer_terms.values()
    scorers = {term.name: PickScore(term.scorer.weights, process_group.device) for term in terms}
    rewards = Reward(training.reward, discriminator, scorers).terms(
        rollout.images, features, [texts[plan.prompt_id] for plan in plans]
    )
    mine = {
        "images": rollout.images,
        "rewards": rewards,
        "log_probs": rollout.recorded["log_probs"],
    }
    return process_group.gather_in_order(mine, [plan.position for plan in plans])


def run_rank(tiny: TinyModels, texts: tuple[str, ...], output: Path, rank: int, count: int) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(count))
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    for name, overrides in WAYS[count].items():
        tensors = roll_out(tiny, texts, overrides)
        if rank == count - 1:
            save_file(tensors, output / f"{count}, {name}.safetensors")
    torch.distributed.destroy_process_group()


def main(models: Path, output: Path) -> None:
    tiny = TinyModels(models / "pipeline", models / "dino", models / "pickscore")
    texts = read_prompts(str(models / "train.txt")).texts
    for count in WAYS:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()))
        with reading_models_once():
            torch.multiprocessing.start_processes(
                lambda rank, count=count: run_rank(tiny, texts, output, rank, count),
                nprocs=count,
                start_method="fork",
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
