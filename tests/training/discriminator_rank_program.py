"""One rank of the test of discriminators: build features, train and write the weights."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from advgrpo.config import DinoDiscriminatorConfig, DiscriminatorConfig
from advgrpo.config.discriminator import DiscriminatorOptimizerConfig, PickScoreDiscriminatorConfig
from advgrpo.data.prompts import read_prompts
from advgrpo.models.discriminators import build_discriminator
from advgrpo.models.discriminators.replay import ReplayPool
from advgrpo.reference_images.image_set import validate_reference_images
from advgrpo.runtime.process_group import ProcessGroup
from advgrpo.testing import SIDE_PIXELS, TINY_BACKBONES
from advgrpo.training.discriminator_update import DiscriminatorUpdater, GeneratedFeatures
from advgrpo.training.reference_features import ReferenceFeatures

OPTIMIZER = DiscriminatorOptimizerConfig(learning_rate=1e-2, batch_size=8)


def discriminators(models: Path) -> dict[str, DiscriminatorConfig]:
    """One of each kind, and those with parts of their own."""
    heads = {"resolution_pixels": SIDE_PIXELS, "hidden_width": 16, "patches": 8}
    on_each = {
        kind: DinoDiscriminatorConfig.model_validate(
            {"weights": {"location": str(models / kind)}, **heads}
        )
        for kind in TINY_BACKBONES
    }
    several = on_each["dinov2"].model_copy(
        update={"layers": (1, 3), "gradient_penalty_weight": 0.1}
    )
    tuned = {
        f"pickscore_{blocks}": PickScoreDiscriminatorConfig.model_validate(
            {"weights": {"location": str(models / "pickscore")}, "trained_blocks": blocks}
        )
        for blocks in (1, 2)
    }
    return {**on_each, "layers": several, **tuned}


def main(models: Path, output: Path) -> None:
    process_group = ProcessGroup()
    if process_group.world_size > 1:
        dist.init_process_group("gloo")
    prompts = read_prompts(str(models / "train.txt"))
    images = validate_reference_images(models / "reference_images", prompts, 1, 32, seed=0)
    generated = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for name, config in discriminators(models).items():
        discriminator = build_discriminator(config, process_group.device, seed=0)
        references = ReferenceFeatures(
            images, prompts, discriminator, held_out_fraction=0.3,
            store=str(output / "features"), process_group=process_group,
        )  # fmt: skip
        updater = DiscriminatorUpdater(
            discriminator, references, prompts.texts, OPTIMIZER, process_group, seed=0
        )
        fresh = GeneratedFeatures(discriminator.image_features(generated), torch.arange(8))
        updater.update(fresh, ReplayPool(0), steps=3, purpose="rollout 1")
        trained = {n: p.detach().clone() for n, p in discriminator.trainable_parameters().items()}
        state = {f"adam.{n}": value for n, value in updater.state().items()}
        save_file(
            {**trained, **state},
            output / f"{name}-{process_group.rank}-of-{process_group.world_size}.safetensors",
        )
    if process_group.world_size > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
