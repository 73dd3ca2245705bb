"""Images per second of the pocket models' rollouts in several settings, interleaved."""

import statistics
import sys
import time
from collections.abc import Callable

import torch

from advgrpo.algorithm.seeds import seed_for
from advgrpo.config import resolve
from advgrpo.data.prompts import read_prompts
from advgrpo.data.sampler import share_of_rank
from advgrpo.models.policies import load_policy
from advgrpo.models.policies.adapter_weights import AdapterWeights
from advgrpo.models.policies.sampling import sample_images
from advgrpo.storage.fetch import local_file
from advgrpo.training.algorithms.registry import build_algorithm
from advgrpo.training.rollout import generate_rollout


def compare_settings(rounds: int) -> None:
    """Time rollouts in several settings, and print medians and ratios."""
    config = resolve("pocket")
    policy = load_policy(config.policy, torch.device("cpu"))
    prompts = read_prompts(local_file(config.prompts.train)).texts
    rollout = config.training.rollout
    (plans,) = share_of_rank(
        range(rollout.prompts_per_update),
        group_size=rollout.group_size,
        optimizer_steps=1,
        world_size=1,
        rank=0,
    )

    def rollout_case(*overrides: str, microbatch: int = rollout.microbatch) -> Callable[[], int]:
        training = resolve("pocket", overrides).training
        algorithm = build_algorithm(
            training.algorithm,
            training.sampling,
            policy,
            AdapterWeights(policy.trainable_parameters()),
            seed=0,
        )

        def once() -> int:
            generate_rollout(
                policy,
                algorithm.sample,
                plans,
                prompts,
                microbatch_size=microbatch,
                rollout=0,
            )
            return len(plans)

        return once

    def sampling_case() -> int:
        texts = prompts[: len(plans)]
        sample_images(
            policy,
            texts,
            [seed_for(text) for text in texts],
            num_inference_steps=config.training.sampling.num_inference_steps,
            guidance_scale=config.training.sampling.guidance_scale,
        )
        return len(texts)

    own_prefix = "training.algorithm.shared_prefix=false"
    fixed = "training.algorithm.window={type: fixed, start: 4, length: 2}"
    compare(
        {
            "rollout, shared prefix, window at step 4": rollout_case(fixed),
            "rollout, own prefixes, window at step 4": rollout_case(fixed, own_prefix),
            "rollout, own prefixes, microbatch 8": rollout_case(fixed, own_prefix, microbatch=8),
            "rollout, guidance 2.5": rollout_case(fixed, "training.sampling.guidance_scale=2.5"),
            "plain sampling": sampling_case,
        },
        rounds,
    )


def compare(cases: dict[str, Callable[[], int]], rounds: int) -> None:
    """Time cases alternately; print images per second and the ratio to the first one."""
    rates: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(rounds + 1):
        for name, case in cases.items():
            start = time.perf_counter()
            images = case()
            if number > 0:  # the first round warms up
                rates[name].append(images / (time.perf_counter() - start))
    first = rates[next(iter(cases))]
    sys.stdout.write(f"\n{'images per second, one thread':45} median  ratio to the first\n")
    for name, values in rates.items():
        ratio = statistics.median(v / f for v, f in zip(values, first, strict=True))
        sys.stdout.write(f"{name:45} {statistics.median(values):6.1f}  {ratio:.2f}\n")
