"""The images that `advgrpo generate` makes, and those that exist."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from advgrpo.config.tasks import GenerationSettings
from advgrpo.data.picture_files import decode_picture
from advgrpo.errors import ConfigError
from advgrpo.storage.files import list_files, read_bytes
from advgrpo.storage.locations import join

BASE = "base"
_UNCOMPARED = "adapter"
"""Metadata key that may differ: one adapter has several names, and its hash is compared instead."""


@dataclass(frozen=True)
class PlannedImage:
    """An image to generate."""

    name: str
    prompt: str
    seed: int
    is_base: bool
    """Whether to generate it without the adapter."""


@dataclass(frozen=True)
class GenerationPlan:
    """All images of a run, with everything that they depend on."""

    config: GenerationSettings
    """Settings, with the shape of the adapter."""

    prompts: tuple[str, ...]
    images_per_prompt: int
    seed: int
    """Seed of the first image of each prompt; the others have the following seeds."""

    model_content: str
    """Digest of the base model's weights; empty for a hub, whose revision identifies them."""

    adapter: str
    """Location as given by the user; empty for the base model."""

    adapter_folder: str
    """Local folder of the adapter."""

    adapter_sha256: str
    compare: bool
    """Whether to generate each image with the base model, too."""

    batch_size: int
    output: str
    embeddings: str = ""
    """Location of the prompts' embeddings; empty until they are encoded."""

    def images(self, *, is_base: bool) -> list[PlannedImage]:
        """Return the images of one model, one prompt after the other."""
        # Without a comparison, the base model's images are the only ones and keep the plain name.
        suffix = f"_{BASE}" if is_base and self.compare else ""
        return [
            PlannedImage(f"{number:03d}_{variation}{suffix}.png", prompt, seed, is_base)
            for number, prompt in enumerate(self.prompts)
            for variation, seed in enumerate(range(self.seed, self.seed + self.images_per_prompt))
        ]

    def batches(self) -> list[list[PlannedImage]]:
        """Return all images in batches, which do not depend on what exists already.

        A resumed run must use the batches of the first one: the last bits of an image depend on
        the rest of its batch.
        """
        models = (True, False) if self.compare else (not self.adapter,)
        return [
            images[start : start + self.batch_size]
            for images in (self.images(is_base=is_base) for is_base in models)
            for start in range(0, len(images), self.batch_size)
        ]

    def metadata(self, image: PlannedImage) -> dict[str, str]:
        """Return everything that an image depends on, for its file's metadata."""
        policy, sampling = self.config.policy, self.config.sampling
        weights = policy.weights
        revision = f"@{weights.revision}" if weights.revision else ""
        metadata = {
            "prompt": image.prompt,
            "seed": str(image.seed),
            "model": f"{join(weights.location, weights.subfolder)}{revision}",
            "adapter": "none" if image.is_base else self.adapter,
            "num_inference_steps": str(sampling.num_inference_steps),
            "guidance_scale": f"{sampling.guidance_scale:g}",
            "max_sequence_length": str(policy.max_sequence_length),
            "text_dtype": policy.text_dtype,
            "decode_dtype": policy.decode_dtype,
            "resolution_pixels": str(policy.resolution_pixels),
            "forward_dtype": policy.forward_dtype,
        }
        if policy.quantization != "none":
            metadata["quantization"] = policy.quantization
        if self.model_content:
            metadata["model_content"] = self.model_content
        # The hash, because a folder or an alias may hold another adapter by the next run.
        own = {"adapter_sha256": self.adapter_sha256, "adapter_dtype": policy.adapter_dtype}
        return metadata if image.is_base else metadata | own


def remaining_batches(plan: GenerationPlan) -> list[int]:
    """Return the positions of the batches that an earlier run did not complete.

    Raises:
        ConfigError: If another file has the name of an image.
        StorageError: If the output location cannot be read.
    """
    present = set(list_files(plan.output))
    remaining = []
    for position, batch in enumerate(plan.batches()):
        existing = [image for image in batch if image.name in present]
        for image in existing:
            _check_existing(plan, image)
        # The whole batch is sampled again, so that the images are those of an uninterrupted run.
        if len(existing) < len(batch):
            remaining.append(position)
    return remaining


def _check_existing(plan: GenerationPlan, image: PlannedImage) -> None:
    location = join(plan.output, image.name)
    expected = plan.metadata(image)
    actual = read_metadata(location)
    changed = [
        f"{key} is {actual.get(key)!r}, not {expected.get(key)!r}"
        # Keys of both: a file with further metadata was not written by this plan.
        for key in dict.fromkeys([*expected, *actual])
        if key != _UNCOMPARED and actual.get(key) != expected.get(key)
    ]
    if changed:
        raise ConfigError(
            f"--output: {location} exists and is another image: {changed[0]}",
            repair="choose another --output, or delete the images in this one; nothing is "
            "overwritten",
        )


def read_metadata(location: str) -> dict[str, str]:
    """Return the text metadata of an image file.

    Raises:
        ConfigError: If it is not a readable image.
        StorageError: If it cannot be fetched.
    """
    try:
        picture = decode_picture(read_bytes(location))
    except ValueError as error:
        raise ConfigError(
            f"--output: {location} exists and {error}",
            repair="delete it, or choose another --output; nothing is overwritten",
        ) from error
    return {str(key): str(value) for key, value in picture.info.items()}


def count_images(plan: GenerationPlan, positions: Collection[int] | None = None) -> int:
    """Return the number of images in some batches, or in all."""
    batches: Sequence[list[PlannedImage]] = plan.batches()
    chosen = range(len(batches)) if positions is None else positions
    return sum(len(batches[position]) for position in chosen)
