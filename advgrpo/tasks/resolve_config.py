"""Validate a run's settings, hand each task its share, and open the MLflow run."""

import os
from collections.abc import Iterable
from typing import NamedTuple

from advgrpo import __version__
from advgrpo.config import RunConfig, preset_title, resolve
from advgrpo.config.tasks import (
    PretrainingSettings,
    ReferenceImagesSettings,
    TrainingSettings,
)
from advgrpo.runtime.failures import failures_noted
from advgrpo.runtime.heartbeat import write_run_info
from advgrpo.runtime.pipeline_tasks import RESOLVE_CONFIG
from advgrpo.runtime.task_context import TRACKING_URI
from advgrpo.tasks.preflight import (
    check_cluster,
    check_places,
    check_processes,
    check_prompt_files,
)
from advgrpo.telemetry.logging import bind

EXPERIMENT = "advgrpo"


class ResolvedRun(NamedTuple):
    """A run's settings as JSON text, one text per task."""

    reference_images: str
    pretraining: str
    training: str
    run: str
    """All of them, for evaluation and registration."""

    parent_run_id: str
    """MLflow run that the tasks' runs are nested in; empty without an MLflow server."""


def resolve_config(
    preset: str, overrides: Iterable[str], *, processes: int, run_key: str, workspace: str
) -> ResolvedRun:
    """Resolve a run's settings, and find out what it would fail on, before anything is made.

    Args:
        preset: Name of a shipped preset, path of a YAML file, or the text of one.
        overrides: Texts such as `training.updates=10`.
        processes: Training processes, which must be able to share an update.
        run_key: If an MLflow run was opened with this key, it is taken up again; empty opens one.
        workspace: Where the run's results will be kept.

    Raises:
        ConfigError: If a setting is wrong, or the prompts are too few for it.
        PromptFileError: If a prompt file cannot be used.
        StorageError: If the workspace cannot be written, or something that a setting names is
            missing.
        ClusterError: If the cluster lacks what the run's jobs need.
        TrackingError: If MLflow is not available.
    """
    with failures_noted(RESOLVE_CONFIG.name):
        config = resolve(preset, overrides)
        check_processes(config, processes)
        check_cluster(config, workspace)
        check_places(config, workspace)
        check_prompt_files(config, processes)
        parent_run_id = _open_run(config, preset, run_key, workspace)
        bind(run=parent_run_id or None)
        write_run_info(
            workspace,
            parent_run_id,
            {
                "name": preset_title(preset),
                "version": __version__,
                "updates": config.training.updates,
            },
        )
        return ResolvedRun(
            reference_images=ReferenceImagesSettings.of(config).model_dump_json(),
            pretraining=PretrainingSettings.of(config).model_dump_json(),
            training=TrainingSettings.of(config).model_dump_json(),
            run=config.model_dump_json(),
            parent_run_id=parent_run_id,
        )


def _open_run(config: RunConfig, preset: str, run_key: str, workspace: str) -> str:
    tracking_uri = os.environ.get(TRACKING_URI)
    if not tracking_uri:
        return ""
    # MLflow takes seconds to load.
    from advgrpo.tracking.run_lookup import WORKSPACE_TAG  # noqa: PLC0415
    from advgrpo.tracking.runs import open_parent_run  # noqa: PLC0415

    return open_parent_run(
        EXPERIMENT,
        preset_title(preset),
        tracking_uri=tracking_uri,
        parameters=config.model_dump(mode="json"),
        config_text=config.to_yaml(),
        tags={
            "advgrpo.version": __version__,
            "advgrpo.preset": preset_title(preset),
            WORKSPACE_TAG: workspace,
        },
        key=run_key or None,
    )
