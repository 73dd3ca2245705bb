import os
from collections.abc import Iterator
from pathlib import Path

import kfp
import pytest

from advgrpo.kfp_client import (
    Access,
    KfpServer,
    PipelineDocument,
    PipelineVersion,
    upload_pipeline,
)
from advgrpo.kfp_client import server as server_module
from advgrpo.kfp_client.compiled import PIPELINE
from advgrpo.testing import StubKfp

TOKEN = "the-token"


@pytest.fixture(autouse=True)
def _no_other_kfp(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    prefixes = ("KF_PIPELINES_", "KFP_", "KUBERNETES_SERVICE_")
    for name in [name for name in os.environ if name.startswith(prefixes)]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(kfp.Client, "_LOCAL_KFP_CONTEXT", str(tmp_path / "context.json"))
    monkeypatch.setattr(server_module, "_RETRY_DELAYS_SECONDS", (0.01, 0.01))


@pytest.fixture
def stub() -> Iterator[StubKfp]:
    with StubKfp(token=TOKEN) as stub:
        yield stub


@pytest.fixture
def server(stub: StubKfp) -> KfpServer:
    return KfpServer(Access(endpoint=stub.endpoint, token=TOKEN))


@pytest.fixture
def document() -> PipelineDocument:
    return PipelineDocument.read(PIPELINE)


@pytest.fixture
def version(server: KfpServer, document: PipelineDocument) -> PipelineVersion:
    return upload_pipeline(server, document, name="adversarial-grpo")
