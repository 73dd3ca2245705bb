"""What the parts hand to each other; needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class PromptSet:
    """Prompts of one file. A prompt's id is its position in it."""

    texts: tuple[str, ...]
    digest: str
    """SHA-256 of the texts, in hexadecimal."""

    location: str = field(default="", compare=False)
    """File that they were read from, for errors."""

    file_sha256: str = field(default="", compare=False)
    """SHA-256 of the file, in hexadecimal."""

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class ReferenceImageSet:
    """Reference images, complete and validated."""

    root: str
    """Folder of the files, or their `s3://` location."""

    files: Mapping[str, tuple[str, ...]]
    """Prompt text -> file names below `root`, in the order of their variation."""

    resolution_pixels: int
    digest: str
    """SHA-256 over prompts, file names and contents, in hexadecimal."""

    provenance: Mapping[str, object] = field(default_factory=dict)

    sha256: Mapping[str, str] = field(default_factory=dict)
    """File name -> SHA-256 of its content, in hexadecimal; features are kept by it."""


@dataclass(frozen=True)
class Interval:
    """A mean with its bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """One measure of the base and of the trained model on the same prompts and seeds."""

    metric: str
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

    champion: Interval | None = None
    """The same measure of the current champion; None if there was none to compare with."""

    difference_to_champion: Interval | None = None
    """Trained minus champion, paired as `difference` is."""

    related: str = ""
    """What the measure shares with the reward, in words, though the reward was not trained on it:
    it proves less than an independent one."""

    missing: str = ""
    """Which prompts have no value, and why, in words; empty if all have one."""


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

    champion: int | None = None
    """Version of the registered model that the champion was; None if there was none to compare
    with."""

    missing: Mapping[str, str] = field(default_factory=dict)
    """What could not be measured -> why, in words. `champion` stands for every comparison with a
    champion that there is but that could not be used."""

    def comparison(self, metric: str) -> Comparison:
        """Find a measure by name.

        Raises:
            KeyError: If it was not measured.
        """
        for comparison in self.comparisons:
            if comparison.metric == metric:
                return comparison
        raise KeyError(metric)


@dataclass(frozen=True)
class EvaluatedPrompt:
    """What an evaluation found of one prompt, so that it can be checked later."""

    prompt: str
    alignment: float
    """Of the trained model: the mean over all images of the prompt."""

    images: tuple[str, ...]
    """Names of PNG files of the trained model's first images."""


LIBRARIES = ("torch", "diffusers", "transformers", "peft", "safetensors")
"""What must be as it was in training for a served image to be the same; the lineage names them as
`version.<library>`."""

ALARM_METRIC = "watch/alarm"
"""Stands in the history of a training that was watched; a tag of that name tells the last alarm."""


@dataclass(frozen=True)
class Alarm:
    """What the watch for reward hacking found in training."""

    update: int
    reason: str
    """In words."""


@dataclass(frozen=True)
class TrainingRecord:
    """How a training went."""

    updates: int | None = None
    """Updates that were made; None if nobody counted."""

    alarms: tuple[Alarm, ...] | None = None
    """What the watch for reward hacking found; None if nobody watched."""

    stopped_by_watch: bool = False
    """Whether an alarm ended training early."""


@dataclass(frozen=True)
class GateResult:
    """Whether an evaluation met one condition of promotion."""

    gate: str
    """The condition in words, for instance `pickscore.score at least base - 0.01`."""

    metric: str
    passed: bool
    reason: str
    """Why it passed or failed, in words with the figures."""
