"""Heads on each kind of backbone, on one layer and on several."""

from pathlib import Path

import pytest
import torch

from advgrpo.config import DinoDiscriminatorConfig
from advgrpo.errors import ConfigError, WeightsError
from advgrpo.models.discriminators import (
    DinoDiscriminator,
    build_discriminator,
    load_discriminator,
    save_discriminator,
)
from advgrpo.testing import TINY_BACKBONES, write_tiny_backbone
from advgrpo.training.discriminator_update import separation_metrics

CPU = torch.device("cpu")
PROMPTS = ["a"] * 8


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("backbones")
    return {kind: write_tiny_backbone(root, kind) for kind in TINY_BACKBONES}


def discriminator_on(
    folder: Path, *, seed: int = 0, device: torch.device = CPU, **settings: object
) -> DinoDiscriminator:
    config = DinoDiscriminatorConfig.model_validate(
        {
            "weights": {"location": str(folder)},
            "resolution_pixels": 32,
            "hidden_width": 16,
            "patches": 8,
            **settings,
        }
    )
    made = build_discriminator(config, device, seed=seed)
    assert isinstance(made, DinoDiscriminator)
    return made


def features(
    discriminator: DinoDiscriminator, seed: int, brightness: float
) -> dict[str, torch.Tensor]:
    noise = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    device = next(iter(discriminator.trainable_parameters().values())).device
    images = discriminator.image_features((noise * 0.5 + brightness).to(device))
    return discriminator.with_prompts(images, PROMPTS)


def trained(discriminator: DinoDiscriminator, steps: int = 40) -> DinoDiscriminator:
    real, fake = features(discriminator, 1, 0.0), features(discriminator, 2, 0.5)
    optimizer = torch.optim.Adam(discriminator.trainable_parameters().values(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        discriminator.loss(real, fake, real).backward()
        optimizer.step()
    return discriminator


@pytest.mark.parametrize("layers", [None, [1, 3]], ids=["last", "two"])
@pytest.mark.parametrize("kind", sorted(TINY_BACKBONES))
def test_heads_on_each_backbone_learn_to_classify_unseen_images(
    folders: dict[str, Path], kind: str, layers: list[int] | None
) -> None:
    discriminator = trained(discriminator_on(folders[kind], layers=layers))
    unseen = [features(discriminator, 3, 0.0), features(discriminator, 4, 0.5)]
    assert separation_metrics(discriminator, *unseen)["discriminator/held_out_accuracy"] == 1.0
    for parameter in discriminator.trainable_parameters().values():
        assert parameter.dtype == torch.float32
        assert parameter.grad is not None
    backbone = discriminator._backbone._model
    assert not any(p.requires_grad or p.grad is not None for p in backbone.parameters())


def test_the_reward_of_several_layers_is_the_mean_of_their_heads(
    folders: dict[str, Path],
) -> None:
    discriminator = trained(discriminator_on(folders["dinov2"], layers=[1, 3]), steps=4)
    given = features(discriminator, 3, 0.2)
    together = discriminator.rewards(given)
    each = []
    for name, head in discriminator._heads.items():
        logits = head(given[name]).squeeze(-1)
        each.append(0.7 * logits[:, 0] + 0.3 * logits[:, 1:].mean(dim=1))
    torch.testing.assert_close(together, (each[0] + each[1]) / 2)
    assert not torch.allclose(each[0], each[1])


def test_the_last_layer_gives_the_same_as_no_layers(folders: dict[str, Path]) -> None:
    named, unnamed = (discriminator_on(folders["dinov2"], layers=k) for k in ([3], None))
    one, other = features(named, 3, 0.2), features(unnamed, 3, 0.2)
    assert torch.equal(one["layer_3"], other["tokens"])
    assert named.fingerprint != unnamed.fingerprint


def test_heads_of_several_layers_are_saved_and_do_not_load_for_other_layers(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    saved = trained(discriminator_on(folders["siglip"], layers=[1, 3]), steps=2)
    save_discriminator(tmp_path, saved, {})
    loaded = discriminator_on(folders["siglip"], seed=9, layers=[1, 3])
    load_discriminator(tmp_path, loaded)
    given = features(saved, 3, 0.2)
    assert torch.equal(saved.rewards(given), loaded.rewards(given))
    with pytest.raises(WeightsError, match="another text encoder or other settings"):
        load_discriminator(tmp_path, discriminator_on(folders["siglip"], layers=[1, 2]))


def test_a_gradient_penalty_flattens_the_heads(folders: dict[str, Path]) -> None:
    plain = discriminator_on(folders["dinov3_vit"], layers=[2, 3])
    flat = discriminator_on(folders["dinov3_vit"], layers=[2, 3], gradient_penalty_weight=1.0)
    real, fake = features(plain, 1, 0.0), features(plain, 2, 0.5)
    assert flat.loss(real, fake, real) > plain.loss(real, fake, real)
    steepness = [
        float(trained(one)._penalty("layer_2", features(one, 1, 0.0)).detach())
        for one in (plain, flat)
    ]
    assert steepness[1] < 0.5 * steepness[0]


def test_a_layer_beyond_the_last_is_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match=r"layer 4 does not exist, the backbone has 3"):
        discriminator_on(folders["dinov2"], layers=[1, 4])


@pytest.mark.parametrize("kind", sorted(TINY_BACKBONES))
def test_each_backbone_rewards_and_trains_its_heads_on_a_gpu(
    folders: dict[str, Path], kind: str, gpu: torch.device
) -> None:
    discriminator = trained(discriminator_on(folders[kind], device=gpu), steps=1)
    assert discriminator.rewards(features(discriminator, 3, 0.0)).device == gpu
