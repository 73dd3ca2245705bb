"""Subject of the benchmark: models, prompts, reference images and a training state."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from diffusers import StableDiffusion3Pipeline
from torch import Tensor

from advgrpo.algorithm.randomness import generator_for
from advgrpo.config import RunConfig, resolve
from advgrpo.data.images import encode_png
from advgrpo.data.prompts import read_prompts
from advgrpo.models.discriminators import build_discriminator, save_discriminator
from advgrpo.models.policies.sd3 import Sd3Policy, Sd3TextEncoders
from advgrpo.models.scorers.build import build_reward_scorers
from advgrpo.pocket import captions
from advgrpo.records import PromptSet, ReferenceImageSet
from advgrpo.reference_images.image_set import validate_reference_images
from advgrpo.reference_images.manifest import write_manifest
from advgrpo.runtime.process_group import ProcessGroup
from advgrpo.storage.fetch import local_folder
from advgrpo.training.build import Inputs, build_training_state
from advgrpo.training.checkpoint import Checkpoints
from advgrpo.training.state import TrainingState
from studies.bench.shapes import (
    SD35_MEDIUM,
    TINY,
    Shapes,
    draw_pipeline,
    loading_drawn,
    save_encoders,
)

PROMPTS = 32
REFERENCES_PER_PROMPT = 2


@dataclass(frozen=True)
class Size:
    """A scale at which an update is benchmarked."""

    words: str
    preset: str
    shapes: Shapes | None
    """Of models with random weights; None takes the preset's own."""

    overrides: tuple[str, ...]
    needs_gpu: bool = False


# As in the released code: own noise and own prefix for each image, guidance and steps.
_LIKE = (
    "training.sampling.guidance_scale=4.5",
    "training.sampling.num_inference_steps=10",
    "training.algorithm.shared_prefix=false",
    "training.algorithm.window={type: fixed, start: 0, length: 2}",
    "training.optimizer_steps_per_update=2",
    "discriminator.held_out_fraction=0.25",
    "training.monitoring.held_out_prompts=8",
    # Quality does not matter here; these scorers need no weights.
    "reference_images.source={type: pocket}",
    "evaluation.scorers=[{type: pocket_judge}]",
    "evaluation.alignment=pocket_judge.attribute_accuracy",
    "prompts.test=package://advgrpo.pocket/prompts/test.txt",
)
_SMALL_TRANSFORMER = (
    "policy.resolution_pixels=32",
    "policy.max_sequence_length=16",
    "policy.forward_dtype=float32",
    "reference_images.resolution_pixels=32",
    "discriminator.resolution_pixels=42",
    "discriminator.patches=4",
    "discriminator.hidden_width=16",
    "evaluation.distance.resolution_pixels=42",
)
_FEW_IMAGES = (
    "training.rollout={prompts_per_update: 4, group_size: 4, microbatch_size: 4}",
    "discriminator.optimizer.batch_size=16",
)
SIZES = {
    "pocket": Size(
        "the pocket models",
        "pocket",
        None,
        ("training.rollout={prompts_per_update: 8, group_size: 8, microbatch_size: 32}",),
    ),
    "tiny": Size(
        "the architecture of SD3.5 medium in small, random weights",
        "sd35m_dino",
        TINY,
        (*_SMALL_TRANSFORMER, *_FEW_IMAGES),
    ),
    "sd35_medium": Size(
        "SD3.5 medium and DINOv2 base at 512 pixels, random weights",
        "sd35m_dino",
        SD35_MEDIUM,
        ("training.rollout={prompts_per_update: 6, group_size: 8, microbatch_size: 8}",),
        needs_gpu=True,
    ),
}


@dataclass(frozen=True)
class World:
    """A training state, and what the comparison loop needs to do the same work."""

    config: RunConfig
    state: TrainingState
    prompts: PromptSet
    reference_images: ReferenceImageSet
    pipeline: Callable[[], StableDiffusion3Pipeline]
    """Gives a copy of the pipeline, on the training device or the CPU."""

    dino: Path


