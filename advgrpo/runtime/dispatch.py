"""Run a task where its work belongs: in this process, or as a job of the cluster.

On a cluster a task's container has neither a GPU nor torch. It starts a PyTorchJob whose pods run
`advgrpo.runtime.worker`; arguments and outcome go through the workspace.
"""

import hashlib
import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Literal, overload

from advgrpo.errors import (
    AdvGrpoError,
    ConfigError,
    JobFailedError,
    PipelineError,
    StorageNotFoundError,
)
from advgrpo.runtime.failures import Failure
from advgrpo.runtime.results import ReferenceImageLocations, TaskResult
from advgrpo.runtime.task_context import report_failure
from advgrpo.storage import confined, join, list_files, read_bytes, scheme, write_bytes

ARGUMENTS_FILE = "arguments.json"
OUTCOME_FILE = "outcome.json"
FAILURE_PREFIX = "failure-"
"""Start of the names of the files in which a job's machines say why they failed."""

_FUNCTIONS = {
    "reference-images": ("advgrpo.tasks.reference_images", "make_reference_images"),
    "pretrain-reward": ("advgrpo.tasks.pretrain_reward", "pretrain_reward"),
    "train": ("advgrpo.tasks.train", "train"),
    "evaluate": ("advgrpo.tasks.evaluate", "evaluate"),
}

Result = TaskResult | ReferenceImageLocations
Arguments = Mapping[str, Any]
Measured = Literal["pretrain-reward", "train", "evaluate"]


@overload
def run_task(name: Measured, arguments: Arguments, *, run_id: str) -> TaskResult: ...
@overload
def run_task(
    name: Literal["reference-images"], arguments: Arguments, *, run_id: str
) -> ReferenceImageLocations: ...
def run_task(name: str, arguments: Arguments, *, run_id: str) -> Result:
    """Run a task here, or as a PyTorchJob where the environment describes a cluster.

    Args:
        name: `reference-images`, `pretrain-reward`, `train` or `evaluate`.
        arguments: What the task's function takes; `workspace` among them, and `processes` if it
            can use more than one.
        run_id: The pipeline run. Repeated in the same run with the same arguments, a job that is
            still there is taken up, not started twice.

    Returns:
        What the task's function returns.

    Raises:
        ConfigError: If the workspace cannot be reached from a cluster's pods.
        ClusterError: If the job could not be run.
        AdvGrpoError: What the task failed with.
    """
    # The package `kubernetes` takes a second to load, and a laptop does without it.
    from advgrpo.cluster.settings import cluster_settings  # noqa: PLC0415

    settings = cluster_settings()
    if settings is None:
        with confined(str(arguments["workspace"])):
            return _function(name)(**arguments)
    from advgrpo.cluster.launcher import JobRequest, run_job  # noqa: PLC0415

    parent_run_id, workspace = (str(arguments.get(k, "")) for k in ("parent_run_id", "workspace"))
    with (
        report_failure(name, parent_run_id, workspace, role="launcher"),
        confined(str(arguments["workspace"])),
    ):
        folder = _job_folder(name, arguments, run_id)
        write_bytes(join(folder, ARGUMENTS_FILE), json.dumps(dict(arguments)).encode())
        work = JobRequest(
            task=name,
            run_key=folder,
            command=("python", "-u", "-m", "advgrpo.runtime.worker", name, folder),
            processes=int(arguments.get("processes", 1)),
        )
        try:
            run_job(work, settings)
        except JobFailedError as error:
            raise _cause(folder) or error from error
        return _outcome(name, folder)


def run_in_pod(name: str, folder: str) -> None:
    """Run a task in a job's pod, with the arguments that `run_task` left.

    Args:
        name: The task.
        folder: Location of its arguments, which gets its outcome.

    Raises:
        AdvGrpoError: What the task failed with; `run_task` finds it in the folder.
    """
    # Here and not above: the pod that starts the job does not need it.
    from advgrpo.runtime.nodes import nodes  # noqa: PLC0415

    machine = nodes()
    failure_file = join(folder, f"{FAILURE_PREFIX}{machine.rank}.json")
    arguments = json.loads(read_bytes(join(folder, ARGUMENTS_FILE)))
    # What an earlier attempt failed with is no longer so.
    write_bytes(failure_file, b"null")
    try:
        with confined(str(arguments["workspace"])):
            result = _function(name)(**arguments)
    except AdvGrpoError as error:
        failure = Failure(name, type(error).__name__, error.message, error.repair)
        write_bytes(failure_file, json.dumps(asdict(failure)).encode())
        raise
    if machine.is_first:
        made = result._asdict() if isinstance(result, ReferenceImageLocations) else asdict(result)
        write_bytes(join(folder, OUTCOME_FILE), json.dumps(made).encode())


def _job_folder(name: str, arguments: Arguments, run_id: str) -> str:
    workspace = str(arguments["workspace"])
    if scheme(workspace) != "s3":
        raise ConfigError(
            f"workspace={workspace} cannot be reached from the pods of a cluster",
            repair="use an s3:// location",
        )
    # Retried by Kubeflow, a task gets another MLflow run but is the same job.
    same = {key: value for key, value in arguments.items() if key != "parent_run_id"}
    key = hashlib.sha256(json.dumps([same, run_id], sort_keys=True).encode()).hexdigest()
    return join(workspace, "jobs", f"{name}-{key[:16]}")


def _function(name: str) -> Callable[..., Result]:
    module, function = _FUNCTIONS[name]
    try:
        found: Callable[..., Result] = getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the task {name} would run in this container, which lacks {error.name}",
            repair="on a cluster, set ADVGRPO_CLUSTER, as the chart's ConfigMap does: is advgrpo's "
            "chart installed in this namespace? Elsewhere: pip install 'advgrpo[train]'",
        ) from error
    return found


def _cause(folder: str) -> AdvGrpoError | None:
    """Find what the job's machines say, if it is a cause that would come again and has a name.

    Otherwise the job's own account says more: a machine may have failed for want of another one,
    and of a fault that is not one of ours the log knows the likely cause.
    """
    texts = [
        json.loads(read_bytes(join(folder, name)))
        for name in list_files(folder)
        if name.startswith(FAILURE_PREFIX)
    ]
    errors = [Failure(**text).error() for text in texts if text is not None]
    told = (e for e in errors if e.exit_code < 128 and not isinstance(e, PipelineError))
    return next(told, None)


def _outcome(name: str, folder: str) -> Result:
    try:
        made: dict[str, Any] = json.loads(read_bytes(join(folder, OUTCOME_FILE)))
    except StorageNotFoundError as error:
        raise JobFailedError(
            f"the job of the task {name} ended well but left no result in {folder}",
            repair="its image may be of another release of advgrpo: install the chart again with "
            "one tag for both images",
        ) from error
    return ReferenceImageLocations(**made) if name == "reference-images" else TaskResult(**made)
