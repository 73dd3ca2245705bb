"""Pipeline versions on a server, one for each content."""

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from advgrpo.errors import ClusterError
from advgrpo.kfp_client.document import PipelineDocument
from advgrpo.kfp_client.server import KfpServer, get_or_create

_PAGE_SIZE = 100


@dataclass(frozen=True)
class PipelineVersion:
    """A version of a pipeline on a server."""

    pipeline_id: str
    version_id: str
    name: str
    url: str
    uploaded: bool
    """Whether this call uploaded it."""


def upload_pipeline(
    server: KfpServer, document: PipelineDocument, *, name: str, any_images: bool = False
) -> PipelineVersion:
    """Return the version of a pipeline that has a document's content, uploading it if needed.

    Args:
        server: The server.
        document: The compiled pipeline.
        name: Name of the pipeline on the server; created if it does not exist.
        any_images: Accept a version whose tasks run in other images, such as the one that the
            chart uploaded with the images of its registry; the newest is used.

    Raises:
        ClusterError: If the server refuses.
        ClusterUnavailableError: If it does not answer.
    """
    pipeline_id = get_or_create(
        lambda: _find_pipeline(server, name),
        lambda: _create_pipeline(server, name, document.description),
    )
    # Version names start with the hash of the content and end with that of the images.
    start = document.content if any_images else document.version
    version = _find_version(server, pipeline_id, start)
    uploaded = version is None
    if version is None:
        version = _upload(server, pipeline_id, document)
    return _describe(server, pipeline_id, version, uploaded=uploaded)


def download_pipeline(
    server: KfpServer, document: PipelineDocument, *, name: str
) -> tuple[PipelineVersion, PipelineDocument]:
    """Return the newest version of a pipeline with a document's content, as it is on the server.

    Args:
        server: The server.
        document: The compiled pipeline of this release; its images and names do not matter.
        name: Name of the pipeline on the server.

    Raises:
        ClusterError: If the server has none, or refuses.
        ClusterUnavailableError: If it does not answer.
    """
    pipeline_id = _find_pipeline(server, name)
    found = pipeline_id and _find_version(server, pipeline_id, document.content)
    if not pipeline_id or not found:
        raise ClusterError(
            f"the server has no version {document.content} of the pipeline {name!r}",
            repair="let the chart upload it (kubeflow.upload.enabled, helm upgrade), or upload it "
            "with: advgrpo pipeline upload",
        )
    version = _describe(server, pipeline_id, found, uploaded=False)
    spec = server.read(
        f"read the pipeline version {version.name}",
        server.pipelines.pipeline_service_get_pipeline_version,
        pipeline_id=pipeline_id,
        pipeline_version_id=version.version_id,
    ).pipeline_spec
    # Without a platform spec, the pipeline spec is not wrapped.
    parts = [spec[key] for key in ("pipeline_spec", "platform_spec") if key in spec] or [spec]
    return version, PipelineDocument(tuple(parts))


def name_filter(name: str) -> str:
    """Return the filter of a list request for entries with a name."""
    # The server URL-decodes a filter once more than the client encodes it.
    quoted = name.replace("%", "%25").replace("+", "%2B")
    return json.dumps(
        # 1 is EQUALS.
        {"predicates": [{"operation": 1, "key": "display_name", "stringValue": quoted}]}
    )


def _describe(
    server: KfpServer,
    pipeline_id: str,
    version: Any,  # noqa: ANN401 - untyped library
    *,
    uploaded: bool,
) -> PipelineVersion:
    version_id = str(version.pipeline_version_id)
    return PipelineVersion(
        pipeline_id=pipeline_id,
        version_id=version_id,
        name=str(version.display_name),
        url=server.page(f"pipelines/details/{pipeline_id}/version/{version_id}"),
        uploaded=uploaded,
    )


def _create_pipeline(server: KfpServer, name: str, description: str) -> str:
    body = server.models.V2beta1Pipeline(
        display_name=name, name=name, description=description, namespace=server.namespace
    )
    created = server.write(
        f"create the pipeline {name!r}",
        server.pipelines.pipeline_service_create_pipeline,
        pipeline=body,
    )
    return str(created.pipeline_id)


def _find_pipeline(server: KfpServer, name: str) -> str | None:
    answer = server.read(
        f"find the pipeline {name!r}",
        server.pipelines.pipeline_service_list_pipelines,
        filter=name_filter(name),
        **server.namespace_filter,
    )
    found = answer.pipelines or []
    # Names are unique within a namespace.
    return str(found[0].pipeline_id) if found else None


def _find_version(server: KfpServer, pipeline_id: str, start: str) -> Any | None:  # noqa: ANN401
    page = ""
    while True:
        answer = server.read(
            f"find the pipeline version {start}",
            server.pipelines.pipeline_service_list_pipeline_versions,
            pipeline_id=pipeline_id,
            page_size=_PAGE_SIZE,
            page_token=page,
            # The first match is the newest.
            sort_by="created_at desc",
        )
        for version in answer.pipeline_versions or []:
            if str(version.display_name).startswith(start):
                return version
        page = answer.next_page_token or ""
        if not page:
            return None


def _upload(server: KfpServer, pipeline_id: str, document: PipelineDocument) -> Any:  # noqa: ANN401
    # The client uploads files only.
    with TemporaryDirectory() as folder:
        file = Path(folder) / "pipeline.yaml"
        file.write_text(document.to_yaml(), encoding="utf-8")
        try:
            return server.write(
                f"upload the pipeline version {document.version}",
                server.pipeline_uploads.upload_pipeline_version,
                uploadfile=str(file),
                name=document.version,
                pipelineid=pipeline_id,
                description=document.description,
            )
        except ClusterError:
            # Another client uploaded it in between, or the response was lost.
            found = _find_version(server, pipeline_id, document.version)
            if found is None:
                raise
            return found