def make_world(size: Size, folder: Path, *overrides: str) -> World:
    """Write missing files into a folder, and build the state of one process.

    Args:
        size: What to build.
        folder: For models, images, features and checkpoints.
        overrides: Further settings.
    """
    process_group = ProcessGroup()
    prompts_file = folder / "prompts.txt"
    folder.mkdir(parents=True, exist_ok=True)
    prompts_file.write_text("\n".join(captions.read_prompts("train")[:PROMPTS]) + "\n", "utf-8")
    settings = [*_models(size, folder, process_group.device), *_LIKE, *size.overrides, *overrides]
    config = resolve(size.preset, [f"prompts.train={prompts_file}", *settings])
    prompts = read_prompts(prompts_file)
    images = reference_images(config, prompts, folder / "reference_images")
    discriminator = build_discriminator(
        config.discriminator, process_group.device, seed=config.seed
    )
    save_discriminator(folder / "discriminator", discriminator, {})
    inputs = Inputs(
        seed=config.seed,
        policy=config.policy,
        discriminator=config.discriminator,
        training=config.training,
        distance=config.evaluation.distance,
        alignment="brightness.mean",
        evaluation_sampling=config.evaluation_sampling,
        scorers=[Brightness()],
        reward_scorers=build_reward_scorers(config.training.reward, process_group.device, images),
        prompts=prompts,
        reference_images=images,
        pretrained_discriminator=folder / "discriminator",
        features=str(folder / "features"),
    )
    checkpoints = Checkpoints(
        str(folder / "checkpoints"), run_digest="bench", keep=1, scratch=folder / "scratch"
    )
    pipeline = partial(_saved_pipeline, config)
    if size.shapes is None:
        state = _build(inputs, process_group, checkpoints)
    else:
        pipeline = partial(draw_pipeline, size.shapes, process_group.device)
        drawn = pipeline()
        with loading_drawn(drawn):
            state = _build(inputs, process_group, checkpoints)
        # On the training device: a T5 of this size takes minutes on a CPU.
        encoders = Sd3TextEncoders(config.policy, process_group.device)
        encoders._pipeline = drawn
        assert isinstance(state.policy, Sd3Policy)
        state.policy._prompts.encoders = encoders
    return World(
        config,
        state,
        prompts,
        images,
        pipeline=pipeline,
        dino=local_folder(config.discriminator.weights),
    )


class Brightness:
    """A scorer without weights: the mean of all channels."""

    name = "brightness"

    def score(self, images: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Score images."""
        del prompts
        return {"mean": images.mean(dim=(1, 2, 3)).cpu()}


class NoLogger:
    """A logger that drops everything."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Drop metrics."""

    def picture(self, name: str, step: int, png: bytes) -> None:
        """Drop a picture."""

    def tags(self, values: Mapping[str, str]) -> None:
        """Drop tags."""

    def unsent_pictures(self) -> list[tuple[str, int, bytes]]:
        """Return no picture."""
        return []


def _build(inputs: Inputs, process_group: ProcessGroup, checkpoints: Checkpoints) -> TrainingState:
    return build_training_state(
        inputs, process_group=process_group, checkpoints=checkpoints, logger=NoLogger()
    )


def _saved_pipeline(config: RunConfig) -> StableDiffusion3Pipeline:
    return StableDiffusion3Pipeline.from_pretrained(
        local_folder(config.policy.weights), use_safetensors=True
    )


def _models(size: Size, folder: Path, device: torch.device) -> list[str]:
    if size.shapes is None:
        return []
    saved = folder / "encoders"
    save_encoders(size.shapes, saved, device)
    text = "discriminator.prompt_conditioning"
    return [
        "policy.weights={location: drawn}",
        f"discriminator.weights={{location: {saved / 'dino'}}}",
        f"evaluation.distance.weights={{location: {saved / 'dino'}}}",
        f"{text}.text_encoder={{location: {saved}, subfolder: text_encoder}}",
        f"{text}.tokenizer={{location: {saved}, subfolder: tokenizer}}",
    ]


def reference_images(config: RunConfig, prompts: PromptSet, folder: Path) -> ReferenceImageSet:
    """Write pictures of noise, one file each; their content does not affect the time."""
    pixels = config.reference_images.resolution_pixels
    folder.mkdir(exist_ok=True)
    files: dict[str, tuple[str, ...]] = {}
    for number, text in enumerate(prompts.texts):
        names = tuple(f"{number:04d}_{k}.png" for k in range(REFERENCES_PER_PROMPT))
        for name in names:
            image = torch.rand(3, pixels, pixels, generator=generator_for("bench", name))
            (folder / name).write_bytes(encode_png(image))
        files[text] = names
    write_manifest(folder, files)
    return validate_reference_images(folder, prompts, REFERENCES_PER_PROMPT, pixels, seed=0)
