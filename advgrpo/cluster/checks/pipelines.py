"""Check of the namespace in which Kubeflow Pipelines runs tasks."""

from contextlib import closing

from advgrpo.cluster.api import SINGLE_ATTEMPT
from advgrpo.cluster.checks.check import Check, run_check
from advgrpo.cluster.connection import connect
from advgrpo.cluster.resources import SERVICES
from advgrpo.errors import ClusterError

_SERVICE = "ml-pipeline"


def check_single_user_namespace(namespace: str) -> Check:
    """Check that a single-user Kubeflow Pipelines runs in the chart's namespace.

    It runs all tasks in its own namespace, whatever namespace a run asks for.

    Args:
        namespace: The chart's; empty for the pod's own, or that of the kubeconfig's context.
    """
    name = "namespace of tasks"
    try:
        api = connect(namespace, SINGLE_ATTEMPT)
    except ClusterError as error:
        return Check(name, "SKIP", f"cannot be checked: {error.message}")

    def query() -> Check:
        api.get(SERVICES, _SERVICE)
        return Check(name, "OK", f"Kubeflow Pipelines runs in {api.namespace}, too")

    with closing(api):
        return run_check(
            name,
            query,
            "install the chart in the namespace of Kubeflow Pipelines, for instance kubeflow, or "
            "use a multi-user Kubeflow Pipelines",
            absent="Kubeflow Pipelines is in single-user mode and runs tasks in its own namespace, "
            f"which is not {api.namespace}: that has no Service {_SERVICE}",
        )
