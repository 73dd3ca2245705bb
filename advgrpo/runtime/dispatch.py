"""Dispatch of a task: to this process, or to a job of the cluster.

On a cluster a task's container has neither a GPU nor torch. It starts a job whose pods run
`advgrpo.runtime.worker`; arguments and outcome go through the workspace.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, TypeVar

from pydantic import TypeAdapter
from pydantic_core import to_json

from advgrpo.errors import (
    AdvGrpoError,
    ConfigError,
    JobFailedError,
    PipelineError,
    StorageNotFoundError,
)
from advgrpo.runtime.failures import Failure
from advgrpo.runtime.pipeline_tasks import JobTask
from advgrpo.runtime.remote_call import (
    WORKER,
    call,
    load_function,
    read_arguments,
    write_arguments,
)
from advgrpo.runtime.task_context import report_failure
from advgrpo.storage.files import is_remote, list_files, read_bytes, write_bytes
from advgrpo.storage.locations import join
from advgrpo.storage.write_guard import restrict_writes
from advgrpo.telemetry.kfp_plugin import plugin_environment, set_plugin_environment

OUTCOME_FILE = "outcome.json"
FAILURE_PREFIX = "failure-"
"""Start of the names of the files with the failures of a job's machines."""

_ENVIRONMENT = "environment"
"""Environment variables beside the arguments. In the job's object, a retry by Kubeflow, which has
another MLflow run, would not be the same job."""

logger = logging.getLogger(__name__)

Arguments = Mapping[str, Any]
R = TypeVar("R")


def run_task(task: JobTask[R], arguments: Arguments, *, run_id: str) -> R:
    """Run a task in this process, or as a job where the environment describes a cluster.

    Args:
        task: One of `pipeline_tasks`.
        arguments: Arguments of the task's function; `workspace` among them, and `processes` if it
            can use more than one.
        run_id: The pipeline run. A call in the same run with the same arguments adopts a job that
            still exists and does not start a second one.

    Returns:
        The result of the task's function.

    Raises:
        ConfigError: If the workspace cannot be reached from a cluster's pods.
        ClusterError: If the job could not be run.
        AdvGrpoError: The error that the task failed with.
    """
    # The package `kubernetes` takes a second to load, and a laptop does without it.
    from advgrpo.cluster.settings import cluster_settings  # noqa: PLC0415

    settings = cluster_settings()
    if settings is None:
        with restrict_writes(str(arguments["workspace"])):
            result: R = _load_function(task.name, task.function)(**arguments)
            return result
    from advgrpo.cluster.launcher import JobRequest, run_job  # noqa: PLC0415

    parent_run_id, workspace = (str(arguments.get(k, "")) for k in ("parent_run_id", "workspace"))
    with (
        report_failure(task.name, parent_run_id, workspace, role="launcher"),
        restrict_writes(str(arguments["workspace"])),
    ):
        folder = _job_folder(task.name, arguments, run_id)
        if (done := _find_finished(task, arguments)) is not None:
            return done
        # Before the job, whose pods read them at once. A retry overwrites them with equal ones,
        # except for the MLflow run.
        write_arguments(folder, {**arguments, _ENVIRONMENT: plugin_environment()})
        work = JobRequest(
            task=task.name,
            run_key=folder,
            # Unbuffered: the launcher follows the pod's log line by line.
            command=("python", "-u", "-m", WORKER, "--pod", task.name, task.function, folder),
            processes=int(arguments.get("processes", 1)),
        )
        try:
            run_job(work, settings)
        # No other kind: a job that was lost or preempted must stay retryable.
        except JobFailedError as error:
            raise _cause(folder) or error from error
        return _read_outcome(task, folder)


def run_in_pod(task: str, function: str, folder: str) -> None:
    """Run a task in a job's pod, with the arguments that `run_task` wrote.

    Args:
        task: Name of the task.
        function: `module:name` of its function.
        folder: Location of its arguments and of its outcome.

    Raises:
        AdvGrpoError: The error that the task failed with; `run_task` reads it from the folder.
    """
    # Here and not above: the pod that starts the job does not need it.
    from advgrpo.runtime.nodes import nodes  # noqa: PLC0415

    machine = nodes()
    failure_file = join(folder, f"{FAILURE_PREFIX}{machine.rank}.json")
    arguments = read_arguments(folder)
    set_plugin_environment(arguments.pop(_ENVIRONMENT, {}))
    # A retried pod must not report the failure of the attempt before.
    write_bytes(failure_file, b"null")
    try:
        with restrict_writes(str(arguments["workspace"])):
            result = call(_load_function(task, function), arguments)
    except AdvGrpoError as error:
        write_bytes(failure_file, json.dumps(asdict(Failure.of(task, error))).encode())
        raise
    # The results of the other machines have no metrics.
    if machine.is_first:
        write_bytes(join(folder, OUTCOME_FILE), to_json(result))


def _job_folder(name: str, arguments: Arguments, run_id: str) -> str:
    workspace = str(arguments["workspace"])
    if not is_remote(workspace):
        raise ConfigError(
            f"workspace={workspace} cannot be reached from the pods of a cluster",
            repair="use an s3:// location",
        )
    # Retried by Kubeflow, a task gets another MLflow run but is the same job.
    same = {key: value for key, value in arguments.items() if key != "parent_run_id"}
    key = hashlib.sha256(json.dumps([same, run_id], sort_keys=True).encode()).hexdigest()
    return join(workspace, "jobs", f"{name}-{key[:16]}")


def _find_finished(task: JobTask[R], arguments: Arguments) -> R | None:
    """Return an earlier result of equal settings and inputs; None if the task must run."""
    if not task.finished:
        return None
    try:
        done: R | None = load_function(task.finished)(**arguments)
    # The job may be able to read what this container cannot, and reports it otherwise.
    except AdvGrpoError as error:
        logger.info("%s: earlier results are unknown: %s", task.name, error)
        return None
    if done is not None:
        logger.info("%s: an earlier run has finished it; no job is started", task.name)
    return done


def _load_function(task: str, function: str) -> Callable[..., Any]:
    try:
        return load_function(function)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the task {task} would run in this container, which lacks {error.name}",
            repair="on a cluster, install advgrpo's chart in this namespace: its ConfigMap sets "
            "ADVGRPO_CLUSTER; elsewhere: pip install 'advgrpo[train]'",
        ) from error


def _cause(folder: str) -> AdvGrpoError | None:
    """Return the error of a machine that explains the failure of its job; None without one."""
    texts = [
        json.loads(read_bytes(join(folder, name)))
        for name in list_files(folder)
        if name.startswith(FAILURE_PREFIX)
    ]
    errors = [Failure(**text).error() for text in texts if text is not None]
    # A status from 128 on may be a consequence: one machine fails because another was lost. A
    # PipelineError wraps an exception of a library, which the diagnosis of the job explains better.
    causes = (e for e in errors if e.exit_code < 128 and not isinstance(e, PipelineError))
    return next(causes, None)


def _read_outcome(task: JobTask[R], folder: str) -> R:
    try:
        outcome = read_bytes(join(folder, OUTCOME_FILE))
    except StorageNotFoundError as error:
        raise JobFailedError(
            f"the job of the task {task.name} succeeded but left no result in {folder}",
            repair="its image may be of another release of advgrpo: install the chart again with "
            "the same tag for both images",
        ) from error
    return TypeAdapter(task.result).validate_json(outcome)
