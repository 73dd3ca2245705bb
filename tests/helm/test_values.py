"""Values that are refused, and the pages that are made from values.yaml."""

import copy
import json
from collections.abc import Mapping
from typing import Any

import helm_python
import pytest
import yaml

from advgrpo.cluster.settings import ClusterSettings
from helm.chart import (
    CHART,
    NOT_VALUES,
    OFFLINE,
    README,
    SCHEMA,
    describe_values,
    readme,
    render,
    schema,
)
from tests.helm.releases import CREATED_SECRETS, MINIMAL, objects

VALUES = (CHART / "values.yaml").read_text(encoding="utf-8")


def _with(values: Mapping[str, Any], key: str, value: object) -> dict[str, Any]:
    changed = copy.deepcopy(dict(values))
    *groups, name = key.split("/")
    below = changed
    for group in groups:
        below = below.setdefault(group, {})
    below[name] = value
    return changed


# What each says about itself: the key as the schema's messages spell it, with slashes.
ILL_TYPED = [
    ("nameOverride", "Capital"),
    ("fullnameOverride", "9lives"),
    ("images/pullPolicy", "Sometimes"),
    ("images/pullSecrets", "registry"),
    ("images/registry", "https://registry.example.org"),
    ("images/launcher/repository", "Advgrpo Launcher"),
    ("images/launcher/tag", 0.1),
    ("images/trainer/digest", "sha256:short"),
    ("images/trainer", "advgrpo-trainer-python:0.1.0"),
    ("checks/customResources", "no"),
    ("configMap/name", ""),
    ("s3/bucket", "s3://research"),
    ("s3/prefix", "/advgrpo/"),
    ("s3/writePrefix", "research/advgrpo"),
    ("s3/writePrefix", "s3://research/"),
    ("s3/endpoint", "s3.example.org:9000"),
    ("s3/region", ""),
    ("s3/responseChecksumValidation", "never"),
    ("s3/workloadIdentity", "true"),
    ("mlflow/trackingUri", "mlflow.example.org"),
    ("mlflow/server/port", "http"),
    ("mlflow/server/port", 70000),
    ("mlflow/server/workers", 0),
    ("mlflow/server/allowedHosts", ["https://mlflow.example.org"]),
    ("mlflow/server/database/size", "ten gigabytes"),
    ("kubeflow/endpoint", ""),
    ("kubeflow/upload/retries", -1),
    ("serviceAccounts/janitor/annotations", {"a": 1}),
    ("launcher/serviceAccounts", ["default_editor"]),
    ("cluster/gpusPerNode", -1),
    ("cluster/gpusPerNode", "8"),
    ("cluster/node/memory", "64GB"),
    ("cluster/node/memory", 64),
    ("cluster/tolerations", [{"key": "gpu", "operator": "Exist"}]),
    ("cluster/rdma", {"count": 1}),
    ("cluster/environment", {"NCCL_DEBUG": 1}),
    ("cluster/runAsUser", 0),
    ("cluster/deadlineSeconds", 0),
    ("cluster/queue", "a" * 64),
    ("logs/format", "xml"),
    ("metrics/port", "http"),
    ("metrics/from", {"cidrs": ["10.0.0.0"]}),
    ("metrics/pushGateway", "pushgateway:9091"),
    ("cache/accessMode", "ReadWriteSometimes"),
    ("janitor/schedule", "every five minutes"),
    ("janitor/resources/limits/cpu", "a lot"),
    ("metrics/prometheusRule", {"labels": {"release": 1}}),
    ("promotion/s3Access", "yes"),
    ("promotion/webhook/secret", "short"),
    ("networkPolicies/s3/ports", [0]),
    ("networkPolicies/s3/cidrs", ["10.0.0.0"]),
    ("networkPolicies/jobs", {"cidrs": ["10.0.0.0/8"]}),
    ("test/deadlineSeconds", 1),
    ("pods/nodeSelector", ["gpu"]),
]


@pytest.mark.parametrize(("key", "value"), ILL_TYPED)
def test_a_value_of_the_wrong_type_is_refused_by_its_name(key: str, value: object) -> None:
    with pytest.raises(helm_python.HelmValuesError, match=f"at '/{key}[/']"):
        render(_with(MINIMAL, key, value))


