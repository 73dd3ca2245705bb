"""Features of the reference images: computed once, kept on disk, read through the page cache."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Int
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from advgrpo.data.reference_images import load_images
from advgrpo.data.sampler import split_prompts
from advgrpo.discriminator.base import Discriminator
from advgrpo.progress import Progress
from advgrpo.records import PromptSet, ReferenceImageSet
from advgrpo.training.ranks import Ranks

PROMPTS_PER_SHARD = 256


class ReferenceFeatures:
    """Features of `variations` reference images of each training prompt.

    Args:
        images: The reference images.
        prompts: The training prompts; rows are in their order.
        discriminator: Whose features; its fingerprint is part of the cache's key.
        held_out_fraction: Share of prompts whose reference images only measure.
        cache: Folder for features, kept from run to run.
        ranks: The training processes; each computes some shards, and all read all.
    """

    def __init__(
        self,
        images: ReferenceImageSet,
        prompts: PromptSet,
        discriminator: Discriminator,
        *,
        held_out_fraction: float,
        cache: Path,
        ranks: Ranks,
    ) -> None:
        self.variations = len(images.files[prompts.texts[0]])
        split = split_prompts(prompts.texts, held_out_fraction)
        self.held_out_ids, self.training_ids = split.held_out, split.training
        self._training = torch.tensor(self.training_ids)
        key = f"{images.digest}:{prompts.digest}:{discriminator.fingerprint}"
        folder = cache / "features" / hashlib.sha256(key.encode()).hexdigest()
        folder.mkdir(parents=True, exist_ok=True)
        starts = range(0, len(prompts), PROMPTS_PER_SHARD)
        paths = [folder / f"features-{start:08d}.safetensors" for start in starts]
        missing = [path for path in paths[ranks.rank :: ranks.count] if not path.is_file()]
        progress = Progress("reference features", len(missing), "shards") if missing else None
        for start, path in zip(starts, paths, strict=True):
            if path in missing and progress is not None:
                texts = prompts.texts[start : start + PROMPTS_PER_SHARD]
                _write_shard(path, images, texts, discriminator, self.variations)
                progress.advance()
        ranks.wait()
        # Memory-mapped: a rank touches only the rows that it takes.
        files = [safe_open(path, framework="pt", device="cpu") for path in paths]
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
    path: Path,
    images: ReferenceImageSet,
    texts: Sequence[str],
    discriminator: Discriminator,
    variations: int,
) -> None:
    loaded = torch.cat([load_images(images, text, range(variations)) for text in texts])
    features = discriminator.image_features(loaded)
    # Another process may write the same shard; whoever is last replaces it by equal bytes.
    partial = path.with_suffix(f".{os.getpid()}.partial")
    save_file({name: value.cpu().contiguous() for name, value in features.items()}, partial)
    partial.replace(path)
