"""Errors of an installation into a cluster that lacks something."""

from typing import Any

import helm_python
import pytest
import yaml

from helm.chart import EXAMPLES
from tests.helm.api_server import (
    JOB_SET,
    LOCAL_QUEUE,
    PYTORCH_JOB,
    TRAIN_JOB,
    TRAINING_RUNTIME,
    WORKFLOW,
    ApiServer,
    Kind,
    install,
)

KINDS = (PYTORCH_JOB, WORKFLOW, LOCAL_QUEUE)


def _values() -> dict[str, Any]:
    (path,) = [path for path in EXAMPLES if path.stem == "shared-queue"]
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")))


def _secret(*keys: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "data": dict.fromkeys(keys, "")}


def _objects() -> dict[str, dict[str, Any]]:
    return {
        "serviceaccounts/default": {"apiVersion": "v1", "kind": "ServiceAccount"},
        "secrets/advgrpo-s3": _secret("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
        "secrets/advgrpo-mlflow": _secret("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"),
        "secrets/advgrpo-webhook": _secret("ADVGRPO_WEBHOOK_SECRET"),
    }


def _refusal(server: ApiServer, values: dict[str, Any]) -> str:
    with pytest.raises(helm_python.HelmReleaseError) as refused:
        install(server, values)
    assert server.written == []
    return str(refused.value)


def test_it_installs_if_nothing_is_missing() -> None:
    server = ApiServer(KINDS, _objects())
    made = install(server, _values())
    assert "kind: NetworkPolicy" in made["manifest"]
    assert "helm test advgrpo --namespace research" in made["notes"]
    assert server.written == [], "a dry run"


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        (PYTORCH_JOB, "install Kubeflow's training operator 1.9"),
        (WORKFLOW, "install Kubeflow Pipelines 2.17"),
        (LOCAL_QUEUE, "cluster.queue=team-a"),
    ],
)
def test_a_missing_kind_is_named(missing: tuple[str, ...], said: str) -> None:
    server = ApiServer(tuple(kind for kind in KINDS if kind != missing), _objects())
    refusal = _refusal(server, _values())
    assert "does not know the kind" in refusal
    assert missing[1] in refusal
    assert said in refusal


TRAINER = (TRAIN_JOB, TRAINING_RUNTIME, JOB_SET, WORKFLOW, LOCAL_QUEUE)


def test_trainer_alone_suffices_and_gets_a_template_of_jobs() -> None:
    made = install(ApiServer(TRAINER, _objects()), _values())
    assert "kind: TrainingRuntime" in made["manifest"]


@pytest.mark.parametrize(
    ("kinds", "backend", "said"),
    [
        ((WORKFLOW, LOCAL_QUEUE), "auto", "PyTorchJob (kubeflow.org/v1) or TrainJob"),
        (KINDS, "trainjob", "install Kubeflow Trainer 2.3"),
        (TRAINER, "pytorchjob", "install Kubeflow's training operator 1.9"),
        ((TRAIN_JOB, TRAINING_RUNTIME, WORKFLOW, LOCAL_QUEUE), "auto", "install JobSet"),
        (KINDS, "mpijob", "use one of: auto, pytorchjob, trainjob"),
    ],
)
def test_a_cluster_without_the_chosen_kind_is_refused(
    kinds: tuple[Kind, ...], backend: str, said: str
) -> None:
    values = _values()
    values["cluster"]["backend"] = backend
    assert said in _refusal(ApiServer(kinds, _objects()), values)


@pytest.mark.parametrize(
    ("value", "kind", "instead"),
    [
        ("prometheusRule", "PrometheusRule", "rule_files"),
        ("podMonitor", "PodMonitor", "annotations"),
    ],
)
def test_the_prometheus_operator_is_only_needed_for_its_kinds(
    value: str, kind: str, instead: str
) -> None:
    metrics = {"enabled": True, "from": {"namespaces": ["monitoring"]}, value: {"enabled": True}}
    values = _values() | {"metrics": metrics}
    refusal = _refusal(ApiServer(KINDS, _objects()), values)
    assert f"does not know the kind {kind}" in refusal
    assert instead in refusal
    known = ("monitoring.coreos.com/v1", kind, f"{kind.lower()}s")
    installed = install(ApiServer((*KINDS, known), _objects()), values)
    assert f"kind: {kind}" in installed["manifest"]


def test_kueue_is_only_needed_for_a_queue() -> None:
    values = _values()
    values["cluster"]["queue"] = None
    assert install(ApiServer((PYTORCH_JOB, WORKFLOW), _objects()), values)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("advgrpo-s3", "s3.existingSecret"),
        ("advgrpo-mlflow", "mlflow.existingSecret"),
        ("advgrpo-webhook", "promotion.webhook.existingSecret"),
    ],
)
def test_a_missing_secret_is_named(name: str, value: str) -> None:
    found = _objects()
    del found[f"secrets/{name}"]
    said = f"{value}={name}: the Secret does not exist in the namespace research"
    assert said in _refusal(ApiServer(KINDS, found), _values())


def test_a_missing_key_of_a_secret_is_named_with_the_present_ones() -> None:
    found = _objects() | {"secrets/advgrpo-s3": _secret("accesskey", "secretkey")}
    said = "the Secret lacks the key AWS_ACCESS_KEY_ID (it has accesskey, secretkey)"
    assert said in _refusal(ApiServer(KINDS, found), _values())


def test_a_secret_without_data_lacks_every_key() -> None:
    found = _objects() | {"secrets/advgrpo-webhook": {"apiVersion": "v1", "kind": "Secret"}}
    said = "lacks the key ADVGRPO_WEBHOOK_SECRET (it has none)"
    assert said in _refusal(ApiServer(KINDS, found), _values())


def test_mlflow_needs_a_token_or_user_and_password() -> None:
    token = _objects() | {"secrets/advgrpo-mlflow": _secret("MLFLOW_TRACKING_TOKEN")}
    assert install(ApiServer(KINDS, token), _values())
    half = _objects() | {"secrets/advgrpo-mlflow": _secret("MLFLOW_TRACKING_USERNAME")}
    assert "lacks the key MLFLOW_TRACKING_PASSWORD" in _refusal(ApiServer(KINDS, half), _values())


def test_a_missing_claim_is_named() -> None:
    values = _values()
    values["cache"]["existingClaim"] = "weights"
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim"}
    assert install(ApiServer(KINDS, _objects() | {"persistentvolumeclaims/weights": claim}), values)
    said = "cache.existingClaim=weights: the PersistentVolumeClaim does not exist"
    assert said in _refusal(ApiServer(KINDS, _objects()), values)


def test_both_checks_can_be_disabled() -> None:
    off = {"checks": {"customResources": False, "existingObjects": False}}
    found = {"serviceaccounts/default": _objects()["serviceaccounts/default"]}
    assert install(ApiServer((), found), _values() | off)
