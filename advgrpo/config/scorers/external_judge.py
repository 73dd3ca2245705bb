"""A judge in another process: settings and facts."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from advgrpo.config.base import Location, PositiveFloat
from advgrpo.config.scorers.base import BaseScorerConfig, MetricFacts


class ExternalJudgeConfig(BaseScorerConfig):
    """A program that judges images; docs/scorers.md describes the protocol."""

    type: Literal["external_judge"] = "external_judge"

    # A list, not a line: no shell interprets it.
    command: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
    """The program and its arguments; each process that uses the scorer starts it once."""

    verdicts: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], ...], Field(min_length=1)
    ] = ("correct",)
    """Verdicts in each answer: a number from 0 to 1, or true or false; higher is better."""

    metadata: Location | None = None
    """JSON lines with a `prompt` each; the other keys are passed to the judge. Prompts that are not
    in the file have no value."""

    timeout_seconds: PositiveFloat = 600.0
    """Longest wait for an answer."""

    # One entry for all verdicts, whose names are known from the settings only.
    facts: ClassVar = {
        "*": MetricFacts(
            label="External judge",
            note="verdict of another program",
            range="0 to 1",
            unit="share of verdicts",
            higher_is_better=True,
            source="the judge's; for GenEval arXiv:2310.11513",
            licence="the judge's",
            blind_to="everything that the judge does not check; prompts that are not in its "
            "metadata file",
        )
    }

    @property
    def metrics_without_prefix(self) -> tuple[str, ...]:
        """Its verdicts."""
        return self.verdicts
