import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from advgrpo.cli.main import app
from advgrpo.cluster.api import Api
from advgrpo.cluster.backends.registry import BACKENDS
from advgrpo.cluster.janitor import clean
from advgrpo.cluster.roles import janitor_rules
from advgrpo.errors import ClusterError
from advgrpo.testing import FakeCluster, Fault

FLOW = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow"}


@pytest.fixture
def add(cluster: FakeCluster) -> Callable[..., None]:
    def make(name: str, *, phase: str | None = None, uid: str = "", ours: bool = True) -> None:
        """Create a job, and its Workflow unless `phase` is None."""
        meta: dict[str, Any] = {"name": name, "labels": {}}
        if ours:
            meta["labels"]["app.kubernetes.io/managed-by"] = "advgrpo"
        flow = f"flow-of-{name}"
        its_uid = "gone"
        if phase is not None:
            body = {"metadata": {"name": flow}, "status": {"phase": phase}}
            its_uid = cluster.create("workflows", body, group="argoproj.io")["metadata"]["uid"]
        meta["ownerReferences"] = [FLOW | {"name": flow, "uid": uid or its_uid}]
        cluster.create("pytorchjobs", {"metadata": meta, "spec": {}}, group="kubeflow.org")

    return make


def names(cluster: FakeCluster) -> set[str]:
    found = cluster.store.all("kubeflow.org", "pytorchjobs")
    return {job["metadata"]["name"] for job in found}


def test_jobs_whose_workflow_has_ended_are_deleted_and_no_others(
    cluster: FakeCluster, api: Api, add: Callable[..., None]
) -> None:
    for phase in ("Succeeded", "Failed", "Error", "Running", "Pending", ""):
        add(f"job-{phase.lower() or 'new'}", phase=phase)
    add("job-gone")
    add("job-of-earlier-flow", phase="Running", uid="earlier")
    add("job-of-others", phase="Failed", ours=False)
    labels = {"app.kubernetes.io/managed-by": "advgrpo"}
    cluster.create(
        "pytorchjobs", {"metadata": {"name": "laptop", "labels": labels}}, group="kubeflow.org"
    )
    before = names(cluster)
    planned = clean(api, dry_run=True)
    assert names(cluster) == before
    done = clean(api)
    assert done.deleted == planned.deleted
    assert before - names(cluster) == set(done.deleted) == {
        "job-succeeded", "job-failed", "job-error", "job-gone", "job-of-earlier-flow",
    }  # fmt: skip
    assert (done.jobs, done.kept, done.without_workflow) == (9, 3, 1)
    assert clean(api).deleted == []


@pytest.mark.parametrize("condition", ["Succeeded", "Failed"])
def test_ended_jobs_stay_to_explain_their_end(
    cluster: FakeCluster, api: Api, add: Callable[..., None], condition: str
) -> None:
    add("job", phase="Failed")
    (job,) = cluster.store.all("kubeflow.org", "pytorchjobs")
    job["status"] = {"conditions": [{"type": condition, "status": "True"}]}
    done = clean(api)
    assert (done.deleted, done.ended, done.kept) == ([], 1, 0)
    assert names(cluster) == {"job"}


def test_a_job_of_a_cancelled_workflow_that_still_ends_is_deleted(
    cluster: FakeCluster, api: Api, add: Callable[..., None]
) -> None:
    add("job", phase="Running")
    (flow,) = cluster.store.all("argoproj.io", "workflows")
    flow["spec"] = {"shutdown": "Terminate"}
    assert clean(api).deleted == ["job"]


def test_a_job_without_an_owner_is_identified_by_its_label(cluster: FakeCluster, api: Api) -> None:
    labels = {"app.kubernetes.io/managed-by": "advgrpo", "advgrpo/workflow": "gone"}
    cluster.create(
        "pytorchjobs", {"metadata": {"name": "job", "labels": labels}}, group="kubeflow.org"
    )
    assert clean(api).deleted == ["job"]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda c: c.missing_resources.add("workflows"), "does not know workflows"),
        (lambda c: c.denied.add(("list", "workflows")), "not allowed to list workflows"),
        (lambda c: c.denied.add(("get", "workflows")), "not allowed to get workflows"),
        (lambda c: c.missing_resources.add("pytorchjobs"), "pytorchjobs"),
        (lambda c: c.faults.plan(Fault("status", times=999)), "did not answer"),
        (lambda c: c.faults.plan(Fault("status", resource="workflows", skip=1, times=999)),
         "did not answer"),
    ],
)  # fmt: skip
def test_nothing_is_deleted_if_workflows_cannot_be_read(
    cluster: FakeCluster,
    api: Api,
    add: Callable[..., None],
    spoil: Callable[[FakeCluster], None],
    words: str,
) -> None:
    add("job", phase="Running")
    add("orphan")
    spoil(cluster)
    with pytest.raises(ClusterError, match=words) as error:
        clean(api)
    assert error.value.repair
    assert "job" in names(cluster)


def test_a_job_that_cannot_be_deleted_does_not_stop_the_others(
    cluster: FakeCluster, api: Api, add: Callable[..., None]
) -> None:
    add("a")
    add("b")
    cluster.faults.plan(Fault("status", verb="delete", status=422))
    done = clean(api)
    assert (done.failed, done.deleted) == (["a"], ["b"])


def test_the_requests_are_exactly_those_of_the_role(
    cluster: FakeCluster, api: Api, add: Callable[..., None]
) -> None:
    add("job")
    other = BACKENDS["trainjob"].resource
    cluster.kinds.add(other)
    labels = {"app.kubernetes.io/managed-by": "advgrpo", "advgrpo/workflow": "gone"}
    body = {"metadata": {"name": "other", "labels": labels}}
    cluster.create(other.plural, body, group=other.group)
    clean(api)
    allowed = {
        (verb, group, resource)
        for rule in janitor_rules(BACKENDS.values())
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    assert {(call.verb, call.group, call.resource) for call in cluster.calls} == allowed


def test_the_command_prints_a_line_of_json(
    cluster: FakeCluster,
    add: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(tmp_path / "kubeconfig")))
    add("job")
    runs = ((["--dry-run"], ["job"], {"job"}), ([], ["job"], set()), ([], [], set()))
    for arguments, deleted, left in runs:
        done = CliRunner().invoke(app, ["cluster", "janitor", "--namespace", "default", *arguments])
        assert done.exit_code == 0, done.output
        said = json.loads(done.output.splitlines()[-1])
        assert said["namespace"] == "default"
        assert said["deleted"] == deleted
        assert names(cluster) == left


def test_the_command_fails_if_a_job_cannot_be_deleted(
    cluster: FakeCluster,
    add: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(tmp_path / "kubeconfig")))
    add("job")
    cluster.denied.add(("delete", "pytorchjobs"))
    done = CliRunner().invoke(app, ["cluster", "janitor"])
    assert isinstance(done.exception, ClusterError)
    assert json.loads(done.output.splitlines()[-1])["failed"] == ["job"]
