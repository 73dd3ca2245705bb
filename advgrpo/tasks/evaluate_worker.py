"""One process of an evaluation: all models, and its share of the batches."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor

from advgrpo.config.evaluation import EvaluationConfig
from advgrpo.config.policy import SamplingConfig
from advgrpo.config.run import RunConfig
from advgrpo.evaluation.batch_cache import WorkspaceBatchCache
from advgrpo.evaluation.batches import count_sampled_images, missing_batches
from advgrpo.evaluation.evaluator import Evaluator, select_prompts
from advgrpo.evaluation.results import Champion, Reward
from advgrpo.models.backbones.clip import ClipBackbone
from advgrpo.models.backbones.dino import DinoBackbone
from advgrpo.models.discriminators.build import build_discriminator
from advgrpo.models.discriminators.saving import load_discriminator
from advgrpo.models.policies.base import Policy
from advgrpo.models.policies.embeddings import StoredEmbeddings
from advgrpo.models.policies.loading import load_policy
from advgrpo.models.scorers.base import Scorer
from advgrpo.models.scorers.build import build_scorers
from advgrpo.records import PromptSet, ReferenceImageSet
from advgrpo.reference_images.shared_images import assign_for_evaluation
from advgrpo.runtime.devices import one_thread
from advgrpo.runtime.process_group import ProcessGroup
from advgrpo.runtime.work_queue import WorkQueue, claim_with_progress, open_work_queue
from advgrpo.tasks.champion import FoundChampion
from advgrpo.tasks.embeddings import evaluation_prompts
from advgrpo.telemetry.progress import Progress


@dataclass(frozen=True)
class Plan:
    """Decisions of the first machine that apply to all processes."""

    measured: str
    """Location of the batches' metrics."""

    champion: FoundChampion

    def to_json(self) -> str:
        """Return the plan as JSON text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """Return the plan in the text of `to_json`."""
        plan = json.loads(text)
        return cls(plan["measured"], FoundChampion(**plan["champion"]))


class EvaluatorArguments(TypedDict):
    """Arguments of `Evaluator` and of `evaluation.evaluate`."""

    policy: Policy
    prompts: PromptSet
    reference_images: ReferenceImageSet
    config: EvaluationConfig
    sampling: SamplingConfig
    scorers: Sequence[Scorer]
    backbone: DinoBackbone
    reward: Reward | None
    clip: ClipBackbone | None
    champion: Champion | None


def evaluator_arguments(
    config: RunConfig,
    prompts: PromptSet,
    trained: Path,
    reference_images: ReferenceImageSet,
    champion: FoundChampion,
    device: torch.device,
    embeddings: str,
) -> EvaluatorArguments:
    """Load all models of an evaluation.

    Args:
        config: The run's settings.
        prompts: The test prompts.
        trained: Folder of the training result.
        reference_images: Reference images of the test prompts.
        champion: The champion, which is evaluated as well if there is one.
        device: Device of the models.
        embeddings: Location of the prompts' embeddings.
    """
    wanted, distance = config.evaluation, config.evaluation.distance
    stored = StoredEmbeddings(embeddings, evaluation_prompts(config, prompts))
    policy = load_policy(config.policy, device, adapter=trained / "adapter", embeddings=stored)
    # Deterministic, so every process assigns the same images without communication.
    reference_images = assign_for_evaluation(reference_images, select_prompts(prompts, wanted))
    return {
        "policy": policy,
        "prompts": prompts,
        "reference_images": reference_images,
        "config": wanted,
        "sampling": config.evaluation_sampling,
        "scorers": build_scorers(wanted.scorers, device, reference_images),
        "backbone": DinoBackbone(
            distance.weights, resolution_pixels=distance.resolution_pixels, device=device
        ),
        "clip": None if wanted.cmmd is None else ClipBackbone(wanted.cmmd.weights, device),
        "reward": _load_reward(config, trained / "discriminator", device),
        "champion": champion.for_policy(policy),
    }


def evaluate_share(
    evaluator: Evaluator, measured: str, open_queue: Callable[[str], WorkQueue]
) -> None:
    """Evaluate batches that are not stored yet, together with the other processes.

    Args:
        evaluator: This process's models.
        measured: Location of the batches' metrics.
        open_queue: Opens the queue of the processes that share the work, by the work's name.
    """
    cache, queue = WorkspaceBatchCache(measured), open_queue("evaluation batches")
    batches = evaluator.batches
    text = ""
    if queue.rank == 0:
        # One process decides for all: the set of missing batches changes while others evaluate.
        names = {batch.name for batch in missing_batches(batches, cache)}
        text = json.dumps([position for position, p in enumerate(batches) if p.name in names])
    missing = [batches[position] for position in json.loads(queue.broadcast(text))]
    progress = Progress("evaluation", count_sampled_images(batches), "images")
    progress.resume_at(count_sampled_images(batches) - count_sampled_images(missing))
    sizes = [count_sampled_images([batch]) for batch in missing]
    # Claimed one by one instead of in fixed shares: a slow process must not delay the others.
    claims = claim_with_progress(queue, sizes, progress)
    evaluator.measure((missing[number] for number in claims), cache)
    # The task reads all batches next, also those of the other machines.
    queue.barrier("measured")


def _load_reward(config: RunConfig, folder: Path, device: torch.device) -> Reward | None:
    # Imported adapters may have none.
    if not folder.is_dir():
        return None
    discriminator = build_discriminator(config.discriminator, device, seed=config.seed)
    load_discriminator(folder, discriminator)

    def reward(images: Tensor, prompts: Sequence[str]) -> Tensor:
        features = discriminator.image_features(images)
        return discriminator.rewards(discriminator.with_prompts(features, prompts))

    return reward


def evaluate_rank(
    config: RunConfig,
    prompts: PromptSet,
    trained: Path,
    reference_images: ReferenceImageSet,
    embeddings: str,
    plan: Plan | None,
) -> None:
    """Evaluate this rank's share of the batches.

    Args:
        config: The run's settings.
        prompts: The test prompts.
        trained: Folder of the training result.
        reference_images: Reference images of the test prompts.
        embeddings: Location of the prompts' embeddings.
        plan: The first machine's plan; None on the others, whose ranks get it from its first rank.
    """
    device = ProcessGroup().device
    with one_thread(device):
        queue = open_work_queue("evaluation plan")
        plan = Plan.from_json(queue.broadcast("" if plan is None else plan.to_json()))
        evaluator = Evaluator(
            **evaluator_arguments(
                config, prompts, trained, reference_images, plan.champion, device, embeddings
            )
        )
        evaluate_share(evaluator, plan.measured, open_work_queue)
