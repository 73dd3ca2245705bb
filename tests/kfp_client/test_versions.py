from concurrent.futures import ThreadPoolExecutor

import pytest

from advgrpo.errors import ClusterError
from advgrpo.kfp_client import Access, KfpServer, PipelineDocument, upload_pipeline
from advgrpo.testing import KfpFault, StubKfp

NAME = "adversarial-grpo"


def test_the_same_content_is_uploaded_once(
    stub: StubKfp, server: KfpServer, document: PipelineDocument
) -> None:
    first = upload_pipeline(server, document, name=NAME)
    again = upload_pipeline(server, document, name=NAME)
    assert (first.uploaded, again.uploaded) == (True, False)
    assert first.version_id == again.version_id
    assert len(stub.pipelines) == len(stub.versions) == 1


def test_the_pipeline_is_uploaded(
    stub: StubKfp, server: KfpServer, document: PipelineDocument
) -> None:
    version = upload_pipeline(server, document, name=NAME)
    sent = stub.versions[version.version_id]["pipeline_spec"]
    assert (sent["pipeline_spec"], sent["platform_spec"]) == document.parts


def test_other_images_are_another_version(
    stub: StubKfp, server: KfpServer, document: PipelineDocument
) -> None:
    upload_pipeline(server, document, name=NAME)
    upload_pipeline(server, document.with_images(launcher="r/launcher:2"), name=NAME)
    assert len(stub.versions) == 2


def test_any_images_accepts_the_newest_version_of_the_content(
    stub: StubKfp, server: KfpServer, document: PipelineDocument
) -> None:
    upload_pipeline(server, document.with_images(launcher="r/launcher:1"), name=NAME)
    newest = upload_pipeline(server, document.with_images(launcher="r/launcher:2"), name=NAME)
    found = upload_pipeline(server, document, name=NAME, any_images=True)
    assert found.version_id == newest.version_id
    assert len(stub.versions) == 2


def test_a_version_is_found_beyond_the_first_page(
    stub: StubKfp, server: KfpServer, document: PipelineDocument
) -> None:
    first = upload_pipeline(server, document, name=NAME)
    for number in range(120):
        stub._add_version(first.pipeline_id, f"other-{number}", {})
    assert not upload_pipeline(server, document, name=NAME).uploaded


@pytest.mark.parametrize("path", ["/pipelines/upload_version", "/pipelines"])
@pytest.mark.parametrize("fault", ["lose_answer"])
def test_a_lost_response_does_not_create_a_second_version(
    stub: StubKfp, server: KfpServer, document: PipelineDocument, path: str, fault: KfpFault
) -> None:
    stub.fail("POST", path, fault)
    upload_pipeline(server, document, name=NAME)
    assert len(stub.pipelines) == len(stub.versions) == 1


def test_a_refusal_is_an_error(
    stub: StubKfp, server: KfpServer, document: PipelineDocument
) -> None:
    stub.fail("POST", "/pipelines", 403)
    with pytest.raises(ClusterError, match="cannot create the pipeline 'adversarial-grpo'"):
        upload_pipeline(server, document, name=NAME)


def test_on_a_multi_user_server_the_pipeline_belongs_to_the_namespace(
    document: PipelineDocument,
) -> None:
    with StubKfp(namespaces=["ml"]) as stub:
        server = KfpServer(Access(endpoint=stub.endpoint, namespace="ml"))
        made = upload_pipeline(server, document, name=NAME)
        assert stub.pipelines[made.pipeline_id]["namespace"] == "ml"


def test_concurrent_uploads_create_one_version(
    stub: StubKfp, server: KfpServer, document: PipelineDocument
) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: upload_pipeline(server, document, name=NAME), range(4)))
    assert len({version.version_id for version in made}) == 1
    assert len(stub.pipelines) == len(stub.versions) == 1
