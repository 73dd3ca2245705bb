import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3
from kubernetes import client, config

from advgrpo.testing import Call, FakeCluster, FakeJob, Fault, Step, run_until
from advgrpo.testing.cluster_faults import FaultKind
from tests.cluster.clock import Clock

JOB = ("kubeflow.org", "v1", "default", "pytorchjobs")
TIMEOUT = {"_request_timeout": (1, 1)}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cluster(clock: Clock) -> Iterator[FakeCluster]:
    with FakeCluster(clock=clock) as made:
        yield made


@pytest.fixture
def api(cluster: FakeCluster, tmp_path: Path) -> Iterator[client.ApiClient]:
    kubeconfig = cluster.kubeconfig(tmp_path / "kubeconfig")
    settings = client.Configuration()
    config.load_kube_config(str(kubeconfig), client_configuration=settings)
    settings.retries = False
    with client.ApiClient(settings) as made:
        yield made


@pytest.fixture
def jobs(api: client.ApiClient) -> client.CustomObjectsApi:
    return client.CustomObjectsApi(api)


@pytest.fixture
def core(api: client.ApiClient) -> client.CoreV1Api:
    return client.CoreV1Api(api)


def manifest(name: str = "job", *, workers: int = 1, **labels: str) -> dict[str, Any]:
    template = {"spec": {"containers": [{"name": "pytorch", "image": "trainer"}]}}
    replicas = {"Master": {"replicas": 1, "template": template}}
    if workers:
        replicas["Worker"] = {"replicas": workers, "template": template}
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": name, "labels": labels},
        "spec": {"pytorchReplicaSpecs": replicas, "runPolicy": {"cleanPodPolicy": "Running"}},
    }


def status(error: "pytest.ExceptionInfo[client.ApiException]") -> int:
    return int(error.value.status)


def conditions(job: dict[str, Any]) -> dict[str, str]:
    return {one["type"]: one["status"] for one in job["status"]["conditions"]}


def test_an_object_is_created_once(jobs: client.CustomObjectsApi) -> None:
    made = jobs.create_namespaced_custom_object(*JOB, manifest())
    with pytest.raises(client.ApiException) as error:
        jobs.create_namespaced_custom_object(*JOB, manifest())
    assert status(error) == 409
    assert (
        jobs.get_namespaced_custom_object(*JOB, "job")["metadata"]["uid"]
        == (made["metadata"]["uid"])
    )


def test_labels_select_what_is_listed(jobs: client.CustomObjectsApi) -> None:
    jobs.create_namespaced_custom_object(*JOB, manifest("a", mine="yes"))
    jobs.create_namespaced_custom_object(*JOB, manifest("b", mine="no"))
    for selector, names in (("mine=yes", ["a"]), ("mine!=yes", ["b"]), ("mine", ["a", "b"])):
        listed = jobs.list_namespaced_custom_object(*JOB, label_selector=selector)
        assert [one["metadata"]["name"] for one in listed["items"]] == names
    first = jobs.list_namespaced_custom_object(*JOB, limit=1)
    rest = jobs.list_namespaced_custom_object(*JOB, _continue=first["metadata"]["continue"])
    assert [one["metadata"]["name"] for one in [*first["items"], *rest["items"]]] == ["a", "b"]


def test_missing_and_forbidden_objects_are_named(
    cluster: FakeCluster, jobs: client.CustomObjectsApi, core: client.CoreV1Api
) -> None:
    with pytest.raises(client.ApiException, match=r"kubeflow\.org .+job") as error:
        jobs.get_namespaced_custom_object(*JOB, "job")
    assert status(error) == 404
    with pytest.raises(client.ApiException, match='namespaces \\\\"other') as error:
        core.create_namespaced_pod("other", {"metadata": {"name": "x"}, "spec": {"containers": []}})
    assert status(error) == 404
    cluster.denied.add(("list", "pods"))
    with pytest.raises(client.ApiException, match="cannot list") as error:
        core.list_namespaced_pod("default")
    assert status(error) == 403
    cluster.missing_resources.add("pytorchjobs")
    with pytest.raises(client.ApiException, match="404 page not found"):
        jobs.list_namespaced_custom_object(*JOB)


@pytest.mark.parametrize(("verb", "allowed"), [("get", True), ("delete", False)])
def test_a_review_returns_what_is_allowed(
    cluster: FakeCluster, api: client.ApiClient, verb: str, allowed: bool
) -> None:
    cluster.denied.add(("delete", "pytorchjobs"))
    attributes = client.V1ResourceAttributes(
        group="kubeflow.org", resource="pytorchjobs", verb=verb
    )
    review = client.V1SelfSubjectAccessReview(
        spec=client.V1SelfSubjectAccessReviewSpec(resource_attributes=attributes)
    )
    answer = client.AuthorizationV1Api(api).create_self_subject_access_review(review)
    assert answer.status.allowed is allowed


