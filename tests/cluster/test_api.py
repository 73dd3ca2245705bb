from contextlib import closing
from pathlib import Path

import pytest

from advgrpo.cluster import connection
from advgrpo.cluster.api import SINGLE_ATTEMPT, Api, RetryPolicy
from advgrpo.cluster.api_errors import NotFoundError
from advgrpo.cluster.connection import connect
from advgrpo.cluster.resources import PODS, WORKFLOWS
from advgrpo.errors import ClusterError, ClusterUnavailableError
from advgrpo.testing import FakeCluster, Fault
from advgrpo.testing.cluster_faults import FaultKind
from tests.cluster.clock import Clock
from tests.cluster.launching import api_of


@pytest.mark.parametrize("kind", ["reset_before", "reset_after", "silence", "cut", "cut_quietly"])
def test_a_request_is_retried_until_it_is_answered(
    cluster: FakeCluster, api: Api, kind: FaultKind
) -> None:
    cluster.create("pods", {"metadata": {"name": "pod"}})
    cluster.faults.plan(Fault(kind, times=2))
    assert api.get(PODS, "pod")["metadata"]["name"] == "pod"
    assert len(cluster.calls) == 3


def test_delays_grow_and_the_retries_end(cluster: FakeCluster, clock: Clock) -> None:
    cluster.faults.plan(Fault("status", times=10_000))
    policy = RetryPolicy(budget_seconds=100.0, max_delay_seconds=20.0)
    start = clock()
    with (
        closing(api_of(cluster, clock, policy)) as api,
        pytest.raises(ClusterUnavailableError, match="503 fault 503"),
    ):
        api.get(PODS, "pod")
    assert 80 <= clock() - start <= 100
    # 1 + 2 + 4 + 8 + 16 + 20 + 20 + 20 seconds
    assert len(cluster.calls) == 9


def test_retry_after_is_bounded(cluster: FakeCluster, api: Api, clock: Clock) -> None:
    cluster.faults.plan(Fault("status", status=429, retry_after_seconds=86_400))
    start = clock()
    with pytest.raises(NotFoundError):
        api.get(PODS, "pod")
    assert clock() - start == 120


def test_a_request_without_retries_is_sent_once(cluster: FakeCluster, api: Api) -> None:
    cluster.faults.plan(Fault("status"))
    with pytest.raises(ClusterUnavailableError):
        api.list(PODS, retry=False)
    assert len(cluster.calls) == 1


def test_lists_are_read_to_their_end(cluster: FakeCluster, api: Api) -> None:
    for number in range(5):
        cluster.create("pods", {"metadata": {"name": f"pod-{number}"}})
    assert len(api.list(PODS)) == 5
    assert len(api.list(PODS, limit="2")) == 2


def test_a_list_whose_next_page_has_expired_is_read_again(
    cluster: FakeCluster, api: Api, clock: Clock
) -> None:
    cluster.most_items = 2
    for number in range(5):
        cluster.create("pods", {"metadata": {"name": f"pod-{number}"}})
    start = clock()
    cluster.faults.plan(Fault("status", status=410, skip=1))
    assert len(api.list(PODS)) == 5
    cluster.faults.clear()
    cluster.faults.plan(*(Fault("status", status=410, skip=skip) for skip in range(1, 99, 2)))
    with pytest.raises(ClusterUnavailableError, match="cannot complete the list of pods"):
        api.list(PODS)
    assert clock() == start


def test_an_object_with_another_uid_is_not_deleted(cluster: FakeCluster, api: Api) -> None:
    uid = cluster.create("pods", {"metadata": {"name": "pod"}})["metadata"]["uid"]
    assert not api.delete(PODS, "pod", uid="another")
    assert api.delete(PODS, "pod", uid=uid)
    assert not api.delete(PODS, "pod", uid=uid)


def test_the_error_of_a_refused_request_names_verb_object_and_namespace(
    cluster: FakeCluster, api: Api
) -> None:
    cluster.faults.plan(Fault("status", status=422), Fault("status", skip=1, status=401))
    with pytest.raises(ClusterError, match="refuses to create pods in the namespace default"):
        api.create(PODS, {"metadata": {"name": "pod"}})
    with pytest.raises(ClusterError, match="does not accept the credentials"):
        api.get(PODS, "pod")


def test_a_single_attempt_is_not_retried(cluster: FakeCluster, clock: Clock) -> None:
    cluster.faults.plan(Fault("status"))
    with (
        closing(api_of(cluster, clock, SINGLE_ATTEMPT)) as api,
        pytest.raises(ClusterUnavailableError, match="did not answer: 503"),
    ):
        api.read("/version")
    assert len(cluster.calls) == 1


def test_a_kubeconfig_file_leads_to_the_cluster(
    cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(tmp_path / "x", namespace="mine")))
    with closing(connect()) as api:
        assert api.namespace == "mine"
        assert api.list(PODS) == []
    with closing(connect("other")) as api:
        assert api.namespace == "other"


def test_a_pod_finds_its_own_cluster_and_namespace(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from kubernetes.config import incluster_config

    for name, text in (("token", "secret"), ("ca.crt", "certificate"), ("namespace", "mine\n")):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    monkeypatch.setattr(connection, "_NAMESPACE_FILE", tmp_path / "namespace")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    with closing(connect()) as api:
        assert api.namespace == api.pod_namespace == "mine"


def test_without_access_to_a_cluster_the_repair_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(ClusterError, match="no access to Kubernetes") as error:
        connect()
    assert "KUBECONFIG" in error.value.repair


@pytest.mark.parametrize("content", [b"a: [b", b"hello", b"\xff\xfe"])
def test_an_invalid_kubeconfig_file_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    (tmp_path / "config").write_bytes(content)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    with pytest.raises(ClusterError, match="no access to Kubernetes"):
        connect()


def test_a_kind_that_cannot_be_listed_is_unknown(cluster: FakeCluster, api: Api) -> None:
    cluster.faults.plan(Fault("status", status=404))
    with pytest.raises(ClusterError, match="does not know workflows") as error:
        api.list(WORKFLOWS)
    assert "install" in error.value.repair
