"""What `advgrpo generate` is to draw, and what of it is there already."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

from advgrpo.config import RunConfig
from advgrpo.config.tasks import parse_json
from advgrpo.data.images import decode_picture
from advgrpo.errors import ConfigError
from advgrpo.storage import join, list_files, read_bytes

BASE = "base"
_UNCOMPARED = "adapter"
"""An adapter may be named in several ways; its hash tells whether it is the same."""


@dataclass(frozen=True)
class PlannedImage:
    """One image that is to be drawn."""

    name: str
    prompt: str
    seed: int
    is_base: bool
    """Whether the base model draws it, without the adapter."""


@dataclass(frozen=True)
class GenerationPlan:
    """What is to be drawn, by what, and where to."""

    settings: str
    """`RunConfig` as JSON, with the shape of the adapter."""

    prompts: tuple[str, ...]
    images_per_prompt: int
    seed: int
    """Of each prompt's first image; each further one has the next."""

    model_content: str
    """What `content_of` says of the base model; empty if it is a hub's."""

    adapter: str
    """As the user names it; empty for the base model."""

    adapter_folder: str
    """Where it lies on the local disk."""

    adapter_sha256: str
    compare: bool
    """Whether the base model draws each image, too."""

    batch_size: int
    output: str
    embeddings: str = ""
    """Where the embeddings of the prompts lie, once they are there."""

    @cached_property
    def config(self) -> RunConfig:
        """The settings."""
        return parse_json(RunConfig, self.settings, where="the settings")

    def images(self, *, is_base: bool) -> list[PlannedImage]:
        """List the images of one model, prompt by prompt."""
        suffix = f"_{BASE}" if is_base and self.compare else ""
        return [
            PlannedImage(f"{number:03d}_{variation}{suffix}.png", prompt, seed, is_base)
            for number, prompt in enumerate(self.prompts)
            for variation, seed in enumerate(range(self.seed, self.seed + self.images_per_prompt))
        ]

    def batches(self) -> list[list[PlannedImage]]:
        """Group all images by what is drawn at once; the order alone decides."""
        models = (True, False) if self.compare else (not self.adapter,)
        return [
            images[start : start + self.batch_size]
            for images in (self.images(is_base=is_base) for is_base in models)
            for start in range(0, len(images), self.batch_size)
        ]

    def facts(self, image: PlannedImage) -> dict[str, str]:
        """Give all that an image depends on, to be kept in its file."""
        policy, sampling = self.config.policy, self.config.training.sampling
        weights = policy.weights
        revision = f"@{weights.revision}" if weights.revision else ""
        facts = {
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
        if self.model_content:
            facts["model_content"] = self.model_content
        return facts if image.is_base else {**facts, "adapter_sha256": self.adapter_sha256}


def batches_left(order: GenerationPlan) -> list[int]:
    """Find what an earlier run with the same order did not come to.

    Returns:
        Positions of the batches of which an image is missing.

    Raises:
        ConfigError: If there is another image, or something else, in the place of one.
        StorageError: If the place cannot be read.
    """
    present = set(list_files(order.output))
    left = []
    for position, batch in enumerate(order.batches()):
        there = [image for image in batch if image.name in present]
        for image in there:
            _refuse_another(order, image)
        if len(there) < len(batch):
            left.append(position)
    return left


def _refuse_another(order: GenerationPlan, image: PlannedImage) -> None:
    location = join(order.output, image.name)
    expected = order.facts(image)
    found = image_facts(location)
    changed = [
        f"{key} is {found.get(key)!r}, not {expected.get(key)!r}"
        for key in dict.fromkeys([*expected, *found])
        if key != _UNCOMPARED and found.get(key) != expected.get(key)
    ]
    if changed:
        raise ConfigError(
            f"--output: {location} is there already and is another image: {changed[0]}",
            repair="name another folder, or delete what is in this one; nothing is overwritten",
        )


def image_facts(location: str) -> dict[str, str]:
    """Read the texts in an image file.

    Raises:
        ConfigError: If it is no image that can be read.
        StorageError: If it cannot be fetched.
    """
    try:
        picture = decode_picture(read_bytes(location))
    except ValueError as error:
        raise ConfigError(
            f"--output: {location} is there already and {error}",
            repair="delete it, or name another folder; nothing is overwritten",
        ) from error
    return {str(key): str(value) for key, value in picture.info.items()}


def count_images(order: GenerationPlan, positions: Collection[int] | None = None) -> int:
    """Count the images of some batches, or of all."""
    batches: Sequence[list[PlannedImage]] = order.batches()
    chosen = range(len(batches)) if positions is None else positions
    return sum(len(batches[position]) for position in chosen)