def test_foreground_deletion_takes_time(
    cluster: FakeCluster, clock: Clock, jobs: client.CustomObjectsApi, core: client.CoreV1Api
) -> None:
    cluster.store.deletion_seconds = 30
    cluster.operator.plans.append(run_until(FakeJob.succeed))
    uid = jobs.create_namespaced_custom_object(*JOB, manifest())["metadata"]["uid"]
    clock.sleep(5)
    assert len(core.list_namespaced_pod("default").items) == 2
    for wrong in (
        {"preconditions": {"uid": "another"}},
        {"preconditions": {"resourceVersion": "0"}},
    ):
        with pytest.raises(client.ApiException) as error:
            jobs.delete_namespaced_custom_object(*JOB, "job", body=wrong)
        assert status(error) == 409
    body = {"propagationPolicy": "Foreground", "preconditions": {"uid": uid}}
    jobs.delete_namespaced_custom_object(*JOB, "job", body=body)
    going = jobs.get_namespaced_custom_object(*JOB, "job")
    assert "deletionTimestamp" in going["metadata"]
    with pytest.raises(client.ApiException, match="is being deleted"):
        jobs.create_namespaced_custom_object(*JOB, manifest())
    clock.sleep(31)
    assert core.list_namespaced_pod("default").items == []
    with pytest.raises(client.ApiException) as error:
        jobs.get_namespaced_custom_object(*JOB, "job")
    assert status(error) == 404


def test_dependents_are_deleted_with_their_owner(
    cluster: FakeCluster, jobs: client.CustomObjectsApi
) -> None:
    flow = cluster.create("workflows", {"metadata": {"name": "flow"}}, group="argoproj.io")
    owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "flow"}
    owned = manifest()
    owned["metadata"]["ownerReferences"] = [owner | {"uid": flow["metadata"]["uid"]}]
    jobs.create_namespaced_custom_object(*JOB, owned)
    jobs.delete_namespaced_custom_object("argoproj.io", "v1alpha1", "default", "workflows", "flow")
    assert jobs.list_namespaced_custom_object(*JOB)["items"] == []


def test_a_plan_is_carried_out_as_time_passes(
    cluster: FakeCluster, clock: Clock, jobs: client.CustomObjectsApi, core: client.CoreV1Api
) -> None:
    cluster.operator.plans.append(
        (Step(0, FakeJob.suspend), Step(10, FakeJob.resume), *run_until(FakeJob.succeed)[:0],
         Step(11, FakeJob.add_pods), Step(12, FakeJob.run), Step(40, FakeJob.succeed))
    )  # fmt: skip
    jobs.create_namespaced_custom_object(*JOB, manifest())
    seen = []
    for _ in range(6):
        job = jobs.get_namespaced_custom_object(*JOB, "job")
        phases = [pod.status.phase for pod in core.list_namespaced_pod("default").items]
        seen.append(([k for k, v in conditions(job).items() if v == "True"], phases))
        clock.sleep(11 if len(seen) == 1 else 10)
    assert seen[0] == (["Created", "Suspended"], [])
    assert seen[1] == (["Created"], ["Pending", "Pending"])
    assert seen[2] == (["Created", "Running"], ["Running", "Running"])
    # cleanPodPolicy removes the worker, which still runs.
    assert seen[5] == (["Created", "Succeeded"], ["Succeeded"])


def test_an_exit_status_from_128_restarts_the_pod_and_a_lower_one_fails_the_job(
    cluster: FakeCluster, clock: Clock, jobs: client.CustomObjectsApi, core: client.CoreV1Api
) -> None:
    cluster.operator.plans.append(
        (
            Step(0, FakeJob.add_pods),
            Step(0, FakeJob.run),
            Step(5, lambda job: job.exit_pod(137, reason="OOMKilled")),
            Step(20, lambda job: job.evict(pod="worker-0")),
            Step(40, lambda job: job.exit_pod(2, message="bad settings")),
        )
    )
    jobs.create_namespaced_custom_object(*JOB, manifest())

    def pod(name: str) -> Any:  # noqa: ANN401
        return core.read_namespaced_pod(f"job-{name}", "default")

    first = pod("master-0").metadata.uid
    clock.sleep(6)
    ended = pod("master-0").status.container_statuses[0].state.terminated
    assert (ended.exit_code, ended.reason) == (137, "OOMKilled")
    assert "Restarting" in conditions(jobs.get_namespaced_custom_object(*JOB, "job"))
    clock.sleep(4)
    assert pod("master-0").metadata.uid != first
    clock.sleep(10)
    assert pod("worker-0").status.reason == "Evicted"
    clock.sleep(5)
    assert pod("worker-0").status.phase == "Running"
    clock.sleep(20)
    job = jobs.get_namespaced_custom_object(*JOB, "job")
    assert conditions(job)["Failed"] == "True"
    assert pod("master-0").status.container_statuses[0].state.terminated.message == "bad settings"


