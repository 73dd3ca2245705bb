"""MLflow runs of Kubeflow Pipelines' own MLflow plugin.

The plugin opens a run per pipeline run, and in it one per task. Where it passes them to tasks, a
task's container has `MLFLOW_RUN_ID`, the run of the task.

Source:
    Kubeflow Pipelines 2.17, `backend/src/v2/common/plugins/mlflow/handler.go` (variables of a
    task), `backend/src/common/plugins/mlflow/config.go` (Secret, `KFP_MLFLOW_CONFIG`).
"""

import json
import os
from collections.abc import Mapping

_RUN_ID = "MLFLOW_RUN_ID"
_CONFIG = "KFP_MLFLOW_CONFIG"
# Not the address of the server: a file in the workspace must not say where the login is sent.
_VARIABLES = (_CONFIG, _RUN_ID, "MLFLOW_EXPERIMENT_ID", "MLFLOW_TRACKING_AUTH", "MLFLOW_WORKSPACE")
_SECRET = "kfp-mlflow-credentials"
_KEYS = {
    "tokenKey": "MLFLOW_TRACKING_TOKEN",
    "usernameKey": "MLFLOW_TRACKING_USERNAME",
    "passwordKey": "MLFLOW_TRACKING_PASSWORD",
}


def plugin_run() -> str:
    """Return the run that the plugin opened for this task; empty without one."""
    return os.environ.get(_RUN_ID, "") if os.environ.get(_CONFIG) else ""


def plugin_environment() -> dict[str, str]:
    """Return what other processes of the task need of the plugin, without secrets."""
    return _known(os.environ) if plugin_run() else {}


def set_plugin_environment(variables: Mapping[str, str]) -> None:
    """Set what `plugin_environment` returned in another process; other variables are ignored."""
    os.environ.update(_known(variables))


def _known(variables: Mapping[str, str]) -> dict[str, str]:
    return {name: variables[name] for name in _VARIABLES if name in variables}


def plugin_credentials() -> dict[str, tuple[str, str]]:
    """Return name and key of the plugin's Secret, by the environment variable it is for."""
    if not plugin_run():
        return {}
    keys = json.loads(os.environ[_CONFIG]).get("credentialSecretRef") or {}
    return {_KEYS[name]: (_SECRET, key) for name, key in keys.items() if name in _KEYS and key}
