"""A scorer class of another installed package: settings."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from advgrpo.config.scorers.base import BaseScorerConfig, MetricName, ScorerName


class PythonScorerConfig(BaseScorerConfig):
    """A scorer class of another installed package; docs/scorers.md shows one."""

    type: Literal["python"] = "python"

    # Only the form is checked: settings are also validated where the package is not installed.
    path: Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$")]
    """The class, as `package.module:Class`. It is imported when the scorer is built, so the package
    must be installed in the images that train and evaluate."""

    name: ScorerName
    """First part of its metrics' names: `name.metric`."""

    metrics: Annotated[tuple[MetricName, ...], Field(min_length=1)] = ("score",)
    """Keys of the mapping that its `score` returns; higher is better."""

    # JSON values only: tasks receive their settings as JSON.
    options: dict[str, JsonValue] = Field(default_factory=dict)
    """Keyword arguments of the class, in addition to `device`."""

    # Unlike None, which counts as no memory: the plan lists the scorer as not included.
    backbone = "unknown"

    @property
    def metric_prefix(self) -> str:
        """The name that the user chose."""
        return self.name

    @property
    def metrics_without_prefix(self) -> tuple[str, ...]:
        """The names that the user chose."""
        return self.metrics

    @property
    def implementation(self) -> str:
        """The import path: two names of one class are one scorer."""
        return self.path
