"""A judge behind an HTTP endpoint: settings."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, JsonValue, model_validator

from advgrpo.config.base import NonNegativeInt, PositiveFloat, PositiveInt, Section
from advgrpo.config.scorers.base import BaseScorerConfig, MetricName, ScorerName

QUESTION = (
    "Rate how well this picture matches the following prompt, and how good it is as a picture. "
    "Prompt: {prompt}\nAnswer with one number from 0 (worst) to {highest} (best), and nothing else."
)


class ChatConfig(Section):
    """A vision-language model behind the chat completions API of OpenAI, as vLLM serves it."""

    model: Annotated[str, Field(min_length=1)]
    """Name of the model on the server."""

    question: str = QUESTION
    """Text after the picture. `{prompt}` is the image's prompt, `{highest}` the highest rating."""

    highest: PositiveInt = 10
    """Highest rating; the metric is the rating divided by it."""

    options: dict[str, JsonValue] = Field(default={"temperature": 0, "max_tokens": 16})
    """Further fields of each request."""

    @model_validator(mode="after")
    def _check_question(self) -> Self:
        try:
            self.question.format(prompt="", highest=self.highest)
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(
                f"question cannot be filled in: {error!r}; write other braces twice"
            ) from error
        if "{prompt}" not in self.question:
            raise ValueError("question has no {prompt}, so the judge would not know the prompt")
        return self


class HttpScorerConfig(BaseScorerConfig):
    """A judge behind an HTTP endpoint; docs/scorers.md describes the protocols."""

    type: Literal["http"] = "http"

    url: Annotated[str, Field(pattern=r"^https?://[^@\s]+$")]
    """Address that images are posted to; with `chat`, for instance
    `http://judge:8000/v1/chat/completions`."""

    name: ScorerName
    """First part of its metrics' names: `name.metric`."""

    metrics: Annotated[tuple[MetricName, ...], Field(min_length=1)] = ("score",)
    """Metrics in each answer; higher is better. With `chat`, one."""

    chat: ChatConfig | None = None
    """Settings of a vision-language model; null for the protocol of docs/scorers.md."""

    batch_size: PositiveInt = 8
    """Images per request; with `chat`, always one."""

    concurrent_requests: PositiveInt = 8
    """Requests at once, of each process that uses the scorer."""

    timeout_seconds: PositiveFloat = 120.0
    """Longest wait for an answer."""

    retries: NonNegativeInt = 4
    """Further attempts after a failed connection, the statuses 408, 429, 500, 502, 503 and 504, or
    an answer without a rating. The waits double from 1 s; `Retry-After` is respected."""

    # The key itself would be stored with the settings.
    api_key_variable: Annotated[str, Field(pattern=r"^([A-Za-z_][A-Za-z0-9_]*_(KEY|TOKEN))?$")] = ""
    """Environment variable with the key, sent as a bearer token; empty for none. Its name must end
    with `_KEY` or `_TOKEN`, so that its value is redacted from all output."""

    # Unlike None, which counts as no memory: the plan lists the scorer as not included.
    backbone: ClassVar = "unknown"

    @model_validator(mode="after")
    def _check_chat(self) -> Self:
        if self.chat is not None and len(self.metrics) > 1:
            raise ValueError("metrics must be one with chat: a rating is one number")
        return self

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
        """Address and model: two names of one judge are one scorer."""
        return f"{self.url} {self.chat.model if self.chat else ''}".strip()
