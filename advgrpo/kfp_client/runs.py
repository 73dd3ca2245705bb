"""Runs of a pipeline version, each started once even if the response is lost."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from advgrpo import __version__
from advgrpo.errors import ClusterUnavailableError
from advgrpo.kfp_client.server import KfpServer, get_or_create
from advgrpo.kfp_client.versions import PipelineVersion, name_filter

Arguments = Mapping[str, str | int | list[str]]


@dataclass(frozen=True)
class Started:
    """A run or recurring run that was started, and its page."""

    id: str
    url: str


def start_run(
    server: KfpServer,
    version: PipelineVersion,
    arguments: Arguments,
    *,
    experiment: str,
    name: str,
    service_account: str = "",
) -> Started:
    """Start a run of a pipeline version.

    Args:
        server: The server.
        version: Pipeline version.
        arguments: Values of the pipeline's parameters.
        experiment: Name of the experiment that groups runs; created if it does not exist.
        name: Display name of the run.
        service_account: Kubernetes service account of the tasks' pods; empty for the server's.

    Raises:
        ClusterError: If the server refuses.
        ClusterUnavailableError: If it does not answer.
    """
    experiment_id = get_or_create_experiment(server, experiment)
    # Identifies the run if the response to its creation is lost.
    mark = f"advgrpo {__version__}, submission {uuid.uuid4().hex}"
    body = server.models.V2beta1Run(
        experiment_id=experiment_id,
        display_name=name,
        description=mark,
        pipeline_version_reference=version_reference(server, version),
        runtime_config=server.models.V2beta1RuntimeConfig(parameters=dict(arguments)),
        service_account=service_account or None,
    )
    try:
        run = server.write("start the run", server.runs.run_service_create_run, run=body)
    # The server may have started the run all the same: look for it before the caller tries again.
    except ClusterUnavailableError:
        run = _find_run(server, experiment_id, name, mark)
        if run is None:
            raise
    return Started(str(run.run_id), server.page(f"runs/details/{run.run_id}"))


def get_or_create_experiment(server: KfpServer, name: str) -> str:
    """Return the id of an experiment, which is created if it does not exist."""
    return get_or_create(
        lambda: _find_experiment(server, name), lambda: _create_experiment(server, name)
    )


def version_reference(server: KfpServer, version: PipelineVersion) -> Any:  # noqa: ANN401 - untyped library
    """Return a reference to a pipeline version, for a request."""
    return server.models.V2beta1PipelineVersionReference(
        pipeline_id=version.pipeline_id, pipeline_version_id=version.version_id
    )


def _find_experiment(server: KfpServer, name: str) -> str | None:
    answer = server.read(
        f"find the experiment {name!r}",
        server.experiments.experiment_service_list_experiments,
        filter=name_filter(name),
        **server.namespace_filter,
    )
    found = answer.experiments or []
    # Names are unique within a namespace.
    return str(found[0].experiment_id) if found else None


def _create_experiment(server: KfpServer, name: str) -> str:
    body = server.models.V2beta1Experiment(display_name=name, namespace=server.namespace)
    created = server.write(
        f"create the experiment {name!r}",
        server.experiments.experiment_service_create_experiment,
        experiment=body,
    )
    return str(created.experiment_id)


def _find_run(server: KfpServer, experiment_id: str, name: str, mark: str) -> Any:  # noqa: ANN401
    answer = server.read(
        "find the run that was just started",
        server.runs.run_service_list_runs,
        experiment_id=experiment_id,
        filter=name_filter(name),
        sort_by="created_at desc",
    )
    # Names of runs need not be unique; the mark is.
    return next((run for run in answer.runs or [] if run.description == mark), None)
