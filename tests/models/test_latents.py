"""The trained VAE of the pocket world encodes reference drawings."""

import pytest
import torch
from diffusers import StableDiffusion3Img2ImgPipeline

from advgrpo.algorithm.randomness import gaussian_noise
from advgrpo.algorithm.sde import follow_ode
from advgrpo.config import resolve
from advgrpo.data.prompts import read_prompts
from advgrpo.models.policies import Policy, load_policy
from advgrpo.pocket.source import PocketRenderer
from advgrpo.storage.fetch import local_folder
from tests.models.policies.plain import encode_with_diffusers

CONFIG = resolve("pocket")
PROMPTS = read_prompts(str(CONFIG.prompts.test)).texts[::40]
SEEDS = list(range(len(PROMPTS)))


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load_policy(CONFIG.policy, torch.device("cpu"))


@pytest.fixture(scope="module")
def drawings() -> torch.Tensor:
    return PocketRenderer().draw(PROMPTS, SEEDS)


def test_drawings_are_encoded_as_by_the_plain_image_to_image_pipeline(
    policy: Policy, drawings: torch.Tensor
) -> None:
    folder = local_folder(CONFIG.policy.weights)
    plain = StableDiffusion3Img2ImgPipeline.from_pretrained(folder)
    latents = policy.encode(drawings)
    assert latents.shape == (len(PROMPTS), *policy.latent_shape)
    torch.testing.assert_close(latents, encode_with_diffusers(plain, drawings))


def test_a_drawing_comes_back_close_to_itself(policy: Policy, drawings: torch.Tensor) -> None:
    error = policy.decode(policy.encode(drawings)) - drawings
    # The VAE was trained to a peak signal-to-noise ratio of 33 dB, an error of 0.0225.
    assert error.square().mean().sqrt() < 0.025
    # Latents with a wrong shift lose a few details only, but shift the brightness.
    assert error.mean().abs() < 1 / 255


def test_latents_of_the_policys_images_come_back_close_to_themselves(policy: Policy) -> None:
    embeddings = policy.embed(PROMPTS)
    with torch.no_grad():
        latents = follow_ode(
            lambda latents, sigma: policy.velocity(latents, sigma, embeddings, guidance_scale=2.5),
            gaussian_noise(SEEDS, policy.latent_shape),
            policy.sigmas(10).tolist(),
        )
    error = policy.encode(policy.decode(latents)) - latents
    # What remains is detail that an image in 8 bits does not hold; latents have a std of 1.3.
    assert error.square().mean().sqrt() < 0.11
    # Neither shifted nor scaled.
    assert error.mean().abs() < 0.01
    slope = (error * latents).mean() / latents.square().mean()
    assert slope.abs() < 0.05
