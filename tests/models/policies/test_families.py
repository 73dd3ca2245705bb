"""Each family draws and encodes what its own pipelines of diffusers draw and encode.

With `FAMILY_GRIDS=FOLDER` in the environment, the pictures of both are written, for a reader.
"""

import json
import os
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline

from advgrpo.algorithm.randomness import gaussian_noise
from advgrpo.config.policy import SamplingConfig
from advgrpo.data.contact_sheet import Band, contact_sheet
from advgrpo.data.images import to_pil
from advgrpo.errors import ConfigError, WeightsError
from advgrpo.models.policies import Policy, load_policy
from advgrpo.models.policies.adapter import save_adapter
from advgrpo.models.policies.embeddings import StoredEmbeddings
from advgrpo.models.policies.encoding import encode_prompts, unconditional_prompt
from advgrpo.models.policies.loading import check_policy, policy_class
from advgrpo.models.policies.sampling import sample_images
from advgrpo.testing import TinyModels
from tests.models.policies.families import FAMILIES, Family
from tests.models.policies.plain import encode_with_diffusers, samples_and_trains

pytestmark = pytest.mark.usefixtures("loaded_once")

CPU = torch.device("cpu")
LONG = "a very small red ring on a white background left of a large blue square, " * 3
PROMPTS = ["a cat", LONG, ""]
SEEDS = [1, 2, 3]
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.name)
def family(request: pytest.FixtureRequest) -> Family:
    found: Family = request.param
    return found


