"""The pipeline's tasks as functions of a run's settings."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from advgrpo.config.resolution import resolve
from advgrpo.config.run import RunConfig
from advgrpo.config.tasks import PretrainingSettings, ReferenceImagesSettings, TrainingSettings
from advgrpo.runtime.results import ReferenceImageLocations, TaskResult
from advgrpo.tasks import evaluate as evaluate_task
from advgrpo.tasks import pretrain_reward as pretrain_reward_task
from advgrpo.tasks import reference_images as reference_images_task
from advgrpo.tasks import register as register_task
from advgrpo.tasks import train as train_task

_DEFAULT_WORKSPACE = "workspace"


def load_config(preset: str = "pocket", overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """Load the settings of a run.

    Args:
        preset: Name of a packaged preset (see `preset_names`), path of a YAML file, or YAML text.
        overrides: Dotted key -> value, for instance `{"training.updates": 10}`.

    Returns:
        Validated, immutable settings; `to_yaml()` prints them.

    Raises:
        ConfigError: If a setting is missing, unknown or invalid; names key, value and repair.
    """
    # JSON is YAML, and keeps the types of Python's values.
    texts = [f"{key}={json.dumps(value)}" for key, value in (overrides or {}).items()]
    return resolve(preset, texts)


def generate_reference_images(
    config: RunConfig, *, workspace: str = _DEFAULT_WORKSPACE, processes: int = 1
) -> ReferenceImageLocations:
    """Generate reference images for training and test prompts, or check existing ones.

    Args:
        config: Settings of the run.
        workspace: Folder or `s3://` location of results; a repeated call resumes from it.
        processes: Processes that share the work; with GPUs, one each.

    Returns:
        Locations of the sets, `train` and `test`.
    """
    return reference_images_task.make_reference_images(
        ReferenceImagesSettings.of(config).model_dump_json(),
        workspace=workspace,
        processes=processes,
    )


def pretrain_reward(
    config: RunConfig, *, reference_images: str, workspace: str = _DEFAULT_WORKSPACE
) -> TaskResult:
    """Pre-train the discriminator on images of the base model.

    Args:
        config: Settings of the run.
        reference_images: Location of the reference images of the training prompts.
        workspace: As in `generate_reference_images`.
    """
    return pretrain_reward_task.pretrain_reward(
        PretrainingSettings.of(config).model_dump_json(),
        reference_images=reference_images,
        workspace=workspace,
    )


def train(
    config: RunConfig,
    *,
    reference_images: str,
    discriminator: str,
    workspace: str = _DEFAULT_WORKSPACE,
    processes: int = 1,
    on_metrics: Callable[[int, dict[str, float]], None] | None = None,
) -> TaskResult:
    """Post-train the policy; a repeated call resumes from its last checkpoint.

    Training runs in processes of its own, also with `processes=1`.

    Args:
        config: Settings of the run.
        reference_images: Location of the reference images of the training prompts.
        discriminator: Location of the pre-trained discriminator.
        workspace: As in `generate_reference_images`.
        processes: Training processes; with GPUs, one each.
        on_metrics: Called in a thread of this process with the number of the update and
            metrics as they are logged, several times per update; 0 is the base model. An exception
            in it does not stop training; it is raised when training ends.

    Returns:
        Location of `adapter/`, `discriminator/` and the history, and final metrics.

    Raises:
        Preempted: If training was stopped; its state is saved.
    """
    # A rule across sections, whose settings the task does not receive.
    config.check_ranks(processes)
    return train_task.train(
        TrainingSettings.of(config).model_dump_json(),
        reference_images=reference_images,
        discriminator=discriminator,
        workspace=workspace,
        processes=processes,
        on_metrics=on_metrics,
    )


def evaluate(
    config: RunConfig,
    *,
    trained: str,
    reference_images: str,
    discriminator: str = "",
    workspace: str = _DEFAULT_WORKSPACE,
    processes: int = 1,
) -> TaskResult:
    """Compare the trained model with its base and with the champion, on the test prompts.

    Args:
        config: Settings of the run.
        trained: Location of the training result.
        reference_images: Location of the reference images of the test prompts.
        discriminator: Location of the pre-trained discriminator, for the report's costs; empty if
            there is none.
        workspace: As in `generate_reference_images`.
        processes: Processes that share the work; with GPUs, one each.

    Returns:
        Location of `report.html` and of the evaluation, which `open_evaluation` reads.
    """
    return evaluate_task.evaluate(
        config.model_dump_json(),
        trained=trained,
        discriminator=discriminator,
        reference_images=reference_images,
        workspace=workspace,
        processes=processes,
    )


def register(config: RunConfig, *, trained: str, evaluation: str) -> str:
    """Register the trained adapter as a new version of a registered model in MLflow.

    Returns:
        The version, as `models:/name/number`.

    Raises:
        ConfigError: If the variable `MLFLOW_TRACKING_URI` is not set.
    """
    return register_task.register(config.model_dump_json(), trained=trained, evaluation=evaluation)
