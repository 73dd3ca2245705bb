"""Generation and scoring of images in this process."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from advgrpo.config.base import Section
from advgrpo.config.parsing import parse
from advgrpo.config.run import RunConfig
from advgrpo.config.scorers.union import ScorerConfig
from advgrpo.config.tasks import GenerationSettings
from advgrpo.data.images import from_pil, to_pil
from advgrpo.data.picture_files import as_shown
from advgrpo.errors import ConfigError
from advgrpo.models.policies.base import Policy
from advgrpo.models.policies.loading import load_policy
from advgrpo.models.policies.sampling import sample_images
from advgrpo.models.scorers.base import score_images as score_batch
from advgrpo.models.scorers.build import build_scorers
from advgrpo.runtime.devices import device as default_device
from advgrpo.tasks.adapters import fetch_adapter
from advgrpo.tasks.generate import registered_run, with_adapter_shape


class ImageGenerator:
    """A base model with an adapter, which generates images from prompts and seeds.

    Args:
        config: Settings of the base model and of sampling.
        policy: The loaded model; `load_generator` loads it.
    """

    def __init__(self, config: GenerationSettings, policy: Policy) -> None:
        self.config, self.policy = config, policy

    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        seeds: int | Sequence[int] = 0,
        base_model: bool = False,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
    ) -> list[Image.Image]:
        """Generate one image per prompt.

        Images are sampled one by one, so that each depends on its prompt and seed alone.

        Args:
            prompts: One or several prompts.
            seeds: Seed of all images, or one per prompt.
            base_model: Whether to leave out the adapter.
            num_inference_steps: Steps from noise to image. Default: those of training.
            guidance_scale: Weight of classifier-free guidance; 1 switches it off. Default: that of
                training.

        Returns:
            RGB pictures, in the order of the prompts.

        Raises:
            ValueError: If the number of seeds differs from that of the prompts.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        seeds = [seeds] * len(prompts) if isinstance(seeds, int) else list(seeds)
        sampling = self.config.sampling
        steps = sampling.num_inference_steps if num_inference_steps is None else num_inference_steps
        scale = sampling.guidance_scale if guidance_scale is None else guidance_scale
        images = []
        with self.policy.base_policy() if base_model else nullcontext():
            for prompt, seed in zip(prompts, seeds, strict=True):
                sampled = sample_images(
                    self.policy, [prompt], [seed], num_inference_steps=steps, guidance_scale=scale
                )
                images.append(to_pil(sampled[0].cpu()))
        return images


def load_generator(
    config: RunConfig | None = None,
    *,
    adapter: str = "",
    model: str = "",
    device: str | torch.device | None = None,
) -> ImageGenerator:
    """Load a base model, and an adapter on it.

    Args:
        config: Settings of the base model. Default: those of the registered model.
        adapter: Folder, `s3://` location, `hub://owner/name/folder@COMMIT` or `models:/name@alias`.
            Default: the base model alone.
        model: A registered model, `models:/name@alias`, with the settings that it was trained with;
            instead of `config` and `adapter`.
        device: Default: the GPU if there is one.

    Raises:
        ConfigError: If neither or both of `config` and `model` are given.
        WeightsError: If weights are missing, damaged or of another architecture.
    """
    if (config is None) == (not model) or (model and adapter):
        raise ConfigError(
            "a generator needs either settings or a registered model",
            repair="pass config, with or without adapter, or model alone",
        )
    if config is None:
        settings, adapter = registered_run(model)
    else:
        settings = GenerationSettings.of(config)
    folder = fetch_adapter(adapter) if adapter else None
    settings = with_adapter_shape(settings, folder)
    where = default_device() if device is None else torch.device(device)
    return ImageGenerator(settings, load_policy(settings.policy, where, folder))


def score_images(
    images: Sequence[Image.Image],
    prompts: Sequence[str],
    scorer: Mapping[str, Any],
    *,
    device: str | torch.device | None = None,
) -> dict[str, list[float]]:
    """Score images with a frozen scorer.

    Args:
        images: RGB pictures of one size.
        prompts: One per image.
        scorer: Settings as in `evaluation.scorers`, for instance `{"type": "pocket_judge"}`;
            docs/scorers.md lists all types.
        device: Default: the GPU if there is one.

    Returns:
        One value per image, higher is better, for each metric, named `scorer.metric`. NaN marks
        prompts for which the scorer has no value.

    Raises:
        ConfigError: If there is not one prompt per image, or the scorer's settings are wrong.
    """
    if len(images) != len(prompts):
        raise ConfigError(
            f"{len(images)} images have {len(prompts)} prompts", repair="pass one prompt per image"
        )
    settings = parse(_Scoring, {"scorer": scorer}, where="score_images").scorer
    where = default_device() if device is None else torch.device(device)
    (built,) = build_scorers([settings], where)
    batch = torch.stack([_from_file(image) for image in images]).to(where)
    return {name: value.tolist() for name, value in score_batch(built, batch, prompts).items()}


class _Scoring(Section):
    scorer: ScorerConfig


def _from_file(image: Image.Image) -> Tensor:
    # A picture that was opened from a file has the pixels as stored, and its EXIF data and profile.
    return from_pil(as_shown(image).picture if image.mode == "RGB" else image)
