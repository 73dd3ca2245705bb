"""Bring the pipeline to a server, once for each content."""

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
    """Whether it was not there before."""


def upload_pipeline(
    server: KfpServer, document: PipelineDocument, *, name: str, any_images: bool = False
) -> PipelineVersion:
    """Find the version of a pipeline that has a document's content, or upload it.

    Args:
        server: Where to.
        document: The pipeline.
        name: What the server calls it; created if there is none of the name.
        any_images: Whether a version whose tasks run in other images will do, such as the one
            that the chart uploaded with the images of its registry. The newest is taken.

    Raises:
        ClusterError: If the server refuses.
        ClusterUnavailableError: If it does not answer.
    """
    pipeline_id = get_or_create(
        lambda: _find_pipeline(server, name),
        lambda: _make_pipeline(server, name, document.description),
    )
    start = document.content if any_images else document.version
    version = _find_version(server, pipeline_id, start)
    uploaded = version is None
    if version is None:
        version = _upload(server, pipeline_id, document)
    version_id = str(version.pipeline_version_id)
    return PipelineVersion(
        pipeline_id=pipeline_id,
        version_id=version_id,
        name=str(version.display_name),
        url=server.page(f"pipelines/details/{pipeline_id}/version/{version_id}"),
        uploaded=uploaded,
    )


def named(name: str) -> str:
    """Write the filter for entries of a name."""
    # The server decodes a filter as if it were part of a URL, once more than it was encoded.
    quoted = name.replace("%", "%25").replace("+", "%2B")
    return json.dumps(
        {"predicates": [{"operation": 1, "key": "display_name", "stringValue": quoted}]}
    )


def _make_pipeline(server: KfpServer, name: str, description: str) -> str:
    body = server.models.V2beta1Pipeline(
        display_name=name, name=name, description=description, namespace=server.namespace
    )
    made = server.change(
        f"create the pipeline {name!r}",
        server.pipelines.pipeline_service_create_pipeline,
        pipeline=body,
    )
    return str(made.pipeline_id)


def _find_pipeline(server: KfpServer, name: str) -> str | None:
    answer = server.look(
        f"look for the pipeline {name!r}",
        server.pipelines.pipeline_service_list_pipelines,
        filter=named(name),
        **server.within,
    )
    found = answer.pipelines or []
    return str(found[0].pipeline_id) if found else None


def _find_version(server: KfpServer, pipeline_id: str, start: str) -> Any | None:  # noqa: ANN401
    page = ""
    while True:
        answer = server.look(
            f"look for the pipeline version {start}",
            server.pipelines.pipeline_service_list_pipeline_versions,
            pipeline_id=pipeline_id,
            page_size=_PAGE_SIZE,
            page_token=page,
            sort_by="created_at desc",
        )
        for version in answer.pipeline_versions or []:
            if str(version.display_name).startswith(start):
                return version
        page = answer.next_page_token or ""
        if not page:
            return None


def _upload(server: KfpServer, pipeline_id: str, document: PipelineDocument) -> Any:  # noqa: ANN401
    with TemporaryDirectory() as folder:
        file = Path(folder) / "pipeline.yaml"
        file.write_text(document.to_yaml(), encoding="utf-8")
        try:
            return server.change(
                f"upload the pipeline version {document.version}",
                server.pipeline_uploads.upload_pipeline_version,
                uploadfile=str(file),
                name=document.version,
                pipelineid=pipeline_id,
                description=document.description,
            )
        except ClusterError:
            # Somebody else uploaded it just now, or the answer was lost.
            found = _find_version(server, pipeline_id, document.version)
            if found is None:
                raise
            return found