def test_a_log_has_timestamps_and_a_start(
    cluster: FakeCluster, clock: Clock, jobs: client.CustomObjectsApi, api: client.ApiClient
) -> None:
    cluster.operator.plans.append(
        (
            Step(0, FakeJob.add_pods),
            Step(1, FakeJob.run),
            Step(2, lambda job: job.log("one", "two")),
            Step(9, lambda job: job.log("three")),
        )
    )
    jobs.create_namespaced_custom_object(*JOB, manifest())
    path = "/api/v1/namespaces/default/pods/job-master-0/log"

    def log(**parameters: str) -> str:
        found = api.call_api(
            path, "GET", query_params=list(parameters.items()), response_type="str",
            _return_http_data_only=True,
        )  # fmt: skip
        return str(found)

    with pytest.raises(client.ApiException, match="waiting to start"):
        log()
    clock.sleep(10)
    assert log() == "one\ntwo\nthree\n"
    lines = log(timestamps="true").splitlines()
    assert [line.partition(" ")[2] for line in lines] == ["one", "two", "three"]
    assert log(tailLines="1") == "three\n"
    since = lines[2].partition(".")[0] + "Z"
    assert log(sinceTime=since) == "three\n"


def test_a_log_can_be_followed() -> None:
    with FakeCluster() as cluster:
        settings = client.Configuration(host=cluster.url)
        cluster.operator.plans.append(
            (
                Step(0, FakeJob.add_pods),
                Step(0, FakeJob.run),
                Step(0, lambda job: job.log("one")),
                Step(0.2, lambda job: job.log("two")),
                Step(0.3, FakeJob.succeed),
            )
        )
        with client.ApiClient(settings) as api:
            client.CustomObjectsApi(api).create_namespaced_custom_object(*JOB, manifest())
            stream = client.CoreV1Api(api).read_namespaced_pod_log(
                "job-master-0", "default", follow=True, _preload_content=False
            )
            assert stream.read() == b"one\ntwo\n"


@pytest.mark.parametrize("code", [409, 410, 429, 500, 502, 503, 504])
def test_a_status_can_be_planned(cluster: FakeCluster, core: client.CoreV1Api, code: int) -> None:
    cluster.faults.plan(Fault("status", skip=1, status=code, retry_after_seconds=7))
    core.list_namespaced_pod("default")
    with pytest.raises(client.ApiException) as error:
        core.list_namespaced_pod("default")
    assert status(error) == code
    assert error.value.headers["Retry-After"] == "7"
    core.list_namespaced_pod("default")


@pytest.mark.parametrize(
    ("kind", "carried_out"),
    [("reset_before", 0), ("reset_after", 1), ("silence", 0), ("silence_after", 1), ("cut", 1)],
)
def test_a_connection_can_break_before_or_after_the_work(
    cluster: FakeCluster, jobs: client.CustomObjectsApi, kind: FaultKind, carried_out: int
) -> None:
    cluster.faults.plan(Fault(kind, verb="create"))
    with pytest.raises((urllib3.exceptions.HTTPError, OSError)):
        jobs.create_namespaced_custom_object(*JOB, manifest(), _request_timeout=(0.2, 0.2))
    assert len(cluster.store.all("kubeflow.org", "pytorchjobs")) == carried_out


def test_an_answer_can_be_slow_or_truncated_undetectably(
    cluster: FakeCluster, core: client.CoreV1Api
) -> None:
    cluster.faults.plan(Fault("slow", seconds=0.2), Fault("cut_quietly", skip=1))
    start = time.monotonic()
    core.list_namespaced_pod("default", **TIMEOUT)
    assert time.monotonic() - start >= 0.2
    # The client returns invalid JSON as a string, which has no items.
    with pytest.raises(ValueError, match="`items`, must not be `None`"):
        core.list_namespaced_pod("default", **TIMEOUT)


def test_another_client_can_delete_or_replace_a_job(
    cluster: FakeCluster, clock: Clock, jobs: client.CustomObjectsApi
) -> None:
    cluster.operator.plans += [(Step(5, FakeJob.replace),), (Step(5, FakeJob.delete),)]
    uid = jobs.create_namespaced_custom_object(*JOB, manifest())["metadata"]["uid"]
    clock.sleep(6)
    assert jobs.get_namespaced_custom_object(*JOB, "job")["metadata"]["uid"] != uid
    clock.sleep(6)
    with pytest.raises(client.ApiException):
        jobs.get_namespaced_custom_object(*JOB, "job")


def test_requests_are_recorded_in_the_terms_of_roles(
    cluster: FakeCluster, core: client.CoreV1Api
) -> None:
    core.list_namespaced_pod("default")
    with pytest.raises(client.ApiException):
        core.read_namespaced_pod_log("x", "default")
    assert cluster.calls == [
        Call("list", "", "pods", "default"),
        Call("get", "", "pods/log", "default", "x"),
    ]
