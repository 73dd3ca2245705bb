"""Start a run, once, even when the answer is lost."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from advgrpo import __version__
from advgrpo.errors import ClusterUnavailableError
from advgrpo.kfp_client.server import KfpServer, get_or_create
from advgrpo.kfp_client.versions import PipelineVersion, named

Arguments = Mapping[str, str | int | list[str]]


@dataclass(frozen=True)
class Started:
    """What was started, and its page."""

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
        server: Where.
        version: Of the pipeline.
        arguments: Values of the pipeline's parameters.
        experiment: Groups runs in the user interface; created if there is none of the name.
        name: What the user interface calls the run.
        service_account: Kubernetes service account of the tasks' pods; empty for the server's.

    Raises:
        ClusterError: If the server refuses.
        ClusterUnavailableError: If it does not answer.
    """
    experiment_id = experiment_named(server, experiment)
    # By this the run is found when the answer to its creation is lost.
    mark = f"advgrpo {__version__}, submission {uuid.uuid4().hex}"
    body = server.models.V2beta1Run(
        experiment_id=experiment_id,
        display_name=name,
        description=mark,
        pipeline_version_reference=reference_to(server, version),
        runtime_config=server.models.V2beta1RuntimeConfig(parameters=dict(arguments)),
        service_account=service_account or None,
    )
    try:
        run = server.change("start the run", server.runs.run_service_create_run, run=body)
    except ClusterUnavailableError:
        run = _marked(server, experiment_id, name, mark)
        if run is None:
            raise
    return Started(str(run.run_id), server.page(f"runs/details/{run.run_id}"))


def experiment_named(server: KfpServer, name: str) -> str:
    """Find an experiment, or create it."""
    return get_or_create(
        lambda: _find_experiment(server, name), lambda: _make_experiment(server, name)
    )


def reference_to(server: KfpServer, version: PipelineVersion) -> Any:  # noqa: ANN401 - untyped library
    """Name a pipeline version as the server wants it."""
    return server.models.V2beta1PipelineVersionReference(
        pipeline_id=version.pipeline_id, pipeline_version_id=version.version_id
    )


def _find_experiment(server: KfpServer, name: str) -> str | None:
    answer = server.look(
        f"look for the experiment {name!r}",
        server.experiments.experiment_service_list_experiments,
        filter=named(name),
        **server.within,
    )
    found = answer.experiments or []
    return str(found[0].experiment_id) if found else None


def _make_experiment(server: KfpServer, name: str) -> str:
    body = server.models.V2beta1Experiment(display_name=name, namespace=server.namespace)
    made = server.change(
        f"create the experiment {name!r}",
        server.experiments.experiment_service_create_experiment,
        experiment=body,
    )
    return str(made.experiment_id)


def _marked(server: KfpServer, experiment_id: str, name: str, mark: str) -> Any:  # noqa: ANN401
    answer = server.look(
        "look for the run that was just started",
        server.runs.run_service_list_runs,
        experiment_id=experiment_id,
        filter=named(name),
        sort_by="created_at desc",
    )
    return next((run for run in answer.runs or [] if run.description == mark), None)
