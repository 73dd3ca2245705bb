"""Releases of the chart that tests render."""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import yaml

from helm.chart import EXAMPLES, OFFLINE, Values, example, render

Object = dict[str, Any]

MINIMAL: Values = {
    **OFFLINE,
    "s3": {"bucket": "research", "existingSecret": "advgrpo-s3"},
    "mlflow": {"trackingUri": "http://mlflow.tracking:5000"},
}

CREATED_SECRETS: Values = {
    **OFFLINE,
    "s3": {
        "bucket": "research",
        "endpoint": "http://s3.storage:9000",
        "accessKeyId": "planted-id",
        "secretAccessKey": "planted-key",
    },
    "mlflow": {
        "username": "planted-user",
        "password": "planted-password",
        "server": {"enabled": True, "webhooks": {"existingSecret": "fernet"}},
    },
    "metrics": {
        "enabled": True,
        "from": {"namespaces": ["monitoring"]},
        "pushGateway": "http://pushgateway.monitoring:9091",
    },
    "promotion": {
        "webhook": {"enabled": True, "secret": "planted-webhook-secret"},
        "reconciler": {"enabled": True},
    },
}

EVERYTHING: Values = {
    **OFFLINE,
    "fullnameOverride": "grpo",
    "images": {
        "registry": "registry.example.org/research",
        "pullSecrets": ["registry"],
        "launcher": {"digest": "sha256:" + "0" * 64},
    },
    "configMap": {"name": "grpo-settings"},
    "s3": {
        "bucket": "research",
        "prefix": "",
        "endpoint": "http://s3.storage:9000",
        "workloadIdentity": True,
    },
    "mlflow": {
        "token": "planted-token",
        "server": {
            "enabled": True,
            "database": {"existingSecret": "postgres"},
            "webhooks": {"existingSecret": "fernet"},
            "from": {"namespaces": ["istio-system"], "cidrs": ["10.0.0.0/8"]},
        },
    },
    "kubeflow": {"upload": {"enabled": False}},
    "serviceAccounts": {"training": {"annotations": {"example.org/role": "reader"}}},
    "cluster": {
        "processesPerNode": 4,
        "queue": "team-a",
        "rdma": {"resource": "rdma/hca"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "environment": {"NCCL_DEBUG": "INFO"},
        "runAsUser": 2000,
    },
    "cache": {"enabled": True},
    "janitor": {"dryRun": True},
    "promotion": {
        "webhook": {"enabled": True, "existingSecret": "hmac"},
        "reconciler": {"enabled": True},
        "onPromotion": {"pipeline": "roll-out"},
    },
    "networkPolicies": {
        "database": {"namespaces": ["databases"]},
        "jobs": [{"cidrs": ["192.0.2.0/24"], "ports": [443]}],
        "tasks": [{"namespaces": ["istio-system"]}],
    },
    "pods": {
        "annotations": {"example.org/team": "a"},
        "nodeSelector": {"kubernetes.io/arch": "amd64"},
        "tolerations": [{"key": "cpu", "operator": "Exists"}],
        "priorityClass": "normal",
    },
}

RELEASES: Mapping[str, Values] = {
    "minimal": MINIMAL,
    "created-secrets": CREATED_SECRETS,
    "everything": EVERYTHING,
    **{path.stem: example(path) for path in EXAMPLES},
}


def objects(values: Values, *, name: str = "advgrpo") -> list[Object]:
    """Render a release's objects, including hooks and tests."""
    return [
        found
        for template, text in render(values, name=name).items()
        if not template.endswith("NOTES.txt")
        for found in yaml.safe_load_all(text)
        if found
    ]


def notes(values: Values) -> str:
    """Render the notes that are shown after the installation."""
    return render(values)["advgrpo/templates/NOTES.txt"]


@cache
def release(title: str) -> tuple[Object, ...]:
    """Render one of `RELEASES`; the result is cached and must not be changed."""
    return tuple(objects(RELEASES[title]))


def of_kind(found: list[Object] | tuple[Object, ...], kind: str) -> dict[str, Object]:
    """Return the objects of a kind by name."""
    return {one["metadata"]["name"]: one for one in found if one["kind"] == kind}


def pods(found: list[Object] | tuple[Object, ...]) -> Iterator[tuple[str, Object]]:
    """Return the pod or pod template of each object that has one, with a name."""
    for one in found:
        match one["kind"]:
            case "Pod":
                pod = one
            case "Deployment" | "Job":
                pod = one["spec"]["template"]
            case "CronJob":
                pod = one["spec"]["jobTemplate"]["spec"]["template"]
            case _:
                continue
        yield f"{one['kind']} {one['metadata']['name']}", pod


def containers(found: list[Object] | tuple[Object, ...]) -> Iterator[tuple[str, Object]]:
    """Return every container with the name of its pod."""
    for name, pod in pods(found):
        for container in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]:
            yield f"{name}: {container['name']}", container
