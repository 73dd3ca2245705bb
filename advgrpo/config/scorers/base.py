"""Base of the scorers' settings: declarations that need no model, and facts about metrics."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from advgrpo.config.base import BUILT_IN_PREFIXES, Section, Weights

MetricName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


def _check_not_reserved(name: str) -> str:
    # Metrics are logged by name, so the names of built-in ones are taken.
    if name in {"discriminator", "reward", *BUILT_IN_PREFIXES}:
        raise ValueError(f"name={name} is the name of built-in metrics: use another")
    return name


ScorerName = Annotated[MetricName, AfterValidator(_check_not_reserved)]
"""First part of the names of a user's own metrics."""


@dataclass(frozen=True, kw_only=True)
class MetricFacts:
    """Description of one metric for reports and documentation."""

    label: str
    note: str
    """Short description that follows the label."""

    range: str
    unit: str
    higher_is_better: bool | None
    """None if neither direction is better."""

    source: str
    licence: str
    """Licence of the weights."""

    blind_to: str
    """Properties of images that the metric does not measure."""


class BaseScorerConfig(Section):
    """Settings of one scorer, and the facts that need no model.

    `advgrpo/models/scorers/<type>.py` holds the class that computes the metrics and the function
    `build`, which loads it from these settings. They are separate files because settings are also
    validated where torch is not installed.
    """

    type: str

    # Keys are part of the metric names in gates and stored evaluations: do not rename them.
    facts: ClassVar[Mapping[str, MetricFacts]] = {}
    """Facts of each metric; `*` stands for metrics that the user names."""

    # Subclasses assign these without an annotation, which pydantic would take as a field.
    backbone: ClassVar[Literal["clip", "dino", "unknown"] | None] = None
    """Architecture of its (first) weights; none for scorers without weights."""

    # Declared here, because validation must not load the scorer.
    needs_quoted_text: ClassVar[bool] = False
    """Whether prompts without quoted text have no value."""

    needs_reference_images: ClassVar[bool] = False
    """Whether prompts without reference images have no value."""

    only_resolution_pixels: ClassVar[int | None] = None
    """The only resolution of images that it can read; none if it reads any."""

    @property
    def metric_prefix(self) -> str:
        """First part of the names of its metrics."""
        return self.type

    @property
    def metrics_without_prefix(self) -> tuple[str, ...]:
        """Names of its metrics, as its `score` returns them."""
        # In the order of `facts`, which is that of reports.
        return tuple(self.facts)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of its metrics, as `scorer.metric`."""
        return tuple(f"{self.metric_prefix}.{name}" for name in self.metrics_without_prefix)

    @property
    def implementation(self) -> str:
        """Identifier of the code that computes it, for `config.independence`."""
        return self.type

    @property
    def all_weights(self) -> tuple[Weights, ...]:
        """Weights that its values depend on."""
        # In the order of the fields: planning takes the first as the backbone.
        values = (getattr(self, name) for name in type(self).model_fields)
        return tuple(value for value in values if isinstance(value, Weights))
