from pathlib import Path

import pytest
import torch

from advgrpo.data.prompts import read_prompts
from advgrpo.discriminator import build_discriminator
from advgrpo.discriminator.base import Features
from advgrpo.training import reference_features
from advgrpo.training.ranks import Ranks
from advgrpo.training.reference_features import ReferenceFeatures
from tests.training.conftest import World


def test_few_reference_images_are_in_memory_at_once(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, config = read_prompts(str(world.prompts)), world.config()
    discriminator = build_discriminator(config.discriminator, torch.device("cpu"), seed=0)
    seen: list[int] = []
    of_images = discriminator.image_features

    def counting(images: torch.Tensor) -> Features:
        seen.append(len(images))
        return of_images(images)

    monkeypatch.setattr(discriminator, "image_features", counting)

    def features(store: str) -> torch.Tensor:
        made = ReferenceFeatures(
            world.reference_images,
            prompts,
            discriminator,
            held_out_fraction=0.3,
            store=str(tmp_path / store),
            ranks=Ranks(),
        )
        ids = torch.arange(len(prompts))
        return made.take(ids, torch.zeros_like(ids))["tokens"]

    together = features("together")
    assert seen == [len(prompts)]
    seen.clear()
    monkeypatch.setattr(reference_features, "LOADED_BYTES", 3 * 3 * 32 * 32 * 4)
    torch.testing.assert_close(features("apart"), together, atol=1e-5, rtol=1e-5)
    assert max(seen) == 3
    assert sum(seen) == len(prompts)
