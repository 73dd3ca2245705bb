"""Prompt embeddings of a task, encoded once before its processes start."""

from collections.abc import Sequence
from pathlib import Path

import torch

from advgrpo.config.policy import AnyPolicyConfig, PolicyConfig, SamplingConfig
from advgrpo.config.run import RunConfig
from advgrpo.config.tasks import PretrainingSettings, TrainingSettings
from advgrpo.data.drawn_prompts import rollout_prompts
from advgrpo.data.sampler import prompts_of_base_images
from advgrpo.data.splits import PromptSplit, split_prompts
from advgrpo.evaluation.evaluator import select_prompts
from advgrpo.models.policies.embeddings import not_encoded
from advgrpo.models.policies.encoding import (
    embeddings_location,
    encode_prompts,
    unconditional_prompt,
)
from advgrpo.models.policies.loading import check_policy
from advgrpo.records import PromptSet, ReferenceImageSet
from advgrpo.runtime.devices import device, one_thread
from advgrpo.runtime.environment import environment
from advgrpo.runtime.nodes import SINGLE_NODE, nodes
from advgrpo.runtime.process_group import ProcessGroup
from advgrpo.runtime.processes import run_in_processes
from advgrpo.storage.locations import join

EMBEDDINGS = "embeddings"
"""Folder of a workspace that stores prompt embeddings."""


def training_prompts(task: TrainingSettings, prompts: PromptSet) -> list[str]:
    """Return the prompts that a training samples in rollouts and for held-out metrics."""
    split = _split(task, prompts)
    sampled = rollout_prompts(split.training, task.draws)
    # The ranks may drop a few of these to get equal shares, but never add any.
    held_out = split.held_out[: task.training.monitoring.held_out_prompts]
    texts = [prompts.texts[position] for position in (*sampled, *held_out)]
    return [unconditional_prompt(task.policy), *texts]


def pretraining_prompts(
    task: PretrainingSettings, prompts: PromptSet, images: ReferenceImageSet
) -> list[str]:
    """Return the prompts that the base model samples for the discriminator.

    Args:
        task: The task's settings.
        prompts: The training prompts.
        images: Their reference images. A held-out prompt without images is not sampled.
    """
    split, wanted = _split(task, prompts), task.discriminator.pretraining
    held_out = [i for i in split.held_out if images.files.get(prompts.texts[i])]
    # The task runs in one process; with more, shares are rounded up to further prompts.
    sampled = [
        *prompts_of_base_images(split.training, wanted.images, world_size=1, seed=task.seed),
        *prompts_of_base_images(held_out, wanted.held_out_images, world_size=1, seed=task.seed),
    ]
    texts = [prompts.texts[position] for position in sampled]
    return [unconditional_prompt(task.policy), *texts]


def evaluation_prompts(config: RunConfig, prompts: PromptSet) -> list[str]:
    """Return the prompts that an evaluation samples."""
    return [unconditional_prompt(config.policy), *select_prompts(prompts, config.evaluation)]


def encode_for_task(
    policy: PolicyConfig,
    sampling: SamplingConfig,
    prompts: Sequence[str],
    *,
    workspace: str,
    adapter: Path | None = None,
) -> str:
    """Check the policy and encode this machine's share of the prompts without embeddings.

    Text encoders are loaded in this process or in child processes, and are freed before the task's
    own processes start, so they never share memory with the trained models.

    Args:
        policy: The policy's settings.
        sampling: Steps and guidance of the task.
        prompts: Prompts that the task needs.
        workspace: Local path or `s3://` location that stores embeddings.
        adapter: Folder of the adapter that the task will load.

    Returns:
        Location of all embeddings, complete when every machine of the job has returned.

    Raises:
        ConfigError: If the model has no guidance, or cannot draw images of this size.
        WeightsError: If weights are missing, damaged or of another family.
    """
    check_policy(policy, sampling, adapter)
    machines, store = nodes(), join(workspace, EMBEDDINGS)
    gpus = torch.cuda.device_count() if policy.text_device == "gpu" else 0
    if gpus:
        location = embeddings_location(policy, store, device())
        # Split before the store is read, which changes as other machines write.
        mine = list(dict.fromkeys(prompts))[machines.rank :: machines.count]
        # Starting processes costs seconds, so it is skipped if nothing is missing.
        if not_encoded(mine, location):
            encode_in_processes(policy, mine, store=store, processes=gpus)
        return location
    with one_thread(device()):
        return encode_prompts(
            policy, prompts, store=store, share=machines.rank, shares=machines.count
        )


def encode_in_processes(
    policy: PolicyConfig, prompts: Sequence[str], *, store: str, processes: int
) -> None:
    """Encode prompts in several processes of this machine, on its GPUs if there are any.

    Raises:
        AdvGrpoError: The error that a process ended with.
    """
    # The processes of this machine are a group of their own; other machines have other prompts.
    with environment(SINGLE_NODE):
        run_in_processes(
            encode_rank,
            {"policy": policy, "prompts": prompts, "store": store},
            task="encode prompts",
            processes=processes,
        )


def encode_rank(policy: AnyPolicyConfig, prompts: Sequence[str], store: str) -> None:
    """Encode this rank's share of the prompts."""
    process_group = ProcessGroup()
    encode_prompts(
        policy,
        prompts,
        store=store,
        device=process_group.device,
        share=process_group.rank,
        shares=process_group.world_size,
    )


def _split(task: TrainingSettings | PretrainingSettings, prompts: PromptSet) -> PromptSplit:
    return split_prompts(prompts.texts, task.discriminator.held_out_fraction)
