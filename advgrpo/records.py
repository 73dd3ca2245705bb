"""Records that the packages exchange; loads no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field

PEFT_WEIGHTS = "adapter_model.safetensors"
"""File with the weights of an adapter in peft's layout."""

DISCRIMINATOR_WEIGHTS = "discriminator.safetensors"
"""File with the trained part of a discriminator."""


@dataclass(frozen=True)
class PromptSet:
    """Prompts of one file; a prompt's id is its position."""

    texts: tuple[str, ...]
    digest: str
    """SHA-256 of the texts, in hexadecimal."""

    # Not compared: equal prompts from two files are equal.
    location: str = field(default="", compare=False)
    """File that they were read from, for errors."""

    file_sha256: str = field(default="", compare=False)
    """SHA-256 of the file, in hexadecimal."""

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class ReferenceImageSet:
    """A complete and validated set of reference images."""

    root: str
    """Folder of the files, or their `s3://` location."""

    files: Mapping[str, tuple[str, ...]]
    """Prompt text -> file names below `root`, in the order of their variation."""

    resolution_pixels: int
    digest: str
    """SHA-256 over prompts, file names and contents, in hexadecimal."""

    provenance: Mapping[str, object] = field(default_factory=dict)

    sha256: Mapping[str, str] = field(default_factory=dict)
    """File name -> SHA-256 of its content, in hexadecimal; the key of its cached features."""


@dataclass(frozen=True)
class Interval:
    """A mean with its bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """One metric of the base and of the trained model on the same prompts and seeds."""

    metric: str
    """`scorer.metric`, for instance `pocket_judge.all_attributes`."""

    base: Interval
    trained: Interval
    difference: Interval
    """Trained minus base, paired by prompt and seed where the metric has a value per image."""

    higher_is_better: bool | None
    """None if neither direction is better, as for plain image statistics."""

    trained_on: bool
    """Whether the run's reward was trained on this metric, so that it proves little."""

    reference: float | None = None
    """The metric of the reference images; their distance is that between two halves."""

    champion: Interval | None = None
    """The metric of the current champion; None if there was none to compare with."""

    difference_to_champion: Interval | None = None
    """Trained minus champion, paired as `difference` is."""

    related: str = ""
    """What the metric shares with a reward that was not trained on it, as text: it proves less than
    an independent one."""

    missing: str = ""
    """Which prompts have no value, and why; empty if all have one."""


@dataclass(frozen=True)
class EvaluationReport:
    """All metrics of an adapter, compared with its base."""

    comparisons: tuple[Comparison, ...]
    images: int
    """Images measured per model."""

    alignment: str
    """The metric of prompt alignment."""

    distance: str
    """The metric of the distance to the reference images."""

    champion: int | None = None
    """Version of the registered model that the champion was; None if there was none to compare
    with."""

    missing: Mapping[str, str] = field(default_factory=dict)
    """Metric that could not be measured -> reason. The key `champion` stands for all comparisons
    with a champion that could not be used."""

    def comparison(self, metric: str) -> Comparison:
        """Return the comparison of a metric.

        Raises:
            KeyError: If the metric was not measured.
        """
        # A linear search: a report has a few dozen comparisons.
        for comparison in self.comparisons:
            if comparison.metric == metric:
                return comparison
        raise KeyError(metric)


@dataclass(frozen=True)
class EvaluatedPrompt:
    """The evaluation of one prompt, as evidence for later checks."""

    prompt: str
    alignment: float
    """Mean of the trained model over all images of the prompt."""

    images: tuple[str, ...]
    """Names of PNG files of the trained model's first images."""


LIBRARIES = ("torch", "diffusers", "transformers", "peft", "safetensors")
"""Libraries whose versions decide an image's content; the lineage records them as
`version.<library>`."""

ALARM_METRIC = "watch/alarm"
"""Metric in the history of a watched training; the tag of that name holds the last alarm."""


@dataclass(frozen=True)
class Alarm:
    """An alarm of the watch for reward hacking."""

    update: int
    reason: str


@dataclass(frozen=True)
class TrainingRecord:
    """The course of a training."""

    updates: int | None = None
    """Number of updates; None if unknown."""

    alarms: tuple[Alarm, ...] | None = None
    """Alarms of the watch for reward hacking; None if it was off."""

    stopped_by_watch: bool = False
    """Whether an alarm ended training early."""


@dataclass(frozen=True)
class GateResult:
    """The result of one condition of promotion."""

    gate: str
    """The condition as text, for instance `pickscore.score at least base - 0.01`."""

    metric: str
    passed: bool
    reason: str
    """Why it passed or failed, with the numbers."""
