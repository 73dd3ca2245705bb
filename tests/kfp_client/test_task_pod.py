from typing import Any

import pytest

from advgrpo.cluster.settings import ClusterSettings
from advgrpo.kfp_client import PipelineDocument
from advgrpo.kfp_client.task_pod import task_pod
from tests.helm.pod_security import violations


@pytest.mark.parametrize("user", [10001, 1000660000, None])
def test_a_task_meets_pod_security_restricted(document: PipelineDocument, user: int | None) -> None:
    pod = task_pod(document, ClusterSettings(image="r/trainer:1", run_as_user=user))
    assert violations(pod["spec"]) == []
    (container,) = pod["spec"]["containers"]
    assert container["securityContext"].get("runAsUser") == user
    assert container["securityContext"].get("runAsGroup") == user


def test_it_has_image_resources_and_labels_of_the_task(document: PipelineDocument) -> None:
    pod: dict[str, Any] = task_pod(document, ClusterSettings(image="r/trainer:1"))
    (container,) = pod["spec"]["containers"]
    assert container["image"] == "r/trainer:1"
    assert container["resources"] == {
        "requests": {"cpu": "250m", "memory": "512Mi"},
        "limits": {"memory": "4Gi"},
    }
    assert pod["metadata"]["labels"]["app.kubernetes.io/component"] == "task"
