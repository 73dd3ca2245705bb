import socket
from pathlib import Path

import pytest

from advgrpo.errors import ClusterError, ClusterUnavailableError, ConfigError
from advgrpo.kfp_client import Access, KfpServer
from advgrpo.kfp_client.runs import get_or_create_experiment
from advgrpo.testing import KfpFault, StubKfp
from tests.certificates import self_signed
from tests.kfp_client.conftest import TOKEN


def test_a_token_is_sent(stub: StubKfp) -> None:
    KfpServer(Access(endpoint=stub.endpoint, token=TOKEN))
    assert stub.requests[-1].headers["authorization"] == f"Bearer {TOKEN}"


def test_a_token_file_is_read_for_each_request(stub: StubKfp, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    server = KfpServer(Access(endpoint=stub.endpoint, token_file=file))
    stub.token = "a-newer-token"
    file.write_text(stub.token)
    get_or_create_experiment(server, "e")
    assert stub.requests[-1].headers["authorization"] == "Bearer a-newer-token"


def test_a_pod_sends_the_token_that_is_mounted_for_pipelines(
    stub: StubKfp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text(TOKEN)
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
    KfpServer(Access(endpoint=stub.endpoint))
    assert stub.requests[-1].headers["authorization"] == f"Bearer {TOKEN}"


def test_a_cookie_is_sent() -> None:
    with StubKfp(cookie="authservice_session=abc") as stub:
        KfpServer(Access(endpoint=stub.endpoint, cookies="authservice_session=abc"))
        assert "authorization" not in stub.requests[-1].headers


@pytest.mark.parametrize(("token", "repair"), [("", "use --token"), ("old", "get a new token")])
def test_a_wrong_token_is_refused_without_retries(stub: StubKfp, token: str, repair: str) -> None:
    with pytest.raises(ClusterError, match="answers 401") as caught:
        KfpServer(Access(endpoint=stub.endpoint, token=token))
    assert repair in caught.value.repair
    assert len(stub.requests) == 1


def test_a_login_page_is_not_mistaken_for_the_api(stub: StubKfp) -> None:
    stub.fail("GET", "/healthz", "page")
    with pytest.raises(ClusterError, match="answers with a page"):
        KfpServer(Access(endpoint=stub.endpoint, token=TOKEN))


@pytest.mark.parametrize(("pod", "setting"), [(False, "--endpoint"), (True, "kubeflow.endpoint")])
def test_an_unreachable_endpoint_is_named(
    pod: bool, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if pod:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(ClusterUnavailableError, match=endpoint) as caught:
            KfpServer(Access(endpoint=endpoint))
    assert setting in caught.value.repair


def test_https_to_a_plain_http_server_is_explained(stub: StubKfp) -> None:
    with pytest.raises(ClusterUnavailableError) as caught:
        KfpServer(Access(endpoint=stub.endpoint.replace("http://", "https://")))
    assert "start the endpoint with http://" in caught.value.repair


def test_without_an_endpoint_the_setting_is_named() -> None:
    with pytest.raises(ConfigError, match="not configured") as caught:
        KfpServer(Access())
    assert "KF_PIPELINES_ENDPOINT" in caught.value.repair


def test_the_endpoint_may_come_from_the_environment(
    stub: StubKfp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", f"{stub.endpoint}/")
    monkeypatch.setenv("KF_PIPELINES_UI_ENDPOINT", "https://kubeflow.example/pipeline")
    server = KfpServer(Access(token=TOKEN))
    assert server.page("runs/details/x") == "https://kubeflow.example/pipeline/#/runs/details/x"


@pytest.mark.parametrize("access", [Access(token_file=Path("none")), Access(ca_file=Path("none"))])
def test_a_missing_file_is_named(access: Access, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(ConfigError, match="none"):
        KfpServer(access)


@pytest.mark.parametrize("fault", [503, 429, "drop", "lose_answer"])
def test_a_transient_error_is_retried(stub: StubKfp, server: KfpServer, fault: KfpFault) -> None:
    stub.fail("GET", "/experiments", fault, times=2)
    assert get_or_create_experiment(server, "e") in stub.experiments


def test_a_persistent_error_has_the_servers_message(stub: StubKfp, server: KfpServer) -> None:
    stub.fail("GET", "/experiments", 503, times=99)
    with pytest.raises(ClusterUnavailableError, match="answers 503: a planned fault"):
        get_or_create_experiment(server, "e")


def test_a_multi_user_server_needs_a_namespace() -> None:
    with StubKfp(namespaces=["ml"]) as stub:
        with pytest.raises(ConfigError, match="namespace is not configured"):
            KfpServer(Access(endpoint=stub.endpoint))
        server = KfpServer(Access(endpoint=stub.endpoint, namespace="ml"))
        made = get_or_create_experiment(server, "e")
        assert stub.experiments[made]["namespace"] == "ml"


def test_another_users_namespace_is_refused_with_the_repair() -> None:
    with StubKfp(namespaces=["ml"]) as stub:
        server = KfpServer(Access(endpoint=stub.endpoint, namespace="other"))
        with pytest.raises(ClusterError, match="not authorized") as caught:
            get_or_create_experiment(server, "e")
        assert "--namespace" in caught.value.repair


def test_a_single_user_server_gets_no_namespace(stub: StubKfp) -> None:
    server = KfpServer(Access(endpoint=stub.endpoint, token=TOKEN, namespace="kubeflow"))
    get_or_create_experiment(server, "e")
    assert all("namespace" not in request.query for request in stub.requests)


def test_a_pod_uses_the_usual_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    with pytest.raises(ClusterUnavailableError, match=r"ml-pipeline\.kubeflow\.svc"):
        KfpServer(Access())


@pytest.fixture
def secured(stub: StubKfp, tmp_path: Path) -> tuple[str, Path]:
    """The address and the certificate of the server behind TLS with a self-signed certificate."""
    file, context = self_signed(tmp_path)
    endpoint = stub.endpoint.replace("http://", "https://")
    stub._server.socket = context.wrap_socket(stub._server.socket, server_side=True)
    return endpoint, file


def test_a_private_ca_is_trusted_if_it_is_given(secured: tuple[str, Path]) -> None:
    endpoint, certificate = secured
    KfpServer(Access(endpoint=endpoint, token=TOKEN, ca_file=certificate))


def test_an_unknown_ca_is_not_trusted(secured: tuple[str, Path]) -> None:
    with pytest.raises(ClusterUnavailableError, match=r"(?i)certificate.verify.failed") as caught:
        KfpServer(Access(endpoint=secured[0], token=TOKEN))
    assert "--ca" in caught.value.repair
