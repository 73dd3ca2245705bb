"""Weights & Biases as a further logger."""

import io
import os
from collections.abc import Mapping

import PIL.Image
import wandb

from advgrpo.storage.cache import cache_folder
from advgrpo.tracking.parameters import flatten


class WeightsAndBiases:
    """A run on Weights & Biases, which an interrupted training continues.

    Args:
        key: Id of the run.
        settings: Settings of the training.

    Raises:
        Exception: One of wandb, if it is not logged in or cannot be reached.
    """

    def __init__(self, key: str, settings: Mapping[str, object]) -> None:
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "advgrpo"),
            id=key,
            name=os.environ.get("WANDB_NAME", f"train {key}"),
            config=flatten(settings),
            resume="allow",
            dir=os.environ.get("WANDB_DIR", cache_folder()),
            # Standard output and source code may contain secrets.
            settings=wandb.Settings(console="off", disable_git=True, save_code=False, silent=True),
        )

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log metrics of an update; NaN and infinite values stay as they are."""
        # A resumed training logs its history again.
        if step >= self._run.starting_step:
            self._run.log(dict(values), step=step)

    def picture(self, name: str, step: int, png: bytes) -> None:
        """Log a picture of an update."""
        if step >= self._run.starting_step:
            self._run.log({name: wandb.Image(PIL.Image.open(io.BytesIO(png)))}, step=step)

    def close(self) -> None:
        """Send what is buffered, and end the run."""
        self._run.finish()
        # Its service may write the last records of an offline run after `finish`.
        wandb.teardown()
