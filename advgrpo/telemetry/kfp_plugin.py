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


_ADDRESS = "MLFLOW_TRACKING_URI"


def task_variable(name: str) -> str:
    """Return the name under which the pipeline gives a variable to a task's container.

    Not that of a variable of the plugin: where the plugin sets a value and the pipeline a reference
    to a ConfigMap, Pipelines 2.17 makes an entry with both, and Kubernetes refuses the pod.
    """
    return f"ADVGRPO_{name}" if name in {_ADDRESS, *_KEYS.values()} else name


def set_own_mlflow() -> None:
    """In a task's container, set address and login of the chart's MLflow server.

    The plugin's address and login take precedence, and the chart's login goes to its server only.
    """
    address = os.environ.get(task_variable(_ADDRESS))
    if not address or os.environ.setdefault(_ADDRESS, address) != address:
        return
    if not any(os.environ.get(name) for name in _KEYS.values()):
        login = {name: os.environ.get(task_variable(name), "") for name in _KEYS.values()}
        os.environ.update({name: value for name, value in login.items() if value})


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
