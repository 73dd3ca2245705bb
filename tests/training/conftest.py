from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from advgrpo.config import PolicyConfig, RunConfig
from advgrpo.config.base import AlgorithmConfig
from advgrpo.data.prompts import read_prompts
from advgrpo.models.discriminators import build_discriminator, save_discriminator
from advgrpo.models.policies.embeddings import StoredEmbeddings
from advgrpo.models.policies.speed import PolicySpeed
from advgrpo.models.scorers.build import build_reward_scorers
from advgrpo.pocket.source import PocketRenderer
from advgrpo.records import ReferenceImageSet
from advgrpo.reference_images.generation import generate_reference_images
from advgrpo.reference_images.image_set import validate_reference_images
from advgrpo.runtime.process_group import ProcessGroup
from advgrpo.testing import BrightnessScorer, RecordingLogger, TinyModels, write_tiny_models
from advgrpo.training.build import Inputs, build_training_state
from advgrpo.training.checkpoint import Checkpoints
from advgrpo.training.state import TrainingState

PACKAGED = Path(__file__).parents[2] / "advgrpo" / "pocket" / "prompts" / "train.txt"
SMALL = (
    "training.updates=2",
    "training.sampling.num_inference_steps=3",
    "training.algorithm.window.last_start=0",
    "training.sampling.guidance_scale=1.0",
    "training.rollout.prompts_per_update=2",
    "training.rollout.group_size=4",
    "training.rollout.microbatch_size=4",
    "training.update_schedule.discriminator_steps=2",
    "training.monitoring.held_out_prompts=4",
    "discriminator.optimizer.batch_size=8",
    "discriminator.optimizer.replay_images=16",
    "discriminator.held_out_fraction=0.3",
    "reference_images.images_per_prompt=1",
    "evaluation.alignment=pocket_judge.attribute_accuracy",
)


class KnownSpeed(PolicySpeed):
    """Throughput is compared with constants: to measure them takes longer than an update."""

    pass_flops = decode_flops = matmul_rate = 1e6  # type: ignore[assignment]


@dataclass(frozen=True)
class World:
    """Tiny models, a few prompts and their reference images."""

    tiny: TinyModels
    prompts: Path
    reference_images: ReferenceImageSet

    def config(self, *overrides: str) -> RunConfig:
        return self.tiny.config(f"prompts.train={self.prompts}", *SMALL, *overrides)

    def pretrained(self, folder: Path, *overrides: str) -> Path:
        """Write an untrained discriminator, unless it exists."""
        place = folder / "pretrained"
        if not place.exists():
            config = self.config(*overrides)
            discriminator = build_discriminator(
                config.discriminator, torch.device("cpu"), seed=config.seed
            )
            save_discriminator(place, discriminator, {})
        return place

    def state(
        self,
        folder: Path,
        *overrides: str,
        process_group: ProcessGroup | None = None,
        logger: RecordingLogger | None = None,
        run_digest: str = "run",
        embeddings: StoredEmbeddings | None = None,
        policy: PolicyConfig | None = None,
        algorithm: AlgorithmConfig | None = None,
    ) -> TrainingState:
        config = self.config(*overrides)
        process_group = process_group or ProcessGroup()
        pretrained = self.pretrained(folder, *overrides)
        training = config.training
        if algorithm is not None:
            training = training.model_copy(update={"algorithm": algorithm})
        inputs = Inputs(
            seed=config.seed,
            policy=policy or config.policy,
            discriminator=config.discriminator,
            training=training,
            distance=config.evaluation.distance,
            alignment="brightness.mean",
            evaluation_sampling=config.evaluation_sampling,
            scorers=[BrightnessScorer()],
            reward_scorers=build_reward_scorers(
                config.training.reward, process_group.device, self.reference_images
            ),
            prompts=read_prompts(str(self.prompts)),
            reference_images=self.reference_images,
            pretrained_discriminator=pretrained,
            features=str(folder / "features"),
            embeddings=embeddings,
        )
        checkpoints = Checkpoints(
            str(folder / "checkpoints"),
            run_digest=run_digest,
            keep=config.training.checkpoints_kept,
            scratch=folder / f"scratch-{process_group.rank}",
        )
        state = build_training_state(
            inputs,
            process_group=process_group,
            checkpoints=checkpoints,
            logger=logger or RecordingLogger(),
        )
        return replace(state, speed=KnownSpeed(state.policy, "", torch.float32))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    tiny = write_tiny_models(folder)
    prompts = folder / "train.txt"
    prompts.write_text("\n".join(PACKAGED.read_text("utf-8").splitlines()[:160:10]), "utf-8")
    config = tiny.config(*SMALL).reference_images
    generate_reference_images(
        PocketRenderer(),
        read_prompts(str(prompts)),
        config,
        images_per_prompt=1,
        seed=0,
        location=folder / "reference_images",
    )
    reference_images = validate_reference_images(
        folder / "reference_images",
        read_prompts(str(prompts)),
        1,
        config.resolution_pixels,
        seed=0,
    )
    return World(tiny, prompts, reference_images)


@pytest.fixture
def make_state(world: World, tmp_path: Path) -> Callable[..., TrainingState]:
    def make(*overrides: str, folder: str = "run", **arguments: object) -> TrainingState:
        return world.state(tmp_path / folder, *overrides, **arguments)

    return make
