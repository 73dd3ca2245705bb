"""Settings of the loggers that a training uses besides MLflow."""

from typing import Literal

from advgrpo.config.base import Section


class TrackingConfig(Section):
    """Further destinations of the metrics and pictures of a training.

    MLflow is not a setting: the environment variable `MLFLOW_TRACKING_URI` names the server.
    """

    also: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Loggers besides MLflow. `tensorboard` writes event files to `tensorboard/` in the workspace;
    `wandb` logs to the project `advgrpo`, unless `WANDB_PROJECT` is set. They need the extras of
    the same names. Results do not depend on them."""
