"""Prompts, and the images that a stronger model draws for them."""

from typing import Annotated, Literal

from pydantic import Field

from advgrpo.config.base import (
    Location,
    NonNegativeFloat,
    PositiveInt,
    Section,
    Sha256,
    Weights,
)

FileFormat = Literal["png", "webp"]


class PromptsConfig(Section):
    """Prompt files: UTF-8 text, one prompt a line, no prompt twice."""

    train: Location
    """Prompts to train on."""

    test: Location
    """Prompts to measure on, for instance PartiPrompts or DrawBench as `advgrpo prompts import`
    writes them; none of them may be in the training file."""

    train_sha256: Sha256 | None = None
    """SHA-256 of the file `train`; with it, a file that was changed is refused. Set it from the
    start: it is one of the settings that name the saved state of a run."""

    test_sha256: Sha256 | None = None
    """SHA-256 of the file `test`, likewise."""


class PocketSource(Section):
    """The renderer of the pocket world."""

    type: Literal["pocket"] = "pocket"


class PromptSuffixes(Section):
    """Text added to a prompt when it is drawn, by its language; no manifest has it."""

    en: str = ""
    """Added to a prompt without CJK ideographs."""

    zh: str = ""
    """Added to a prompt that has at least one CJK ideograph."""


class DiffusersSource(Section):
    """Any text-to-image pipeline of diffusers."""

    type: Literal["diffusers"] = "diffusers"

    weights: Weights
    """The pipeline in diffusers' layout."""

    num_inference_steps: PositiveInt = 50
    """Steps from noise to image."""

    guidance_scale: NonNegativeFloat = 4.0
    """Value of the pipeline's guidance argument."""

    guidance_argument: Literal["guidance_scale", "true_cfg_scale"] = "guidance_scale"
    """Name of the pipeline's guidance argument; Qwen-Image has `true_cfg_scale`."""

    negative_prompt: str | None = " "
    """What the images should not show."""

    prompt_suffixes: PromptSuffixes = PromptSuffixes()

    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Precision of the pipeline."""


class FolderSource(Section):
    """A folder of pictures in one style, each of which serves any prompt: to learn the style."""

    type: Literal["folder"] = "folder"

    location: Location
    """Folder of PNG, JPEG and WebP files; those in folders below it count too."""

    fit: Literal["exact", "crop"]
    """What becomes of a picture that is not `resolution_pixels` squared: `exact` refuses it; `crop`
    takes the largest square from its middle and makes that smaller (bicubic, antialiased). Pictures
    are never made larger: one that is too small is refused."""

    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the pictures that only the evaluation measures against. Of the others,
    `discriminator.held_out_fraction` never trains."""


Source = Annotated[PocketSource | DiffusersSource | FolderSource, Field(discriminator="type")]


class ReferenceImagesConfig(Section):
    """Reference images: made by a source, or an existing set."""

    source: Source
    """What draws them."""

    existing: Location | None = None
    """Location of an existing set, a folder or `s3://` location: its images are checked and used
    where they lie, instead of drawing. Its manifest is `manifest.json` or all `prompt2img*.json`
    there."""

    existing_manifests: tuple[Location, ...] = ()
    """Manifests of the existing set, if they lie elsewhere or only some count. A prompt that
    several list has the images of all."""

    existing_test: Location | None = None
    """Location of an existing set for the test prompts, likewise. Without it they are looked for in
    `existing`, and drawn if it has none of them."""

    images_per_prompt: PositiveInt = 8
    """Reference images of each training prompt; a folder's images belong to no prompt."""

    test_images_per_prompt: PositiveInt = 4
    """Reference images of each test prompt; they are only measured against."""

    resolution_pixels: PositiveInt = 512
    """Height and width."""

    batch_size: PositiveInt = 8
    """Images drawn at once."""

    file_format: FileFormat = "png"
    """Format of drawn images, lossless either way; WebP is smaller."""

    @property
    def serve_any_prompt(self) -> bool:
        """Whether the images belong to no prompt."""
        return isinstance(self.source, FolderSource)

    @property
    def of_each_prompt(self) -> int | None:
        """Reference images of each training prompt; None if they serve any prompt."""
        return None if self.serve_any_prompt else self.images_per_prompt

    @property
    def of_each_test_prompt(self) -> int | None:
        """Reference images of each test prompt; None if they serve any prompt."""
        return None if self.serve_any_prompt else self.test_images_per_prompt
