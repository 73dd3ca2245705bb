"""Features of the reference images: computed once, read through the page cache."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from jaxtyping import Int
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from advgrpo.data.reference_images import load_images
from advgrpo.data.splits import split_prompts
from advgrpo.discriminator.base import Discriminator, concatenate
from advgrpo.progress import Progress
from advgrpo.records import PromptSet, ReferenceImageSet
from advgrpo.storage import join, list_files, local_folder, storage_for
from advgrpo.training.ranks import Ranks

PROMPTS_PER_SHARD = 256

LOADED_BYTES = 2**28
"""Most memory for reference images that are on their way to the discriminator."""


class ReferenceFeatures:
    """Features of `variations` reference images of each training prompt.

    Args:
        images: The reference images.
        prompts: The training prompts; rows are in their order.
        discriminator: Whose features; its fingerprint is part of the cache's key.
        held_out_fraction: Share of prompts whose reference images only measure.
        store: Local folder or `s3://` location for features, kept from run to run.
        ranks: The training processes; each computes some shards, and all read all.
    """

    def __init__(
        self,
        images: ReferenceImageSet,
        prompts: PromptSet,
        discriminator: Discriminator,
        *,
        held_out_fraction: float,
        store: str,
        ranks: Ranks,
    ) -> None:
        self.variations = len(images.files[prompts.texts[0]])
        split = split_prompts(prompts.texts, held_out_fraction)
        self.held_out_ids, self.training_ids = split.held_out, split.training
        self._training = torch.tensor(self.training_ids)
        key = f"{images.digest}:{prompts.digest}:{discriminator.fingerprint}"
        location = join(store, hashlib.sha256(key.encode()).hexdigest())
        starts = range(0, len(prompts), PROMPTS_PER_SHARD)
        names = {f"features-{start:08d}.safetensors": start for start in starts}
        there = set(list_files(location))
        missing = [name for name in list(names)[ranks.rank :: ranks.count] if name not in there]
        if missing:
            progress = Progress("reference features", len(missing), "shards")
            for name in missing:
                texts = prompts.texts[names[name] : names[name] + PROMPTS_PER_SHARD]
                _write_shard(join(location, name), images, texts, discriminator, self.variations)
                progress.advance()
        ranks.wait()
        folder = local_folder(location)
        # Memory-mapped: a rank touches only the rows that it takes.
        files = [safe_open(folder / name, framework="pt", device="cpu") for name in names]
        self._shards = [
            {name: file.get_tensor(name) for name in list(file.keys())} for file in files
        ]

    def take(
        self, prompt_ids: Int[Tensor, "batch"], variations: Int[Tensor, "batch"]
    ) -> dict[str, Tensor]:
        """Read features of chosen images, without prompts.

        Args:
            prompt_ids: Positions in the training prompts.
            variations: Which of each prompt's reference images.
        """
        names = self._shards[0].keys()
        pairs = list(zip(prompt_ids.tolist(), variations.tolist(), strict=True))
        return {name: torch.stack([self._row(name, *pair) for pair in pairs]) for name in names}

    def _row(self, name: str, prompt_id: int, variation: int) -> Tensor:
        shard, place = divmod(prompt_id, PROMPTS_PER_SHARD)
        row: Tensor = self._shards[shard][name][place * self.variations + variation]
        return row

    def draw_variations(self, count: int, generator: torch.Generator) -> Int[Tensor, "batch"]:
        """Draw which reference image of a prompt is taken."""
        return torch.randint(self.variations, (count,), generator=generator)

    def other_prompts(
        self, prompt_ids: Int[Tensor, "batch"], generator: torch.Generator
    ) -> Int[Tensor, "batch"]:
        """Draw for each prompt a training prompt that is another one."""
        drawn = self._training[
            torch.randint(len(self._training), prompt_ids.shape, generator=generator)
        ]
        following = self._training.roll(-1)[torch.searchsorted(self._training, drawn)]
        return torch.where(drawn == prompt_ids, following, drawn)


def _write_shard(
    location: str,
    images: ReferenceImageSet,
    texts: Sequence[str],
    discriminator: Discriminator,
    variations: int,
) -> None:
    pixels = 3 * images.resolution_pixels**2 * torch.float32.itemsize * variations
    at_once = max(1, LOADED_BYTES // pixels)
    parts = []
    for first in range(0, len(texts), at_once):
        chosen = texts[first : first + at_once]
        loaded = torch.cat([load_images(images, text, range(variations)) for text in chosen])
        parts.append(discriminator.image_features(loaded))
    features = concatenate(parts)
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "shard"
        save_file({name: value.cpu().contiguous() for name, value in features.items()}, path)
        # Another run may write the same shard; whoever is last replaces it by equal values.
        storage_for(location).upload_file(path, location)
