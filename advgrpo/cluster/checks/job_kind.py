"""Checks of a kind of job: the kinds that it needs, their versions, and whether Kueue admits it."""

from collections.abc import Iterator

from advgrpo.cluster.api import Api, Json
from advgrpo.cluster.api_errors import NotFoundError
from advgrpo.cluster.backends.base import JobBackend, JobState
from advgrpo.cluster.backends.registry import is_known
from advgrpo.cluster.checks.check import Check, run_check
from advgrpo.cluster.job_request import JobRequest
from advgrpo.cluster.resources import Resource
from advgrpo.cluster.settings import ClusterSettings

_NEEDED = {"TrainJobSpec": ("runtimePatches", "activeDeadlineSeconds")}
"""Fields of schemas by which a release that is too old is recognized."""


def check_kind(api: Api, backend: JobBackend, settings: ClusterSettings) -> Iterator[Check]:
    """Check that the cluster can run jobs of a kind.

    Args:
        api: Client of the API server.
        backend: The kind of job.
        settings: Settings of the cluster.
    """
    for resource in (backend.resource, *backend.requires, *backend.templates):
        yield check_known(api, resource)
    for resource in backend.templates:
        yield _template(api, resource, settings.training_runtime)
    if backend.templates:
        yield _release(api, backend.resource)
    if settings.queue:
        yield _queue(api, backend, settings)


def check_known(api: Api, resource: Resource) -> Check:
    """Check that the cluster knows a kind."""
    name = f"kind {resource.plural}.{resource.group}/{resource.version}"

    def query() -> Check:
        if not is_known(api, resource):
            raise NotFoundError(resource.plural)
        return Check(name, "OK", "known")

    repair = f"install {resource.installed_by}"
    return run_check(name, query, repair, absent="the cluster does not know it")


def _template(api: Api, resource: Resource, target: str) -> Check:
    name = f"training runtime {target}"

    def query() -> Check:
        api.get(resource, target)
        return Check(name, "OK", "exists")

    return run_check(name, query, "upgrade the release of the chart: helm upgrade")


def _release(api: Api, resource: Resource) -> Check:
    """Check the fields of the kind, which earlier releases name otherwise."""
    name = f"release of {resource.installed_by}"

    def query() -> Check:
        schemas = _schemas(api.read(f"/openapi/v3{resource.api}"))
        for schema, fields in _NEEDED.items():
            found = next((one for key, one in schemas.items() if key.endswith(schema)), {})
            lacking = [each for each in fields if each not in found.get("properties", {})]
            if found and lacking:
                return Check(
                    name,
                    "FAIL",
                    f"{resource} lacks the fields {', '.join(lacking)}: the release is too old",
                    f"install {resource.installed_by}, with its CustomResourceDefinitions",
                )
            if not found:
                return Check(name, "SKIP", "the API server does not publish its schema")
        return Check(name, "OK", "the fields that jobs use are known")

    return run_check(name, query)


def _schemas(document: Json) -> dict[str, Json]:
    """Return the schemas of kinds and of their specs, by name."""
    found: dict[str, Json] = {}
    for key, schema in ((document.get("components") or {}).get("schemas") or {}).items():
        found[key] = schema
        # A CustomResourceDefinition has its spec in place, not as a schema of its own.
        if spec := (schema.get("properties") or {}).get("spec"):
            found[f"{key}Spec"] = spec
    return found


def _queue(api: Api, backend: JobBackend, settings: ClusterSettings) -> Check:
    """Check by a dry run whether Kueue manages the kind: then it suspends a new job."""
    name = f"Kueue for {backend.resource}"

    def query() -> Check:
        processes = settings.processes_per_node or settings.gpus_per_node or 1
        request = JobRequest("doctor", "", ("true",), processes)
        job = api.create(backend.resource, backend.manifest(request, settings), dry_run=True)
        if backend.status(job).state is JobState.QUEUED:
            return Check(name, "OK", "Kueue queues jobs of this kind (dry run)")
        plural, group = backend.resource.plural, backend.resource.group
        return Check(
            name,
            "FAIL",
            "Kueue does not manage this kind, so jobs would start at once and bypass the quota",
            f"add {group}/{plural.removesuffix('s')} to integrations.frameworks of Kueue's "
            "configuration and restart it, or set cluster.queue=null in the chart's values",
        )

    return run_check(name, query)
