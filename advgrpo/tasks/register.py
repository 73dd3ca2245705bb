"""Make the trained adapter a version of a registered model."""

import json
import os

from advgrpo.config import RunConfig
from advgrpo.config.tasks import digest, parse_json
from advgrpo.errors import ConfigError
from advgrpo.storage import local_folder
from advgrpo.tasks.results import LINEAGE_FILE, read_metrics
from advgrpo.tasks.running import TRACKING_URI, tracked_task


def register(settings: str, *, trained: str, evaluation: str, parent_run_id: str = "") -> str:
    """Register the adapter with its lineage and its measures, and end the MLflow run.

    Args:
        settings: `RunConfig` as JSON text.
        trained: Location of the training's result.
        evaluation: Location of the evaluation.
        parent_run_id: MLflow run that the version belongs to; empty for a run of its own.

    Returns:
        The version, as `models:/name/number`.

    Raises:
        ConfigError: If no MLflow server is named.
        TrackingError: If MLflow is not available or refuses.
        WeightsError: If the adapter is not whole.
    """
    tracking_uri = os.environ.get(TRACKING_URI)
    if not tracking_uri:
        raise ConfigError(
            "there is no MLflow server to register the adapter with",
            repair=f"set {TRACKING_URI} to its address",
        )
    # MLflow takes seconds to load.
    from advgrpo.tracking.models import register_adapter  # noqa: PLC0415
    from advgrpo.tracking.runs import end_parent_run  # noqa: PLC0415

    with tracked_task("register", parent_run_id) as run:
        config = parse_json(RunConfig, settings, where="the settings")
        result = local_folder(trained)
        lineage = json.loads((result / LINEAGE_FILE).read_text(encoding="utf-8"))
        registered = register_adapter(
            result / "adapter",
            registered_model=config.promotion.registered_model,
            alias=config.promotion.alias,
            run_id=parent_run_id or run.run_id(),
            tracking_uri=tracking_uri,
            policy=config.policy,
            sampling=config.training.sampling,
            lineage={**lineage, "settings": digest(config)},
            measures=read_metrics(local_folder(evaluation)),
        )
        run.tags({"model_version": registered.uri})
    if parent_run_id:
        end_parent_run(parent_run_id, tracking_uri=tracking_uri, succeeded=True)
    return registered.uri
