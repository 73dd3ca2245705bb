from pathlib import Path

import pytest
import torch

from advgrpo.config import PickScoreDiscriminatorConfig, Weights
from advgrpo.errors import ConfigError, WeightsError
from advgrpo.models.discriminators import (
    PickScoreDiscriminator,
    build_discriminator,
    load_discriminator,
    save_discriminator,
)
from advgrpo.models.scorers.pickscore import PickScore
from advgrpo.testing import TinyModels, write_tiny_models
from advgrpo.training.discriminator_update import separation_metrics

CPU = torch.device("cpu")
PROMPTS = ["a small red circle on a white background left", "a large blue ring"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    return write_tiny_models(tmp_path_factory.mktemp("tiny"))


def discriminator_of(
    tiny: TinyModels, device: torch.device = CPU, **settings: object
) -> PickScoreDiscriminator:
    weights = {"location": str(tiny.pickscore)}
    config = PickScoreDiscriminatorConfig.model_validate({"weights": weights, **settings})
    made = build_discriminator(config, device, seed=0)
    assert isinstance(made, PickScoreDiscriminator)
    return made


def images(count: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def features(
    discriminator: PickScoreDiscriminator, pictures: torch.Tensor, prompts: list[str]
) -> dict[str, torch.Tensor]:
    return discriminator.with_prompts(discriminator.image_features(pictures), prompts)


@pytest.mark.parametrize("trained_blocks", [1, 2])
def test_before_training_the_reward_is_the_frozen_score(
    tiny: TinyModels, trained_blocks: int
) -> None:
    discriminator = discriminator_of(tiny, trained_blocks=trained_blocks)
    frozen = PickScore(Weights(location=str(tiny.pickscore)), CPU)
    reward = discriminator.rewards(features(discriminator, images(), PROMPTS))
    torch.testing.assert_close(reward, frozen.score(images(), PROMPTS)["score"])


def test_only_the_last_blocks_are_trained(tiny: TinyModels) -> None:
    discriminator = discriminator_of(tiny)
    trained = discriminator.trainable_parameters()
    assert {name.split(".")[0] for name in trained} == {"0"}
    real, fake = (features(discriminator, images(seed=seed), PROMPTS) for seed in (0, 1))
    discriminator.loss(real, fake, real).backward()
    assert all(p.grad is not None and p.dtype == torch.float32 for p in trained.values())
    ours = {id(p) for p in trained.values()}
    everything = [*discriminator._clip._model.parameters(), *discriminator._tail.parameters()]
    assert not any(p.requires_grad or p.grad is not None for p in everything if id(p) not in ours)


def test_training_makes_it_prefer_reference_images(tiny: TinyModels) -> None:
    discriminator = discriminator_of(tiny)
    prompts = PROMPTS * 4
    real, fake = (features(discriminator, images(8, seed), prompts) for seed in (0, 1))
    optimizer = torch.optim.Adam(discriminator.trainable_parameters().values(), lr=1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        discriminator.loss(real, fake, real).backward()
        optimizer.step()
    assert (discriminator.rewards(real) > discriminator.rewards(fake)).all()
    metrics = separation_metrics(discriminator, real, fake)
    assert metrics["discriminator/margin"] > 0
    assert metrics["discriminator/separation"] == 1
    assert "discriminator/calibration_error" not in metrics


def test_without_a_boundary_accuracy_is_the_share_of_pairs_in_order(tiny: TinyModels) -> None:
    discriminator = discriminator_of(tiny)
    real = features(discriminator, images(8), PROMPTS * 4)
    # Of an image against itself neither is preferred, of the other pairs one half each way.
    metrics = separation_metrics(discriminator, real, real)
    assert metrics["discriminator/held_out_accuracy"] == pytest.approx(28 / 64)
    assert metrics["discriminator/separation"] == 0


def test_bfloat16_features_change_the_reward_little_and_the_fingerprint(tiny: TinyModels) -> None:
    full, half = discriminator_of(tiny), discriminator_of(tiny, feature_dtype="bfloat16")
    assert features(half, images(), PROMPTS)["tokens"].dtype == torch.bfloat16
    one, other = (d.rewards(features(d, images(), PROMPTS)) for d in (full, half))
    torch.testing.assert_close(one, other, atol=5e-3, rtol=5e-3)
    assert full.fingerprint != half.fingerprint


def test_a_saved_discriminator_rewards_as_before_and_another_is_refused(
    tiny: TinyModels, tmp_path: Path
) -> None:
    saved = discriminator_of(tiny)
    with torch.no_grad():
        for parameter in saved.trainable_parameters().values():
            parameter.add_(0.01)
    save_discriminator(tmp_path, saved, {"accuracy": 1.0})
    loaded = discriminator_of(tiny)
    load_discriminator(tmp_path, loaded)
    one, other = (d.rewards(features(d, images(), PROMPTS)) for d in (saved, loaded))
    assert torch.equal(one, other)
    with pytest.raises(WeightsError, match="another text encoder or other settings"):
        load_discriminator(tmp_path, discriminator_of(tiny, trained_blocks=2))


def test_more_blocks_than_there_are_are_refused(tiny: TinyModels) -> None:
    with pytest.raises(ConfigError, match=r"trained_blocks=9: the model has 2"):
        discriminator_of(tiny, trained_blocks=9)


def test_it_rewards_and_trains_on_a_gpu(tiny: TinyModels, gpu: torch.device) -> None:
    discriminator = discriminator_of(tiny, gpu)
    found = features(discriminator, images().to(gpu), PROMPTS)
    discriminator.loss(found, found, found).backward()
    assert discriminator.rewards(found).device == gpu
    assert {p.grad.device for p in discriminator.trainable_parameters().values()} == {gpu}
