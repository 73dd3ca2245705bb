"""The task resolve-config: validated settings of a run, and its MLflow run."""

from collections.abc import Iterable
from typing import NamedTuple

from advgrpo import __version__
from advgrpo.config.pipeline_preset import join_preset
from advgrpo.config.preset_files import preset_title
from advgrpo.config.resolution import resolve
from advgrpo.config.run import RunConfig
from advgrpo.runtime.failures import record_failures
from advgrpo.runtime.heartbeat import write_run_info
from advgrpo.runtime.pipeline_tasks import RESOLVE_CONFIG
from advgrpo.tasks.preflight import (
    REGISTRY_NEEDED,
    check_cluster,
    check_locations,
    check_processes,
    check_prompts,
)
from advgrpo.telemetry.logging import bind
from advgrpo.tracking.address import require_tracking_uri

EXPERIMENT = "advgrpo"


class ResolvedRun(NamedTuple):
    """A run that may start."""

    settings: str
    """All settings as YAML text, from which each task reads its own."""

    parent_run_id: str
    """MLflow run that the tasks' runs are nested in."""


def resolve_config(
    preset: str,
    overrides: Iterable[str],
    *,
    processes: int,
    run_key: str,
    workspace: str,
    settings_yaml: str = "",
) -> ResolvedRun:
    """Resolve a run's settings and check what it needs, before anything is created.

    The prompt files are pinned: the settings that the tasks get hold the files' hashes.

    Args:
        preset: Name of a shipped preset, path of a YAML file, or the text of one; or `custom`.
        overrides: Texts such as `training.updates=10`.
        processes: Training processes, which must be able to share an update.
        run_key: Key of the MLflow run. A run that was opened with it is resumed; empty opens one.
        workspace: Where the run's results are stored.
        settings_yaml: YAML text with the settings that differ from the preset; empty for none.

    Raises:
        ConfigError: If a setting is wrong, there are too few prompts, or `MLFLOW_TRACKING_URI` is
            not set.
        PromptFileError: If a prompt file cannot be used.
        StorageError: If the workspace cannot be written, or a location does not exist.
        ClusterError: If the cluster lacks what the run's jobs need.
        TrackingError: If MLflow is not available.
    """
    with record_failures(RESOLVE_CONFIG.name):
        preset = join_preset(preset, settings_yaml)
        config = resolve(preset, overrides)
        check_processes(config, processes)
        check_cluster(config, workspace)
        check_locations(config, workspace)
        config = check_prompts(config, processes).resolve(config)
        # Registration is the last task: without a server, hours of training would end in an error.
        tracking_uri = require_tracking_uri(REGISTRY_NEEDED)
        # Last, so that a refused run leaves nothing behind in MLflow.
        parent_run_id = _open_run(config, preset, run_key, workspace, tracking_uri)
        bind(run=parent_run_id)
        write_run_info(
            workspace,
            parent_run_id,
            {
                "name": preset_title(preset),
                "version": __version__,
                "updates": config.training.updates,
            },
        )
        return ResolvedRun(settings=config.to_yaml(), parent_run_id=parent_run_id)


def _open_run(
    config: RunConfig, preset: str, run_key: str, workspace: str, tracking_uri: str
) -> str:
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