# A key that is not read, and a removed value.
@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("gpus", "'gpus' not allowed"),
        ("s3/buket", "at '/s3': additional properties 'buket' not allowed"),
        ("cluster/gpuPerNode", "at '/cluster': additional properties 'gpuPerNode' not allowed"),
        ("cluster/image", "at '/cluster': additional properties 'image' not allowed"),
        ("cluster/node/gpu", "at '/cluster/node': additional properties 'gpu' not allowed"),
        ("janitor/resources/limits/gpu", "at '/janitor/resources/limits': additional properties"),
        ("networkPolicies/dns/port", "at '/networkPolicies/dns': additional properties 'port'"),
    ],
)
def test_an_unknown_value_is_refused_by_its_name(key: str, said: str) -> None:
    with pytest.raises(helm_python.HelmValuesError) as refused:
        render(_with(MINIMAL, key, "8"))
    assert said in str(refused.value)


def test_a_removed_value_is_an_error() -> None:
    with pytest.raises(helm_python.HelmValuesError, match="at '/s3': missing property 'bucket'"):
        render(_with(MINIMAL, "s3/bucket", None))


# Values that fit the schema but are wrong: changes to a release, and the error.
WRONG: list[tuple[Mapping[str, Any], dict[str, object], str]] = [
    (MINIMAL, {"s3/bucket": ""}, "s3.bucket is missing"),
    (MINIMAL, {"s3/existingSecret": ""}, "no credentials for S3"),
    (MINIMAL, {"s3/accessKeyId": "a", "s3/secretAccessKey": "b"}, "s3.existingSecret and s3"),
    (CREATED_SECRETS, {"s3/secretAccessKey": ""}, "s3.secretAccessKey belong together"),
    (CREATED_SECRETS, {"s3/accessKeyId": ""}, "s3.secretAccessKey belong together"),
    (MINIMAL, {"s3/workloadIdentity": True}, "s3.workloadIdentity and keys"),
    (MINIMAL, {"s3/endpoint": "http://a:b@s3.example.org"}, "s3.endpoint contains credentials"),
    (
        MINIMAL,
        {"s3/writePrefix": "s3://research/adv"},
        "s3.writePrefix=s3://research/adv: does not",
    ),
    (MINIMAL, {"s3/writePrefix": "s3://other"}, "s3.writePrefix=s3://other: does not contain"),
    (MINIMAL, {"mlflow/trackingUri": ""}, "mlflow.trackingUri is missing"),
    (MINIMAL, {"mlflow/server": {"enabled": True}}, "mlflow.trackingUri and mlflow.server.enabled"),
    (MINIMAL, {"mlflow/trackingUri": "https://a:b@m"}, "mlflow.trackingUri contains credentials"),
    (
        MINIMAL,
        {"mlflow/existingSecret": "advgrpo-mlflow", "mlflow/token": "a"},
        "mlflow.existingSecret and mlflow.username",
    ),
    (CREATED_SECRETS, {"mlflow/token": "a"}, "mlflow.token and mlflow.username"),
    (CREATED_SECRETS, {"mlflow/password": ""}, "mlflow.username and mlflow.password belong"),
    (
        CREATED_SECRETS,
        {"mlflow/server/database": {"existingSecret": "a", "existingClaim": "b"}},
        "mlflow.server.database.existingSecret and existingClaim",
    ),
    (MINIMAL, {"images/launcher": {"tag": ""}}, "images.launcher has neither tag nor digest"),
    (MINIMAL, {"images/trainer": {"tag": "latest"}}, "images.trainer.tag=latest: a moving tag"),
    (MINIMAL, {"images/mlflow": {"tag": "main"}}, "images.mlflow.tag=main: a moving tag"),
    (MINIMAL, {"metrics/enabled": True}, "metrics.from is empty"),
    (MINIMAL, {"metrics/pushGateway": "http://a:b@g"}, "metrics.pushGateway contains credentials"),
    (CREATED_SECRETS, {"metrics/port": 8080}, "metrics.port and promotion.webhook.port are both"),
    (MINIMAL, {"cluster/gpusPerNode": 0}, "set cluster.processesPerNode"),
    (
        MINIMAL,
        {
            "cluster/gpusPerNode": 0,
            "cluster/processesPerNode": 1,
            "cluster/rdma": {"resource": "rdma/hca"},
        },
        "cluster.rdma is set, but cluster.gpusPerNode=0",
    ),
    (MINIMAL, {"cluster/backend": "other"}, "cluster.backend=other: unknown job backend"),
    (MINIMAL, {"cluster/processesPerNode": 9}, "cluster.processesPerNode=9 is more than"),
    (MINIMAL, {"cluster/environment": {"HF_TOKEN": "a"}}, "cluster.environment.HF_TOKEN"),
    (
        MINIMAL,
        {"cluster/environment": {"AWS_SECRET_ACCESS_KEY": "a"}},
        "cluster.environment.AWS_SECRET_ACCESS_KEY looks like",
    ),
    (CREATED_SECRETS, {"promotion/webhook/secret": ""}, "promotion.webhook has no signing key"),
    (
        CREATED_SECRETS,
        {"promotion/webhook/existingSecret": "a"},
        "promotion.webhook.existingSecret and promotion.webhook.secret",
    ),
    (
        CREATED_SECRETS,
        {"mlflow/server/webhooks": {"existingSecret": ""}},
        "mlflow.server.webhooks.existingSecret is empty",
    ),
    (
        MINIMAL,
        {"promotion/webhook": {"enabled": True, "existingSecret": "a"}},
        "promotion.webhook.from is empty",
    ),
    (MINIMAL, {"networkPolicies/dns": {"namespaces": [], "ports": []}}, "networkPolicies.dns"),
    (
        MINIMAL,
        {"networkPolicies/kubeflow": {"namespaces": []}},
        "networkPolicies.kubeflow has neither",
    ),
    (MINIMAL, {"networkPolicies/jobs": [{}]}, "networkPolicies.jobs has an entry"),
    (MINIMAL, {"checks/customResources": True}, "does not know the kind PyTorchJob"),
]


