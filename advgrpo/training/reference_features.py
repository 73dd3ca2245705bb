"""Features of the reference images, cached from run to run."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from advgrpo.data.images import read_image
from advgrpo.data.splits import split_prompts
from advgrpo.errors import ReferenceImageError
from advgrpo.models.discriminators.base import Discriminator, Features
from advgrpo.records import PromptSet, ReferenceImageSet
from advgrpo.runtime.process_group import ProcessGroup
from advgrpo.storage.locations import join
from advgrpo.training.feature_shards import FeatureShards

FEATURES = "features"
"""Folder of a workspace that holds features of reference images."""


class ReferenceFeatures:
    """Features of the reference images of each training prompt.

    Args:
        images: The reference images, of at least the prompts that are drawn; a held-out prompt
            without any is omitted.
        prompts: The training prompts.
        discriminator: Computes the features; its fingerprint is part of the cache's key.
        held_out_fraction: Share of prompts whose reference images are used for metrics only.
        store: Local folder or `s3://` location for features, kept from run to run.
        process_group: The training processes; each computes some shards, and all read all.

    Attributes:
        held_out_ids: Positions of the held-out prompts.
        training_ids: Positions of the training prompts.
        variations: Reference images of each training prompt.
        held_out_variations: Reference images of each held-out prompt.
    """

    def __init__(
        self,
        images: ReferenceImageSet,
        prompts: PromptSet,
        discriminator: Discriminator,
        *,
        held_out_fraction: float,
        store: str,
        process_group: ProcessGroup,
    ) -> None:
        split = split_prompts(prompts.texts, held_out_fraction)
        self._files = [images.files.get(text, ()) for text in prompts.texts]
        self._sha256, self._resolution = images.sha256, images.resolution_pixels
        self.training_ids = split.training
        # A set of images that serves any prompt has too few for all held-out prompts.
        self.held_out_ids = tuple(i for i in split.held_out if self._files[i])
        # All training prompts with images have the same number, as the validation guarantees.
        self.variations = max(len(self._files[i]) for i in self.training_ids)
        self.held_out_variations = max((len(self._files[i]) for i in self.held_out_ids), default=0)
        self._training = torch.tensor(self.training_ids)
        # A set first: prompts may share one tuple of thousands of files.
        names = {name for files in set(self._files) for name in files}
        # Keyed by content: equal files under several names pass the backbone once.
        locations = {images.sha256[name]: join(str(images.root), name) for name in names}
        self._locations = locations

        def featurize(batch: Sequence[str]) -> Features:
            return discriminator.image_features(self._read(batch))

        # A GPU computes other last bits than a CPU, and a cache must return what it computed.
        folder = discriminator.fingerprint
        if process_group.device.type != "cpu":
            folder += f"-{process_group.device.type}"
        self._shards = FeatureShards(locations, featurize, join(store, folder), process_group)

    def require(self, prompt_ids: Sequence[int]) -> None:
        """Check that prompts have reference images.

        Raises:
            ReferenceImageError: If one has none.
        """
        if without := [i for i in prompt_ids if not self._files[i]]:
            raise ReferenceImageError(
                f"{len(without)} prompts have no reference images, for instance number "
                f"{without[0]}: more than a tenth of the rollouts were skipped",
                repair="read the warnings about values that are NaN or infinite, and remove their "
                "cause; then start the run from the reference images on",
            )

    def take(
        self, prompt_ids: Int[Tensor, "batch"], variations: Int[Tensor, "batch"]
    ) -> dict[str, Tensor]:
        """Read features of chosen images, without prompts.

        Args:
            prompt_ids: Positions in the training prompts.
            variations: Which of each prompt's reference images.
        """
        pairs = zip(prompt_ids.tolist(), variations.tolist(), strict=True)
        return self._shards.take([self._sha256[self._files[p][v]] for p, v in pairs])

    def images(
        self, prompt_ids: Sequence[int], variations: Sequence[int]
    ) -> Float[Tensor, "batch 3 height width"]:
        """Read chosen images, RGB in [0, 1].

        Args:
            prompt_ids: Positions in the training prompts.
            variations: Which of each prompt's reference images; they start over after the last.
        """
        files = [self._files[p] for p in prompt_ids]
        chosen = [each[v % len(each)] for each, v in zip(files, variations, strict=True)]
        return self._read([self._sha256[file] for file in chosen])

    def _read(self, images: Sequence[str]) -> Float[Tensor, "batch 3 height width"]:
        return torch.stack([read_image(self._locations[i], self._resolution) for i in images])

    def draw_variations(self, count: int, generator: torch.Generator) -> Int[Tensor, "batch"]:
        """Draw the numbers of reference images of training prompts."""
        return torch.randint(self.variations, (count,), generator=generator)

    def other_prompts(
        self, prompt_ids: Int[Tensor, "batch"], generator: torch.Generator
    ) -> Int[Tensor, "batch"]:
        """Draw for each prompt another training prompt."""
        drawn = self._training[
            torch.randint(len(self._training), prompt_ids.shape, generator=generator)
        ]
        # A prompt that drew itself takes the next one: rejecting the draw would advance the
        # generator by a count that depends on the draws. searchsorted needs training_ids to be
        # sorted, and they are.
        following = self._training.roll(-1)[torch.searchsorted(self._training, drawn)]
        return torch.where(drawn == prompt_ids, following, drawn)
