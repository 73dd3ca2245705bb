"""What the parts hand to each other: frozen records, typed with shapes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class PromptSet:
    """Prompts of one file. A prompt's id is its position in it."""

    texts: tuple[str, ...]
    digest: str
    """SHA-256 of the texts, in hexadecimal."""

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class PromptEmbeddings:
    """What the policy knows of prompts."""

    context: Float[Tensor, "prompt token width"]
    pooled: Float[Tensor, "prompt pooled_width"]


@dataclass(frozen=True)
class ReferenceImageSet:
    """Reference images on a local disk, complete and validated.

    The folder holds `manifest.json` (prompt text -> list of file names), the files, and, for sets
    that we made, `provenance.json`.
    """

    root: Path
    files: Mapping[str, tuple[str, ...]]
    """Prompt text -> file names below `root`, in the order of their variation."""

    resolution_pixels: int
    digest: str
    """SHA-256 over prompts, file names and contents, in hexadecimal."""

    provenance: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Rollout:
    """This rank's share of what one update generated; the leading axis is the image."""

    update: int
    prompt_ids: Int[Tensor, "batch"]
    """Position of each image's prompt in the training prompts."""

    samples: Int[Tensor, "batch"]
    """Position of each image in its group."""

    latents: Float[Tensor, "batch step_plus_one channel latent_height latent_width"]
    """Latents before each trained denoising step, and after the last one; float32."""

    log_probs: Float[Tensor, "batch step"]
    """Log-probability of each trained denoising step, from the stored latents."""

    window_start: int
    """First trained denoising step."""

    images: Float[Tensor, "batch 3 height width"]
    """RGB in [0, 1]."""


@dataclass(frozen=True)
class Interval:
    """A mean with its bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """One measure of the base and of the trained model on the same prompts and seeds."""

    measure: str
    """As `scorer.measure`, for instance `pocket_judge.all_attributes`."""

    base: Interval
    trained: Interval
    difference: Interval
    """Trained minus base, paired by prompt and seed where the measure has a value per image."""

    higher_is_better: bool | None
    """None if neither direction is better, as of plain image statistics."""

    trained_on: bool
    """Whether the run's reward was trained on this measure, so that it proves little."""

    reference: float | None = None
    """The same measure of the reference images; their distance is that between two halves."""


@dataclass(frozen=True)
class EvaluationReport:
    """What an adapter was measured to be."""

    comparisons: tuple[Comparison, ...]
    images: int
    """Images measured per model."""

    alignment: str
    """The measure that stands for prompt alignment."""

    distance: str
    """The measure that stands for distance to the reference images."""

    def comparison(self, measure: str) -> Comparison:
        """Find a measure by name.

        Raises:
            KeyError: If it was not measured.
        """
        for comparison in self.comparisons:
            if comparison.measure == measure:
                return comparison
        raise KeyError(measure)
