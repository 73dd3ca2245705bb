"""A judge behind an HTTP endpoint."""

import base64
import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any

import requests  # type: ignore[import-untyped]
import torch
from jaxtyping import Float
from requests.adapters import HTTPAdapter  # type: ignore[import-untyped]
from torch import Tensor
from urllib3.util.retry import Retry

from advgrpo.config.scorers.http import ChatConfig, HttpScorerConfig
from advgrpo.data.images import encode_png
from advgrpo.errors import ConfigError, DataError, JudgeUnavailableError
from advgrpo.models.scorers.base import BuildContext

_RETRIED = (408, 429, 500, 502, 503, 504)
_LONGEST_WAIT = 60
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_SHOWN = 200


class HttpScorer:
    """A judge behind an HTTP endpoint, which scores images in batches or one by one.

    Args:
        config: Address, names, limits, and the protocol.
        api_key: Sent as a bearer token; empty for none.
    """

    def __init__(self, config: HttpScorerConfig, api_key: str) -> None:
        self.name, self.metrics, self._config = config.name, config.metrics, config
        self._batch_size = 1 if config.chat else config.batch_size
        self._session = requests.Session()
        if api_key:
            self._session.headers["Authorization"] = f"Bearer {api_key}"
        retry = Retry(
            config.retries,
            # The answer of a status that stays is raised as `RetryError`, after all attempts.
            status_forcelist=_RETRIED,
            backoff_factor=0.5,
            backoff_max=_LONGEST_WAIT,
            # A judge has no state, so its POST requests can be repeated.
            allowed_methods=None,
        )
        adapter = HTTPAdapter(max_retries=retry, pool_maxsize=config.concurrent_requests)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, adapter)

    def score(
        self, images: Float[Tensor, "batch 3 height width"], prompts: Sequence[str]
    ) -> Mapping[str, Float[Tensor, "batch"]]:
        """Return the judge's scores.

        Raises:
            JudgeUnavailableError: If the judge does not answer in time, after all attempts.
            ConfigError: If it refuses the request.
            DataError: If an answer is invalid.
        """
        files = [encode_png(image.float().cpu()) for image in images]
        starts = range(0, len(files), self._batch_size)
        with ThreadPoolExecutor(self._config.concurrent_requests) as pool:
            batches = pool.map(
                lambda at: self._score_batch(
                    files[at : at + self._batch_size], prompts[at : at + self._batch_size]
                ),
                starts,
            )
            # map keeps the order of the images, whatever the order of the answers.
            rows = list(chain.from_iterable(batches))
        return {
            metric: torch.tensor([row[position] for row in rows])
            for position, metric in enumerate(self.metrics)
        }

    def _score_batch(
        self, files: Sequence[bytes], prompts: Sequence[str]
    ) -> list[tuple[float, ...]]:
        encoded = [base64.b64encode(file).decode() for file in files]
        if self._config.chat:
            return [(self._rating(self._config.chat, encoded[0], prompts[0]),)]
        answer = self._post({"images": encoded, "prompts": list(prompts)})
        return self._parse(answer, prompts)

    def _parse(self, answer: Any, prompts: Sequence[str]) -> list[tuple[float, ...]]:  # noqa: ANN401
        try:
            columns = [[float(value) for value in answer["scores"][m]] for m in self.metrics]
        except (KeyError, TypeError, ValueError) as error:
            raise self._invalid(answer, prompts, f"{error!r}") from error
        if any(len(column) != len(prompts) for column in columns):
            raise self._invalid(answer, prompts, f"it was sent {len(prompts)} images")
        # NaN marks prompts without a value elsewhere, and must not come from a judge.
        if not all(math.isfinite(value) for column in columns for value in column):
            raise self._invalid(answer, prompts, "a score is not finite")
        return list(zip(*columns, strict=True))

    def _rating(self, chat: ChatConfig, image: str, prompt: str) -> float:
        picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}}
        text = chat.question.format(prompt=prompt, highest=chat.highest)
        message = {"role": "user", "content": [picture, {"type": "text", "text": text}]}
        request = {"model": chat.model, "messages": [message], **chat.options}
        for attempt in range(self._config.retries + 1):
            answer = self._post(request)
            try:
                content = str(answer["choices"][0]["message"]["content"])
            except (KeyError, IndexError, TypeError) as error:
                raise self._invalid(answer, [prompt], f"{error!r}") from error
            numbers = {float(number) for number in _NUMBER.findall(content)}
            # "8/10" and "8 out of 10" repeat the highest rating.
            ratings = numbers - {float(chat.highest)} if len(numbers) > 1 else numbers
            if len(ratings) == 1 and (rating := ratings.pop()) <= chat.highest:
                return rating / chat.highest
            if attempt < self._config.retries:
                # A model that samples may answer otherwise the next time.
                time.sleep(min(0.1 * 2**attempt, _LONGEST_WAIT))
        raise self._invalid(content, [prompt], f"it has no single number from 0 to {chat.highest}")

    def _post(self, body: Mapping[str, object]) -> Any:  # noqa: ANN401 - any JSON
        url = self._config.url
        try:
            # A redirect usually leads to a login page.
            response = self._session.post(
                url, json=body, timeout=self._config.timeout_seconds, allow_redirects=False
            )
        except requests.RequestException as error:
            raise JudgeUnavailableError(
                f"the judge {self.name} at {url} does not answer: {error}",
                repair="check that it runs and can be reached from here; a run resumes from its "
                "last checkpoint; if it is slow, raise timeout_seconds or lower "
                "concurrent_requests",
            ) from error
        if response.status_code != requests.codes.ok:
            raise ConfigError(
                f"the judge {self.name} at {url} answered status {response.status_code}: "
                f"{response.text[:_SHOWN]!r}",
                repair="check url, the key in the variable of api_key_variable, and chat.model",
            )
        try:
            return response.json()
        except ValueError as error:
            raise self._invalid(response.text, [], "it is not JSON") from error

    def _invalid(self, answer: object, prompts: Sequence[str], reason: str) -> DataError:
        of = f" for {prompts[0]!r}" if prompts else ""
        expected = (
            "a chat completion whose text is a number"
            if self._config.chat
            else f'{{"scores": {{"{self.metrics[0]}": [one finite number per image]}}}}'
        )
        return DataError(
            f"the judge {self.name} answered {str(answer)[:_SHOWN]!r}{of}: {reason}",
            repair=f"let it answer {expected}",
        )


def build(config: HttpScorerConfig, _context: BuildContext) -> HttpScorer:
    """Read the key; the judge is asked with the first image.

    Raises:
        ConfigError: If the variable of the key is not set.
    """
    variable = config.api_key_variable
    key = os.environ.get(variable, "") if variable else ""
    if variable and not key:
        raise ConfigError(
            f"api_key_variable={variable}: the variable is not set",
            repair=f"set {variable} to the judge's key, on a cluster by the chart's Secret, or "
            "leave api_key_variable empty",
        )
    return HttpScorer(config, key)