@pytest.mark.parametrize(("release", "changes", "said"), WRONG, ids=[said for _, _, said in WRONG])
def test_wrong_values_are_refused_with_the_reason(
    release: Mapping[str, Any], changes: Mapping[str, object], said: str
) -> None:
    values = dict(release)
    for key, value in changes.items():
        values = _with(values, key, value)
    with pytest.raises(helm_python.HelmRenderError) as refused:
        render(values)
    assert said in str(refused.value)


def test_the_readme_lists_the_required_values() -> None:
    with pytest.raises(helm_python.HelmRenderError, match=r"s3\.bucket is missing"):
        render(OFFLINE)
    assert objects(MINIMAL)


def test_the_schema_is_up_to_date() -> None:
    assert SCHEMA.read_text(encoding="utf-8") == schema(), "run `make chart`"


def _closed(part: object, path: str = "") -> list[str]:
    if isinstance(part, list):
        return [p for i, item in enumerate(part) for p in _closed(item, f"{path}/{i}")]
    if not isinstance(part, dict):
        return []
    below = [p for key, item in part.items() for p in _closed(item, f"{path}/{key}")]
    is_open = part.get("type") == "object" and "additionalProperties" not in part
    return [*([path] if is_open else []), *below]


def test_the_schema_closes_every_mapping() -> None:
    assert _closed(json.loads(SCHEMA.read_text(encoding="utf-8"))) == ["/properties/global"]


def test_the_readme_is_up_to_date() -> None:
    assert README.read_text(encoding="utf-8") == readme(), "run `make chart`"


def test_every_value_has_a_comment() -> None:
    assert [key for key, _, meaning in describe_values(VALUES) if not meaning] == []


def test_a_value_without_a_comment_has_no_meaning() -> None:
    found = list(describe_values("a:\n  # Of b.\n  b: 1\n  c: 2\n# Of d.\nd: {e: 1}\n"))
    assert found == [("a.b", "`1`", "Of b."), ("a.c", "`2`", ""), ("d", '`{"e": 1}`', "Of d.")]


def test_the_values_contain_every_setting_of_a_cluster() -> None:
    given = yaml.safe_load(VALUES)["cluster"]
    assert set(given) | set(NOT_VALUES) == {
        field.alias for field in ClusterSettings.model_fields.values()
    }
    assert not set(given) & set(NOT_VALUES)
