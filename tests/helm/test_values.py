"""Values that are refused, and the pages that are made from values.yaml."""

import copy
import json
from collections.abc import Mapping
from typing import Any

import helm_python
import pytest
import yaml

from advgrpo.cluster.settings import ClusterSettings
from helm.chart import CHART, NOT_VALUES, OFFLINE, README, SCHEMA, described, readme, render, schema
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
    ("cluster/gpus_per_node", -1),
    ("cluster/gpus_per_node", "8"),
    ("cluster/node/memory", "64GB"),
    ("cluster/node/memory", 64),
    ("cluster/tolerations", [{"key": "gpu", "operator": "Exist"}]),
    ("cluster/rdma", {"count": 1}),
    ("cluster/environment", {"NCCL_DEBUG": 1}),
    ("cluster/run_as_user", 0),
    ("cluster/deadline_seconds", 0),
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


# A key that nobody reads, and a value that was taken away.
@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("gpus", "'gpus' not allowed"),
        ("s3/buket", "at '/s3': additional properties 'buket' not allowed"),
        ("cluster/gpu_per_node", "at '/cluster': additional properties 'gpu_per_node' not allowed"),
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


def test_a_value_that_is_taken_away_is_missed() -> None:
    with pytest.raises(helm_python.HelmValuesError, match="at '/s3': missing property 'bucket'"):
        render(_with(MINIMAL, "s3/bucket", None))


# What fits the schema and yet cannot be meant: changes to a release, and what is said.
NONSENSE: list[tuple[Mapping[str, Any], dict[str, object], str]] = [
    (MINIMAL, {"s3/bucket": ""}, "s3.bucket is missing"),
    (MINIMAL, {"s3/existingSecret": ""}, "nothing gives access to S3"),
    (MINIMAL, {"s3/accessKeyId": "a", "s3/secretAccessKey": "b"}, "s3.existingSecret and s3"),
    (CREATED_SECRETS, {"s3/secretAccessKey": ""}, "s3.secretAccessKey belong together"),
    (CREATED_SECRETS, {"s3/accessKeyId": ""}, "s3.secretAccessKey belong together"),
    (MINIMAL, {"s3/workloadIdentity": True}, "s3.workloadIdentity and keys"),
    (MINIMAL, {"s3/endpoint": "http://a:b@s3.example.org"}, "s3.endpoint holds credentials"),
    (MINIMAL, {"s3/writePrefix": "s3://research/adv"}, "s3.writePrefix=s3://research/adv does not"),
    (MINIMAL, {"s3/writePrefix": "s3://other"}, "s3.writePrefix=s3://other does not hold"),
    (MINIMAL, {"mlflow/trackingUri": ""}, "mlflow.trackingUri is missing"),
    (MINIMAL, {"mlflow/server": {"enabled": True}}, "mlflow.trackingUri and mlflow.server.enabled"),
    (MINIMAL, {"mlflow/trackingUri": "https://a:b@m"}, "mlflow.trackingUri holds credentials"),
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
    (MINIMAL, {"images/trainer": {"tag": "latest"}}, 'images.trainer.tag is "latest", which moves'),
    (MINIMAL, {"images/mlflow": {"tag": "main"}}, 'images.mlflow.tag is "main", which moves'),
    (MINIMAL, {"metrics/enabled": True}, "metrics.from names nobody"),
    (MINIMAL, {"metrics/pushGateway": "http://a:b@g"}, "metrics.pushGateway holds credentials"),
    (CREATED_SECRETS, {"metrics/port": 8080}, "metrics.port and promotion.webhook.port are both"),
    (MINIMAL, {"cluster/gpus_per_node": 0}, "cluster.processes_per_node does not say"),
    (
        MINIMAL,
        {
            "cluster/gpus_per_node": 0,
            "cluster/processes_per_node": 1,
            "cluster/rdma": {"resource": "rdma/hca"},
        },
        "cluster.rdma is given, but cluster.gpus_per_node is 0",
    ),
    (MINIMAL, {"cluster/processes_per_node": 9}, "cluster.processes_per_node=9 is more than"),
    (MINIMAL, {"cluster/environment": {"HF_TOKEN": "a"}}, "cluster.environment.HF_TOKEN"),
    (
        MINIMAL,
        {"cluster/environment": {"AWS_SECRET_ACCESS_KEY": "a"}},
        "cluster.environment.AWS_SECRET_ACCESS_KEY looks like",
    ),
    (CREATED_SECRETS, {"promotion/webhook/secret": ""}, "promotion.webhook has no key"),
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
        "promotion.webhook.from names nobody",
    ),
    (MINIMAL, {"networkPolicies/dns": {"namespaces": [], "ports": []}}, "networkPolicies.dns"),
    (
        MINIMAL,
        {"networkPolicies/kubeflow": {"namespaces": []}},
        "networkPolicies.kubeflow names neither",
    ),
    (MINIMAL, {"networkPolicies/jobs": [{}]}, "networkPolicies.jobs has an entry"),
    (MINIMAL, {"checks/customResources": True}, "does not know the kind PyTorchJob"),
]


@pytest.mark.parametrize(
    ("release", "changes", "said"), NONSENSE, ids=[said for _, _, said in NONSENSE]
)
def test_values_that_cannot_be_meant_are_refused_in_words(
    release: Mapping[str, Any], changes: Mapping[str, object], said: str
) -> None:
    values = dict(release)
    for key, value in changes.items():
        values = _with(values, key, value)
    with pytest.raises(helm_python.HelmRenderError) as refused:
        render(values)
    assert said in str(refused.value)


def test_what_is_needed_is_what_the_page_says() -> None:
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


def test_the_schema_says_of_every_mapping_what_may_be_in_it() -> None:
    assert _closed(json.loads(SCHEMA.read_text(encoding="utf-8"))) == ["/properties/global"]


def test_the_readme_is_up_to_date() -> None:
    assert README.read_text(encoding="utf-8") == readme(), "run `make chart`"


def test_every_value_has_a_comment() -> None:
    assert [key for key, _, meaning in described(VALUES) if not meaning] == []


def test_a_value_without_a_comment_would_be_seen() -> None:
    found = list(described("a:\n  # Of b.\n  b: 1\n  c: 2\n# Of d.\nd: {e: 1}\n"))
    assert found == [("a.b", "`1`", "Of b."), ("a.c", "`2`", ""), ("d", '`{"e": 1}`', "Of d.")]


def test_the_values_hold_every_setting_of_a_cluster() -> None:
    given = yaml.safe_load(VALUES)["cluster"]
    assert set(given) | set(NOT_VALUES) == set(ClusterSettings.model_fields)
    assert not set(given) & set(NOT_VALUES)
