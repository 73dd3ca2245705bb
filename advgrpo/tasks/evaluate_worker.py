"""What every process that evaluates does: load the models and measure its share of the batches."""

import argparse
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor

from advgrpo.config import EvaluationConfig, RunConfig, SamplingConfig
from advgrpo.config.tasks import parse_json
from advgrpo.data.prompts import read_run_prompts
from advgrpo.evaluation.batch_cache import KeptInWorkspace
from advgrpo.evaluation.batches import Champion, Part, missing_parts, sampled_images
from advgrpo.evaluation.evaluator import Evaluator, chosen_prompts
from advgrpo.evaluation.metrics import Reward
from advgrpo.models.backbones.clip import ClipBackbone
from advgrpo.models.backbones.dino import DinoBackbone
from advgrpo.models.discriminators import build_discriminator, load_discriminator
from advgrpo.models.policies import load_policy
from advgrpo.models.policies.base import Policy
from advgrpo.models.policies.embeddings import StoredEmbeddings
from advgrpo.models.scorers.base import Scorer
from advgrpo.models.scorers.build import build_scorers
from advgrpo.records import PromptSet, ReferenceImageSet
from advgrpo.reference_images.image_set import read_validated
from advgrpo.reference_images.shared_images import deal_for_measuring
from advgrpo.runtime.devices import one_thread
from advgrpo.runtime.failures import failures_noted, run_as_process
from advgrpo.runtime.heartbeat import rank_heartbeat
from advgrpo.runtime.process_group import ProcessGroup
from advgrpo.runtime.work_queue import WorkQueue, open_work_queue
from advgrpo.tasks.champion import FoundChampion
from advgrpo.tasks.embeddings import evaluation_prompts
from advgrpo.telemetry.logging import configure_rank
from advgrpo.telemetry.progress import PROGRESS_FILE, Progress

TASK = "evaluate"


@dataclass(frozen=True)
class Plan:
    """What the first machine found out, and all processes go by."""

    measured: str
    """Location of the measured batches."""

    champion: FoundChampion

    def to_json(self) -> str:
        """Write it as text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """Read what `to_json` wrote."""
        plan = json.loads(text)
        return cls(plan["measured"], FoundChampion(**plan["champion"]))


class BenchArguments(TypedDict):
    """Arguments of `Bench` and of `evaluate`."""

    policy: Policy
    prompts: PromptSet
    reference_images: ReferenceImageSet
    config: EvaluationConfig
    sampling: SamplingConfig
    scorers: Sequence[Scorer]
    backbone: DinoBackbone
    reward: Reward
    clip: ClipBackbone | None
    champion: Champion | None


def bench_arguments(
    config: RunConfig,
    trained: Path,
    reference_images: ReferenceImageSet,
    champion: FoundChampion,
    device: torch.device,
    embeddings: str,
) -> BenchArguments:
    """Load all models of an evaluation.

    Args:
        config: The run's settings.
        trained: The training's result.
        reference_images: Of the test prompts.
        champion: Whose adapter is measured as well, if there is one.
        device: Where the models work.
        embeddings: Location of the prompts' embeddings.
    """
    wanted, distance = config.evaluation, config.evaluation.distance
    prompts = read_run_prompts(config.prompts).test
    stored = StoredEmbeddings(embeddings, evaluation_prompts(config, prompts))
    policy = load_policy(config.policy, device, adapter=trained / "adapter", embeddings=stored)
    reference_images = deal_for_measuring(reference_images, chosen_prompts(prompts, wanted))
    return {
        "policy": policy,
        "prompts": prompts,
        "reference_images": reference_images,
        "config": wanted,
        "sampling": config.training.sampling,
        "scorers": build_scorers(wanted.scorers, device, reference_images),
        "backbone": DinoBackbone(
            distance.weights, resolution_pixels=distance.resolution_pixels, device=device
        ),
        "clip": None if wanted.cmmd is None else ClipBackbone(wanted.cmmd.weights, device),
        "reward": _trained_reward(config, trained / "discriminator", device),
        "champion": champion.for_policy(policy),
    }


def measure_share(bench: Evaluator, measured: str, workers: Callable[[str], WorkQueue]) -> None:
    """Measure batches that nobody measured yet, together with the other processes.

    Args:
        bench: This process's models.
        measured: Location of the measured batches.
        workers: Finds the processes that share the work, by the name of what is shared.
    """
    kept, others = KeptInWorkspace(measured), workers("evaluation batches")
    parts = bench.parts
    found = ""
    if others.worker == 0:
        # The others take the first one's word: what is missing changes as they measure.
        names = {part.name for part in missing_parts(parts, kept)}
        found = json.dumps([position for position, p in enumerate(parts) if p.name in names])
    missing = [parts[position] for position in json.loads(others.broadcast(found))]
    progress = Progress("evaluation", sampled_images(parts), "images")
    progress.resume_at(sampled_images(parts) - sampled_images(missing))
    bench.measure(_leased(missing, others, progress), kept)
    others.wait("measured")


def _leased(missing: Sequence[Part], others: WorkQueue, progress: Progress) -> Iterator[Part]:
    """Take batches until none is left; what others took meanwhile counts as done, too."""
    told = 0
    for number in others.claim(len(missing)):
        progress.advance(sampled_images(missing[told:number]))
        told = number
        yield missing[number]
    progress.advance(sampled_images(missing[told:]))


def _trained_reward(config: RunConfig, folder: Path, device: torch.device) -> Reward:
    discriminator = build_discriminator(config.discriminator, device, seed=config.seed)
    load_discriminator(folder, discriminator)

    def reward(images: Tensor, prompts: Sequence[str]) -> Tensor:
        features = discriminator.image_features(images)
        return discriminator.rewards(discriminator.with_prompts(features, prompts))

    return reward


def main() -> None:
    """Measure this process's share; what the task evaluate starts for each GPU."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--settings", type=Path, required=True, help="RunConfig as JSON")
    parser.add_argument("--trained", type=Path, required=True, help="training's result")
    parser.add_argument(
        "--reference-images", type=Path, required=True, help="what was validated, as JSON"
    )
    parser.add_argument("--embeddings", required=True, help="folder or s3:// location")
    parser.add_argument("--plan", type=Path, help="what the first machine found out, as JSON")
    arguments = parser.parse_args()
    configure_rank()
    process_group = ProcessGroup()
    if not process_group.is_first:
        os.environ.pop(PROGRESS_FILE, None)
    with failures_noted(TASK), rank_heartbeat(), one_thread(process_group.device):
        text = arguments.plan.read_text(encoding="utf-8") if process_group.is_first else ""
        queue = open_work_queue("evaluation plan")
        plan = Plan.from_json(queue.broadcast(text))
        settings = arguments.settings.read_text(encoding="utf-8")
        config = parse_json(RunConfig, settings, where=str(arguments.settings))
        images = read_validated(arguments.reference_images)
        bench = Evaluator(
            **bench_arguments(
                config,
                arguments.trained,
                images,
                plan.champion,
                process_group.device,
                arguments.embeddings,
            )
        )
        measure_share(bench, plan.measured, open_work_queue)


if __name__ == "__main__":
    run_as_process(main)
