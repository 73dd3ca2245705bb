"""The task register: a version of the registered model for the trained adapter."""

import logging

from advgrpo.config.run import RunConfig
from advgrpo.config.tasks import digest, parse_json
from advgrpo.evaluation.gates import check_gates
from advgrpo.evaluation.saved_evaluation import read_evaluation
from advgrpo.runtime.pipeline_tasks import REGISTER
from advgrpo.runtime.results import LINEAGE_FILE, read_metrics, read_training
from advgrpo.runtime.task_context import track_task
from advgrpo.storage.fetch import local_folder
from advgrpo.strict_json import load_json
from advgrpo.tasks.preflight import REGISTRY_NEEDED
from advgrpo.tracking.address import require_tracking_uri

logger = logging.getLogger(__name__)


def register(settings: str, *, trained: str, evaluation: str, parent_run_id: str = "") -> str:
    """Register the adapter with its lineage, metrics and gates, and end the MLflow run.

    A version whose gates fail is registered, too, to keep a record of it.

    Args:
        settings: `RunConfig` as JSON text.
        trained: Location of the training result.
        evaluation: Location of the evaluation.
        parent_run_id: MLflow run that the version belongs to; empty for a run of its own.

    Returns:
        The version, as `models:/name/number`.

    Raises:
        ConfigError: If `MLFLOW_TRACKING_URI` is not set.
        EvaluationError: If the evaluation is damaged.
        TrackingError: If MLflow is not available or rejects a request.
        WeightsError: If the adapter is incomplete.
    """
    tracking_uri = require_tracking_uri(REGISTRY_NEEDED)
    # MLflow takes seconds to load.
    from advgrpo.registry.evidence import Evidence  # noqa: PLC0415
    from advgrpo.registry.registration import register_adapter  # noqa: PLC0415
    from advgrpo.tracking.runs import end_parent_run  # noqa: PLC0415

    with track_task(REGISTER.name, parent_run_id, _workspace_of(trained)) as run:
        config = parse_json(RunConfig, settings, where="the settings")
        result, evaluated = local_folder(trained), local_folder(evaluation)
        lineage = load_json((result / LINEAGE_FILE).read_text(encoding="utf-8"))
        saved = read_evaluation(evaluated)
        report = saved.report
        gates = config.promotion.gates
        evidence = Evidence(
            report=report,
            gates=gates,
            results=check_gates(gates, report),
            lineage={**lineage, "settings": digest(config)},
            training=read_training(result),
            sample=saved.evaluated_prompts(),
        )
        # Not an error: the version is registered without the alias.
        for failed in (gate for gate in evidence.results if not gate.passed):
            logger.warning("a gate failed: %s (%s)", failed.gate, failed.reason)
        registered = register_adapter(
            result / "adapter",
            settings=config,
            evidence=evidence,
            pictures=evaluated,
            run_id=parent_run_id or run.run_id(),
            tracking_uri=tracking_uri,
            metrics=read_metrics(evaluated),
        )
        run.tags({"model_version": registered.uri})
    if parent_run_id:
        end_parent_run(parent_run_id, tracking_uri=tracking_uri, succeeded=True)
    return registered.uri


def _workspace_of(trained: str) -> str:
    """Return the workspace of a training result; empty for a copy outside of a workspace."""
    # The task has no parameter for it; the location of a training has a fixed form.
    workspace, found, _ = trained.rpartition("/training/")
    return workspace if found else ""
