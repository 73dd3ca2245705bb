"""A scorer class of another installed package."""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from advgrpo.config.scorers.python import PythonScorerConfig
from advgrpo.errors import ConfigError
from advgrpo.models.scorers.base import BuildContext


class PythonScorer:
    """An adapter that checks what a scorer class of another package returns.

    The class is called with `device` and the options of its settings as keyword arguments. Its
    `score(images, prompts)` gets images `[batch, 3, height, width]`, RGB in [0, 1], and a prompt
    for each, and returns for each of `metrics` a float tensor `[batch]`, higher is better. If it
    has `why_missing(prompt)`, prompts for which that is not empty have no value.

    Args:
        config: Names, metrics and options.
        device: Where it runs.

    Raises:
        ConfigError: If the class cannot be imported, refuses its options or has no `score`.
    """

    def __init__(self, config: PythonScorerConfig, device: torch.device) -> None:
        self.name, self.metrics, self._path = config.name, config.metrics, config.path
        scorer_class = _import_class(config.path)
        try:
            self._scorer = scorer_class(device=device, **config.options)
        # TypeError is what unsuitable options raise; other errors keep their trace for the author.
        except TypeError as error:
            raise ConfigError(
                f"path={config.path}: cannot be called with device and options: {error}",
                repair="set options to the keyword arguments of its __init__",
            ) from error
        if not callable(getattr(self._scorer, "score", None)):
            raise ConfigError(
                f"path={config.path}: has no method score",
                repair="add score(images, prompts), as docs/scorers.md shows",
            )

    def why_missing(self, prompt: str) -> str:
        """Return why images of a prompt have no value; empty if they have one."""
        # Optional for the class, but always present here, so that this is a `PartialScorer`.
        if not hasattr(self._scorer, "why_missing"):
            return ""
        return str(self._scorer.why_missing(prompt))

    def score(
        self, images: Float[Tensor, "batch 3 height width"], prompts: Sequence[str]
    ) -> Mapping[str, Float[Tensor, "batch"]]:
        """Score images by the class.

        Raises:
            ConfigError: If it returns other metrics, or not one value per image.
        """
        values = self._scorer.score(images, prompts)
        # Checked at run time, because the shape annotations of this package do not apply to the
        # class.
        shapes = {name: tuple(getattr(value, "shape", ())) for name, value in values.items()}
        if shapes != dict.fromkeys(self.metrics, (len(images),)):
            raise ConfigError(
                f"{self._path}.score returned {shapes} for {len(images)} images",
                repair=f"return a tensor of shape ({len(images)},) for each of "
                f"{', '.join(self.metrics)}, or set the scorer's `metrics`",
            )
        # In the order of the settings, whatever the order of the class.
        return {name: values[name].cpu() for name in self.metrics}


def build(config: PythonScorerConfig, context: BuildContext) -> PythonScorer:
    """Import the class and construct it."""
    return PythonScorer(config, context.device)


def _import_class(path: str) -> Any:  # noqa: ANN401 - any class
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"path={path}: cannot be imported: {error}",
            repair="install its package in this environment (and in the image that runs the task), "
            "or correct the path to package.module:Class",
        ) from error
