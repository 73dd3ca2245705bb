import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from advgrpo.errors import ConfigError, WeightsError
from advgrpo.models.discriminators import DinoDiscriminator, load_discriminator, save_discriminator
from advgrpo.testing import TinyModels, write_tiny_models

CPU = torch.device("cpu")
PROMPTS = [
    "a small red circle on a white background center",
    "a large blue ring on a tan background",
]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    return write_tiny_models(tmp_path_factory.mktemp("models"))


def discriminator_of(tiny: TinyModels, *overrides: str, seed: int = 0) -> DinoDiscriminator:
    return DinoDiscriminator(tiny.config(*overrides).discriminator, CPU, seed=seed)


def images(count: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def rewards(
    discriminator: DinoDiscriminator, pictures: torch.Tensor, prompts: list[str]
) -> torch.Tensor:
    features = discriminator.image_features(pictures)
    return discriminator.rewards(discriminator.with_prompts(features, prompts))


def test_the_reward_of_an_image_is_always_the_same(tiny: TinyModels) -> None:
    one = rewards(discriminator_of(tiny), images(), PROMPTS)
    torch.manual_seed(123)  # a draw from the global generator would now differ
    assert torch.equal(rewards(discriminator_of(tiny), images(), PROMPTS), one)


def test_only_the_head_is_trainable(tiny: TinyModels) -> None:
    discriminator = discriminator_of(tiny)
    head = {id(p) for p in discriminator.trainable_parameters().values()}
    frozen = [discriminator._backbone._model]
    assert discriminator._text is not None
    frozen.append(discriminator._text._model)
    assert all(not p.requires_grad for model in frozen for p in model.parameters())
    loss = discriminator.loss(
        *(
            discriminator.with_prompts(discriminator.image_features(images(seed=s)), PROMPTS)
            for s in (0, 1, 2)
        )
    )
    loss.backward()
    assert all(p.grad is not None for p in discriminator.trainable_parameters().values())
    assert len(head) == 5


@pytest.mark.parametrize("normalization", ["none", "l2"])
def test_training_raises_exactly_the_logits_that_are_the_reward(
    tiny: TinyModels, normalization: str
) -> None:
    # If loss and reward took different paths, training would not order the rewards.
    discriminator = discriminator_of(tiny, f"discriminator.token_normalization={normalization}")
    real, fake = images(8, seed=1) * 0.5, images(8, seed=2) * 0.5 + 0.5
    prompts = PROMPTS * 4
    features = [
        discriminator.with_prompts(discriminator.image_features(pictures), prompts)
        for pictures in (real, fake, real)
    ]
    features[2] = discriminator.with_prompts(features[2], prompts[::-1])
    optimizer = torch.optim.Adam(discriminator.trainable_parameters().values(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        discriminator.loss(*features).backward()
        optimizer.step()
    assert rewards(discriminator, real, prompts).min() > rewards(discriminator, fake, prompts).max()


def test_a_head_that_sees_prompts_learns_which_image_belongs_to_which(tiny: TinyModels) -> None:
    discriminator = discriminator_of(
        tiny, "discriminator.prompt_conditioning.mismatched_fraction=1.0"
    )
    pictures = images(2, seed=1)
    own = discriminator.with_prompts(discriminator.image_features(pictures), PROMPTS)
    other = discriminator.with_prompts(own, PROMPTS[::-1])
    optimizer = torch.optim.Adam(discriminator.trainable_parameters().values(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        discriminator.loss(own, own, other).backward()
        optimizer.step()
    assert (discriminator.rewards(own) > discriminator.rewards(other)).all()


def test_without_conditioning_the_prompt_does_not_matter(tiny: TinyModels) -> None:
    discriminator = discriminator_of(tiny, "discriminator.prompt_conditioning=null")
    one, other = (rewards(discriminator, images(), p) for p in (PROMPTS, PROMPTS[::-1]))
    assert torch.equal(one, other)


def test_features_do_not_depend_on_the_batch(tiny: TinyModels) -> None:
    discriminator = discriminator_of(tiny)
    together = discriminator.image_features(images(6))["tokens"]
    alone = discriminator.image_features(images(6)[3:4])["tokens"]
    torch.testing.assert_close(together[3:4], alone, atol=1e-5, rtol=1e-5)


def test_more_patches_than_there_are_are_refused(tiny: TinyModels) -> None:
    with pytest.raises(ConfigError, match=r"discriminator.patches=1000"):
        discriminator_of(tiny, "discriminator.patches=1000")


def test_a_saved_discriminator_rewards_as_before(tiny: TinyModels, tmp_path: Path) -> None:
    saved = discriminator_of(tiny, seed=3)
    save_discriminator(tmp_path, saved, {"accuracy": 1.0})
    loaded = discriminator_of(tiny, seed=4)
    assert not torch.equal(rewards(loaded, images(), PROMPTS), rewards(saved, images(), PROMPTS))
    load_discriminator(tmp_path, loaded)
    assert torch.equal(rewards(loaded, images(), PROMPTS), rewards(saved, images(), PROMPTS))


@pytest.mark.parametrize(
    "override",
    [
        "discriminator.hidden_width=16",
        "discriminator.patches=4",
        "discriminator.prompt_conditioning=null",
    ],
)
def test_a_discriminator_of_other_settings_is_refused(
    tiny: TinyModels, tmp_path: Path, override: str
) -> None:
    save_discriminator(tmp_path, discriminator_of(tiny), {})
    with pytest.raises(WeightsError, match="other settings"):
        load_discriminator(tmp_path, discriminator_of(tiny, override))


def test_a_discriminator_trained_with_another_text_encoder_is_refused(
    tiny: TinyModels, tmp_path: Path
) -> None:
    saved = discriminator_of(tiny)
    save_discriminator(tmp_path / "saved", saved, {})
    section = "discriminator.prompt_conditioning.text_encoder"
    folder = Path(shutil.copytree(tiny.pipeline / "text_encoder", tmp_path / "text_encoder"))
    copied = discriminator_of(tiny, f"{section}={{location: '{folder}'}}")
    load_discriminator(tmp_path / "saved", copied)
    path = folder / "model.safetensors"
    save_file({k: v + 0.01 for k, v in load_file(path).items()}, path, metadata={"format": "pt"})
    other = discriminator_of(tiny, f"{section}={{location: '{folder}'}}")
    with pytest.raises(WeightsError, match="another text encoder"):
        load_discriminator(tmp_path / "saved", other)
    # Features of images do not depend on it: their store is kept.
    assert other.fingerprint == saved.fingerprint


def test_a_damaged_discriminator_is_refused(tiny: TinyModels, tmp_path: Path) -> None:
    save_discriminator(tmp_path, discriminator_of(tiny), {})
    path = tmp_path / "discriminator.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(WeightsError, match="does not hold a discriminator"):
        load_discriminator(tmp_path, discriminator_of(tiny))