@pytest.fixture(scope="module")
def folder(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return family.save(tmp_path_factory.mktemp(family.name))


@pytest.fixture(scope="module")
def plain(family: Family, folder: Path) -> DiffusionPipeline:
    return type(family.build()).from_pretrained(folder)


def draw(policy: Policy, guidance_scale: float) -> torch.Tensor:
    return sample_images(
        policy, PROMPTS, SEEDS, num_inference_steps=3, guidance_scale=guidance_scale
    )


def trained(policy: Policy) -> Policy:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in policy.trainable_parameters().values():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return policy


def write_grid(path: Path, ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Write a contact sheet of a short, a long and an empty prompt."""
    rows = [[to_pil(image) for image in images.clamp(0, 1)] for images in (ours, theirs)]
    captions = ["a cat", "a long prompt", "no prompt"]
    contact_sheet([Band(rows, captions, row_labels=["policy", "pipeline"])]).save(path)


@pytest.mark.parametrize("is_guided", [False, True])
@pytest.mark.parametrize("pixels", [16, 24])
def test_images_are_those_of_the_plain_pipeline(
    family: Family, folder: Path, plain: DiffusionPipeline, pixels: int, is_guided: bool
) -> None:
    policy = load_policy(family.settings(folder, pixels), CPU)
    scale = family.guided if is_guided else family.unguided
    theirs = family.draw(plain, PROMPTS, gaussian_noise(SEEDS, policy.latent_shape), scale)
    ours = draw(policy, scale)
    if grids := os.environ.get("FAMILY_GRIDS"):
        write_grid(Path(grids) / f"{family.name}-{pixels}-{scale:g}.png", ours, theirs)
    assert ours.shape == (3, 3, pixels, pixels)
    # Ours are rounded to 8 bits.
    torch.testing.assert_close(ours, theirs, atol=0.5 / 255 + 1e-4, rtol=0)


def test_images_are_encoded_as_by_the_plain_image_to_image_pipeline(
    family: Family, folder: Path, plain: DiffusionPipeline
) -> None:
    policy = load_policy(family.settings(folder, decode_batch_size=2), CPU)
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    batches: list[int] = []
    policy.vae.encoder.register_forward_hook(lambda _, inputs, __: batches.append(len(inputs[0])))
    ours = policy.encode(images.clone().requires_grad_())
    assert batches == [2, 1]
    assert ours.shape == (3, *policy.latent_shape)
    assert not ours.requires_grad
    theirs = encode_with_diffusers(family.image_to_image.from_pipe(plain), images)
    torch.testing.assert_close(ours, theirs)


def test_prompts_and_guidance_change_images(family: Family, folder: Path) -> None:
    policy = load_policy(family.settings(folder), CPU)
    same = sample_images(
        policy, PROMPTS, [1] * 3, num_inference_steps=3, guidance_scale=family.guided
    )
    assert all((same[i] - same[j]).abs().max() > 2 / 255 for i, j in ((0, 1), (0, 2), (1, 2)))
    guided, unguided = draw(policy, family.guided), draw(policy, family.unguided)
    assert (guided - unguided).abs().max() > 2 / 255


def test_two_passes_and_stored_embeddings_give_the_same_images(
    family: Family, folder: Path, tmp_path: Path
) -> None:
    config = family.settings(folder, guidance="two_passes")
    texts = [unconditional_prompt(config), *PROMPTS]
    stored = StoredEmbeddings(encode_prompts(config, texts, store=str(tmp_path)), texts)
    theirs = draw(load_policy(family.settings(folder), CPU), family.guided)
    ours = draw(load_policy(config, CPU, embeddings=stored), family.guided)
    torch.testing.assert_close(ours, theirs, atol=1.5 / 255, rtol=0)


def test_the_settings_know_how_many_passes_guidance_takes(family: Family, folder: Path) -> None:
    policy = load_policy(family.settings(folder, guidance="two_passes"), CPU)
    embeddings, noise = policy.embed(PROMPTS), gaussian_noise(SEEDS, policy.latent_shape)
    calls: list[object] = []
    policy.transformer.register_forward_hook(lambda *_: calls.append(None))
    for scale in (family.unguided, family.guided):
        calls.clear()
        with torch.no_grad():
            policy.velocity(noise, 0.5, embeddings, guidance_scale=scale)
        assert len(calls) == policy.config.guidance_passes(scale)


def test_a_saved_adapter_draws_the_same_images_in_the_plain_pipeline(
    family: Family, folder: Path, tmp_path: Path
) -> None:
    fresh = load_policy(family.settings(folder), CPU)
    base = draw(fresh, family.guided)
    policy = trained(fresh)
    save_adapter(tmp_path, policy.trainable_parameters(), policy.config.adapter)
    ours = draw(policy, family.guided)
    assert (ours - base).abs().max() > 2 / 255

    plain = type(family.build()).from_pretrained(folder)
    plain.load_lora_weights(tmp_path)
    noise = gaussian_noise(SEEDS, policy.latent_shape)
    theirs = family.draw(plain, PROMPTS, noise, family.guided)
    torch.testing.assert_close(ours, theirs, atol=0.5 / 255 + 1e-3, rtol=0)

    again = load_policy(family.settings(folder), CPU, tmp_path)
    assert torch.equal(draw(again, family.guided), ours)


def test_every_named_module_is_adapted(family: Family, folder: Path) -> None:
    policy = load_policy(family.settings(folder), CPU)
    adapted = {name.rpartition(".lora_")[0] for name in policy.trainable_parameters()}
    for name in policy.config.adapter.target_modules:
        assert any(module.endswith(f".{name}") for module in adapted), name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rollout_and_update_predict_the_same_bits(family: Family, folder: Path, dtype: str) -> None:
    config = family.settings(folder, forward_dtype=dtype, gradient_checkpointing=True)
    policy = trained(load_policy(config, CPU))
    embeddings, latents = policy.embed(PROMPTS), gaussian_noise(SEEDS, policy.latent_shape)
    with torch.no_grad():
        rollout = policy.velocity(latents, 0.7, embeddings, guidance_scale=family.guided)
    update = policy.velocity(latents, 0.7, embeddings, guidance_scale=family.guided)
    assert torch.equal(rollout, update)
    assert rollout.dtype == torch.float32
    update.square().mean().backward()
    parameters = policy.trainable_parameters().values()
    gradients = [each.grad for each in parameters if each.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    # Of a last layer that discards its text, some parameters have no effect.
    assert sum(bool(gradient.any()) for gradient in gradients) > len(parameters) / 2


def test_weights_of_another_family_are_refused_with_the_family(
    family: Family, folder: Path
) -> None:
    other = next(each for each in FAMILIES if each.name != family.name)
    with pytest.raises(WeightsError, match=r"holds a \w+Pipeline, not a \w+Pipeline") as caught:
        load_policy(other.settings(folder), CPU)
    assert "policy.type" in caught.value.repair


def test_an_adapter_of_another_family_is_refused_before_weights_are_loaded(
    family: Family, tmp_path: Path, tiny: TinyModels
) -> None:
    other = next(each for each in FAMILIES if each.name == "flux1")
    configs = [tiny.config().policy]
    # Its single blocks end like the double ones of others.
    configs += [] if family is other else [other.settings(other.save(tmp_path / "other"))]
    copy = family.save(tmp_path / "weights")
    (copy / WEIGHTS).unlink()
    for config in configs:
        policy = load_policy(config, CPU)
        save_adapter(tmp_path / "adapter", policy.trainable_parameters(), config.adapter)
        with pytest.raises(WeightsError, match="for another base model"):
            check_policy(family.settings(copy), SamplingConfig(), tmp_path / "adapter")


def test_a_resolution_that_tokens_cannot_tile_is_refused(family: Family, folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"resolution_pixels=18: is not a multiple of the 4"):
        load_policy(family.settings(folder, 18), CPU)


def test_a_text_encoder_of_another_size_is_refused_before_weights_are_loaded(
    family: Family, tmp_path: Path
) -> None:
    folder = family.save(tmp_path)
    parts = policy_class(family.settings(folder)).parts
    assert parts is not None
    for part, (setting, _) in parts.widths.items():
        path = folder / "transformer" / "config.json"
        before = path.read_text("utf-8")
        settings = json.loads(before)
        path.write_text(json.dumps({**settings, setting: 2 * settings[setting]}), "utf-8")
        (folder / WEIGHTS).unlink(missing_ok=True)
        width = settings[setting]
        with pytest.raises(WeightsError, match=f"{part} in .* of width {width}, .* {2 * width}"):
            check_policy(family.settings(folder), SamplingConfig(guidance_scale=1), None)
        path.write_text(before, "utf-8")
        check_policy(family.settings(folder), SamplingConfig(guidance_scale=1), None)


@pytest.mark.parametrize(
    ("name", "file", "key", "value"),
    [
        ("flux1", "transformer/config.json", "guidance_embeds", False),
        ("flux2_klein", "model_index.json", "is_distilled", True),
    ],
)
def test_guidance_of_a_model_without_is_refused_before_weights_are_loaded(
    tmp_path: Path, name: str, file: str, key: str, value: bool
) -> None:
    family = next(each for each in FAMILIES if each.name == name)
    folder = family.save(tmp_path)
    settings = json.loads((folder / file).read_text("utf-8"))
    (folder / file).write_text(json.dumps({**settings, key: value}), "utf-8")
    (folder / WEIGHTS).unlink()
    config = family.settings(folder)
    with pytest.raises(ConfigError, match=r"guidance_scale=3: .* has no guidance") as caught:
        check_policy(config, SamplingConfig(guidance_scale=3), None)
    assert "set it to 1" in caught.value.repair
    check_policy(config, SamplingConfig(guidance_scale=1), None)


def test_a_schedule_that_the_scheduler_cannot_give_is_refused(tmp_path: Path) -> None:
    family = next(each for each in FAMILIES if each.name == "qwen_image")
    policy = load_policy(family.settings(family.save(tmp_path)), CPU)
    assert policy.sigmas(2).tolist()[0] == 1
    with pytest.raises(ConfigError, match="num_inference_steps=1"):
        policy.sigmas(1)


def test_a_family_samples_and_trains_on_a_gpu_in_bfloat16(
    family: Family, folder: Path, gpu: torch.device
) -> None:
    dtypes = {"forward_dtype": "bfloat16", "decode_dtype": "bfloat16"}
    config = family.settings(folder, **dtypes, gradient_checkpointing=True)
    samples_and_trains(load_policy(config, gpu), family.guided)
