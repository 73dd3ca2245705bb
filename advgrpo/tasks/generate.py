"""Draw images with a trained adapter, for people to look at."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from advgrpo.config import RunConfig
from advgrpo.data.images import encode_png, image_grid
from advgrpo.errors import ConfigError
from advgrpo.policy import load_policy
from advgrpo.policy.sampling import sample_images
from advgrpo.progress import Progress
from advgrpo.storage import cache_folder, join, local_folder, write_bytes
from advgrpo.tasks.inputs import device
from advgrpo.tasks.running import TRACKING_URI

GRID_FILE = "grid.png"
_GRID_PIXELS = 128
"""Least side of an image in the grid; smaller ones are enlarged pixel by pixel."""


def generate(
    config: RunConfig,
    prompts: Sequence[str],
    *,
    adapter: str,
    images_per_prompt: int,
    seed: int,
    output: str,
) -> list[str]:
    """Draw images and a grid of them.

    Args:
        config: Names the base model, steps and guidance.
        prompts: What to draw.
        adapter: Folder, `s3://` location or `models:/name@alias`; empty draws with the base model.
        images_per_prompt: Images of each prompt.
        seed: Seed of each prompt's first image; each further one has the next.
        output: Folder or `s3://` location for `<prompt>_<image>.png` and `grid.png`.

    Returns:
        Locations of the images, prompt by prompt. Each holds prompt, seed and adapter as text.

    Raises:
        ConfigError: If a registered adapter is asked for and no MLflow server is named.
        WeightsError: If weights are missing, damaged or of another architecture.
        StorageError: If an image cannot be written.
    """
    policy = load_policy(config.policy, device(), adapter=_adapter_folder(adapter))
    wanted = [
        (number, prompt, variation)
        for number, prompt in enumerate(prompts)
        for variation in range(images_per_prompt)
    ]
    sampling, size = config.training.sampling, config.evaluation.batch_size
    progress = Progress("generating", len(wanted), "images")
    drawn: list[torch.Tensor] = []
    locations: list[str] = []
    for start in range(0, len(wanted), size):
        batch = wanted[start : start + size]
        images = sample_images(
            policy,
            [prompt for _, prompt, _ in batch],
            [seed + variation for _, _, variation in batch],
            denoising_steps=sampling.denoising_steps,
            guidance_scale=sampling.guidance_scale,
        )
        drawn.append(images.cpu())
        for (number, prompt, variation), image in zip(batch, images, strict=True):
            facts = {"prompt": prompt, "seed": str(seed + variation), "adapter": adapter or "none"}
            locations.append(join(output, f"{number:03d}_{variation}.png"))
            write_bytes(locations[-1], encode_png(image, facts))
        progress.advance(len(batch))
    images = torch.cat(drawn)
    grid = image_grid(
        images,
        columns=images_per_prompt if images_per_prompt > 1 else 4,
        labels=[prompt for _, prompt, _ in wanted],
        scale=max(1, _GRID_PIXELS // images.shape[-1]),
    )
    write_bytes(join(output, GRID_FILE), encode_png(grid))
    return locations


def registered_run(model: str) -> tuple[RunConfig, str]:
    """Read the settings of the run that a registered adapter comes from.

    Args:
        model: `models:/name@alias` or `models:/name/version`.

    Returns:
        The settings, and the version that was found, as `models:/name/version`.

    Raises:
        ConfigError: If no MLflow server is named.
        TrackingError: If there is no such version, or its files are not those that were registered.
    """
    tracking_uri = _tracking_uri(model)
    # MLflow takes seconds to load.
    from advgrpo.tracking.connection import FAULTS, connect, explained  # noqa: PLC0415
    from advgrpo.tracking.evidence import read_settings  # noqa: PLC0415
    from advgrpo.tracking.models import (  # noqa: PLC0415
        fetched_version,
        find_version,
        parsed_uri,
        uri_of,
    )

    try:
        version = find_version(connect(tracking_uri), *parsed_uri(model))
        with fetched_version(version, tracking_uri) as folder:
            return read_settings(folder), uri_of(version)
    except FAULTS as error:
        raise explained(error, f"fetch {model}", tracking_uri) from error


def _adapter_folder(adapter: str) -> Path | None:
    if not adapter:
        return None
    if not adapter.startswith("models:/"):
        return local_folder(adapter)
    tracking_uri = _tracking_uri(adapter)
    # MLflow takes seconds to load.
    from advgrpo.tracking.models import registered_adapter  # noqa: PLC0415

    key = hashlib.sha256(f"{tracking_uri} {adapter}".encode()).hexdigest()
    target = cache_folder() / "registered" / key
    return registered_adapter(adapter, target, tracking_uri=tracking_uri)


def _tracking_uri(adapter: str) -> str:
    tracking_uri = os.environ.get(TRACKING_URI)
    if not tracking_uri:
        raise ConfigError(
            f"{adapter} lies in an MLflow server, but none is named",
            repair=f"set {TRACKING_URI} to its address",
        )
    return tracking_uri
