from dataclasses import replace
from pathlib import Path

import pytest
import torch

from advgrpo.data.image_loading import load_images
from advgrpo.data.prompts import read_prompts
from advgrpo.models.discriminators import Discriminator, build_discriminator
from advgrpo.models.discriminators.base import Features
from advgrpo.records import ReferenceImageSet
from advgrpo.reference_images.shared_images import ANY_PROMPT, assign_for_training
from advgrpo.runtime.process_group import ProcessGroup
from advgrpo.storage import list_files
from advgrpo.training import feature_shards
from advgrpo.training.reference_features import ReferenceFeatures
from tests.training.conftest import World

CPU = torch.device("cpu")


@pytest.fixture
def discriminator(world: World) -> Discriminator:
    return build_discriminator(world.config().discriminator, CPU, seed=0)


def features(
    world: World,
    images: ReferenceImageSet,
    discriminator: Discriminator,
    store: Path,
    process_group: ProcessGroup | None = None,
) -> ReferenceFeatures:
    return ReferenceFeatures(
        images,
        read_prompts(str(world.prompts)),
        discriminator,
        held_out_fraction=0.3,
        store=str(store),
        process_group=process_group or ProcessGroup(),
    )


def test_features_are_those_of_the_prompts_own_image(
    world: World, discriminator: Discriminator, tmp_path: Path
) -> None:
    kept = features(world, world.reference_images, discriminator, tmp_path)
    texts = read_prompts(str(world.prompts)).texts
    for prompt_id in (0, 7, 15):
        (own,) = kept.take(torch.tensor([prompt_id]), torch.tensor([0])).values()
        image = load_images(world.reference_images, texts[prompt_id], [0])
        (expected,) = discriminator.image_features(image).values()
        torch.testing.assert_close(own, expected)


def test_features_are_cached_by_their_dependencies(
    world: World, discriminator: Discriminator, tmp_path: Path
) -> None:
    features(world, world.reference_images, discriminator, tmp_path)
    before = list_files(str(tmp_path))
    features(world, world.reference_images, discriminator, tmp_path)
    assert list_files(str(tmp_path)) == before
    fewer = world.config("discriminator.patches=4").discriminator
    other = build_discriminator(fewer, CPU, seed=0)
    features(world, world.reference_images, other, tmp_path)
    assert len(list_files(str(tmp_path))) == 2 * len(before)


def test_features_of_gpus_and_cpus_are_cached_separately(
    world: World,
    discriminator: Discriminator,
    tmp_path: Path,
) -> None:
    features(world, world.reference_images, discriminator, tmp_path)
    before = list_files(str(tmp_path))
    elsewhere = ProcessGroup()
    elsewhere.device = torch.device("meta")
    features(world, world.reference_images, discriminator, tmp_path, elsewhere)
    assert len(list_files(str(tmp_path))) == 2 * len(before)


def test_images_that_serve_any_prompt_are_drawn_from_all_that_train(
    world: World, discriminator: Discriminator, tmp_path: Path
) -> None:
    names = [name for files in world.reference_images.files.values() for name in files]
    shared = replace(world.reference_images, files={ANY_PROMPT: tuple(names)})
    texts = read_prompts(str(world.prompts)).texts
    dealt = assign_for_training(shared, texts, held_out_fraction=0.3)
    kept = features(world, dealt, discriminator, tmp_path)
    paired = features(world, world.reference_images, discriminator, tmp_path)
    assert kept.variations + len(kept.held_out_ids) * kept.held_out_variations <= len(names)
    assert set(kept.held_out_ids) <= set(paired.held_out_ids)
    drawn = kept.draw_variations(200, torch.Generator().manual_seed(0))
    assert set(drawn.tolist()) == set(range(kept.variations))
    (one, other) = (
        kept.take(torch.tensor([prompt]), torch.tensor([0]))["tokens"]
        for prompt in kept.training_ids[:2]
    )
    assert torch.equal(one, other)


def test_few_reference_images_are_in_memory_at_once(
    world: World,
    discriminator: Discriminator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[int] = []
    of_images = discriminator.image_features

    def counting(images: torch.Tensor) -> Features:
        seen.append(len(images))
        return of_images(images)

    monkeypatch.setattr(discriminator, "image_features", counting)
    monkeypatch.setattr(feature_shards, "IMAGES_AT_ONCE", 3)
    features(world, world.reference_images, discriminator, tmp_path)
    assert max(seen) == 3
    assert sum(seen) == len(read_prompts(str(world.prompts)))
