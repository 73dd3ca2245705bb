"""Security of the chart's pods: Pod Security, roles, Secrets and network policies."""

import copy
import ipaddress
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from advgrpo.cluster.backends.pytorchjob import PyTorchJobs
from advgrpo.cluster.backends.registry import BACKENDS
from advgrpo.cluster.credentials import MLFLOW_KEYS
from advgrpo.cluster.job_request import JobRequest
from advgrpo.cluster.roles import DOCTOR_RULES, Rule, janitor_rules, launcher_rules
from advgrpo.cluster.settings import parse_cluster_settings
from advgrpo.storage.credentials import S3_KEYS
from helm.chart import OFFLINE
from tests.helm.pod_security import violations
from tests.helm.releases import (
    CREATED_SECRETS,
    EVERYTHING,
    MINIMAL,
    RELEASES,
    Object,
    containers,
    objects,
    of_kind,
    pods,
    release,
)


@pytest.mark.parametrize("title", RELEASES)
def test_every_pod_meets_pod_security_restricted(title: str) -> None:
    for name, pod in pods(release(title)):
        assert violations(pod["spec"]) == [], name


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("hostNetwork",), True),
        (("volumes",), [{"name": "host", "hostPath": {"path": "/"}}]),
        (("securityContext", "runAsNonRoot"), False),
        (("securityContext", "runAsUser"), 0),
        (("securityContext", "seccompProfile", "type"), "Unconfined"),
        (("securityContext", "sysctls"), [{"name": "kernel.msgmax", "value": "1"}]),
        (("containers", 0, "securityContext", "allowPrivilegeEscalation"), True),
        (("containers", 0, "securityContext", "privileged"), True),
        (("containers", 0, "securityContext", "runAsUser"), 0),
        (("containers", 0, "securityContext", "capabilities", "drop"), ["NET_RAW"]),
        (("containers", 0, "securityContext", "capabilities", "add"), ["IPC_LOCK"]),
        (("containers", 0, "securityContext", "procMount"), "Unmasked"),
        (("containers", 0, "ports"), [{"containerPort": 1, "hostPort": 1}]),
        (("initContainers",), [{"name": "first"}]),
    ],
)
def test_violations_of_pod_security_restricted_are_found(
    where: tuple[Any, ...], value: object
) -> None:
    spec = copy.deepcopy(of_kind(release("minimal"), "Pod")["advgrpo-doctor"]["spec"])
    part = spec
    for key in where[:-1]:
        part = part[key]
    part[where[-1]] = value
    assert violations(spec)


def _job_pods(title: str) -> list[Object]:
    (settings,) = of_kind(release(title), "ConfigMap").values()
    work = JobRequest(task="train", run_key="run", command=("python",), processes=16)
    read = parse_cluster_settings(settings["data"]["ADVGRPO_CLUSTER"])
    job = PyTorchJobs().manifest(work, read)
    return [one["template"] for one in job["spec"]["pytorchReplicaSpecs"].values()]


@pytest.mark.parametrize("title", RELEASES)
def test_jobs_meet_pod_security_restricted_except_for_one_capability(title: str) -> None:
    allowed = ["pytorch: adds ['IPC_LOCK']"] if title == "4x8" else []
    for pod in _job_pods(title):
        assert violations(pod["spec"]) == allowed
        assert pod["spec"]["serviceAccountName"] in of_kind(release(title), "ServiceAccount")


@pytest.mark.parametrize("title", RELEASES)
def test_no_container_writes_to_its_image(title: str) -> None:
    for name, container in containers(release(title)):
        assert container["securityContext"]["readOnlyRootFilesystem"] is True, name
        paths = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert "/tmp" in paths, name
        environment = {entry["name"]: entry.get("value") for entry in container["env"]}
        assert environment["HOME"] == container["workingDir"] == "/tmp", name
        assert environment["ADVGRPO_CACHE"].startswith("/tmp/"), name


def test_processes_run_as_the_user_of_the_images() -> None:
    for title, user in (("minimal", 10001), ("everything", 2000)):
        for _, pod in pods(release(title)):
            assert pod["spec"]["securityContext"]["runAsUser"] == user


def test_a_platform_that_assigns_users_is_left_to_do_so() -> None:
    values = {**CREATED_SECRETS, "cluster": {"runAsUser": None}}
    made = objects(values)
    for name, pod in pods(made):
        assert violations(pod["spec"]) == [], name
        assert "runAsUser" not in str(pod), name
    for name, container in containers(made):
        assert "ADVGRPO_RUN_AS_USER" not in str(container), name
    (settings,) = of_kind(made, "ConfigMap").values()
    assert parse_cluster_settings(settings["data"]["ADVGRPO_CLUSTER"]).run_as_user is None


def test_only_pods_that_use_the_api_server_mount_its_token() -> None:
    for title in RELEASES:
        for account in of_kind(release(title), "ServiceAccount").values():
            assert account["automountServiceAccountToken"] is False
        having = {
            pod["metadata"]["labels"]["app.kubernetes.io/component"]
            for _, pod in pods(release(title))
            if pod["spec"]["automountServiceAccountToken"]
        }
        assert having == {"janitor", "doctor"}


def test_jobs_and_servers_have_no_permissions() -> None:
    for title in RELEASES:
        bound = {
            subject["name"]
            for binding in of_kind(release(title), "RoleBinding").values()
            for subject in binding["subjects"]
        }
        assert not [name for name in bound if name.endswith("-training")]


@pytest.mark.parametrize("title", RELEASES)
def test_no_role_has_a_wildcard_or_reaches_beyond_the_namespace(title: str) -> None:
    made = release(title)
    assert not [one for one in made if one["kind"].startswith("Cluster")]
    for role in of_kind(made, "Role").values():
        for rule in role["rules"]:
            assert not [text for texts in rule.values() for text in texts if "*" in text]
            assert "secrets" not in rule["resources"]
    for binding in of_kind(made, "RoleBinding").values():
        assert binding["roleRef"]["name"] in of_kind(made, "Role")
        assert {subject["namespace"] for subject in binding["subjects"]} == {"research"}


@pytest.mark.parametrize(
    ("account", "rules"),
    [
        ("launcher", launcher_rules(*BACKENDS.values())),
        ("janitor", janitor_rules(BACKENDS.values())),
        ("doctor", DOCTOR_RULES),
    ],
)
def test_a_role_grants_what_the_code_needs_and_no_more(
    account: str, rules: tuple[Rule, ...]
) -> None:
    granted = of_kind(release("minimal"), "Role")[f"advgrpo-{account}"]["rules"]
    assert sorted(granted, key=str) == sorted(rules, key=str)


def test_tasks_may_read_their_jobs_after_an_upgrade_to_another_kind() -> None:
    roles = of_kind(objects({**MINIMAL, "cluster": {"backend": "pytorchjob"}}), "Role")
    assert roles["advgrpo-launcher"] == of_kind(release("minimal"), "Role")["advgrpo-launcher"]


def test_the_launchers_role_is_bound_to_the_accounts_of_tasks() -> None:
    def accounts(values: Mapping[str, Any]) -> list[str]:
        subjects = of_kind(objects(values), "RoleBinding")["advgrpo-launcher"]["subjects"]
        return [subject["name"] for subject in subjects]

    assert accounts(MINIMAL) == ["default-editor", "pipeline-runner", "advgrpo-launcher"]
    only = {**MINIMAL, "launcher": {"serviceAccounts": ["default-editor"]}}
    assert accounts(only) == ["default-editor", "advgrpo-launcher"]


@pytest.mark.parametrize("title", ["created-secrets", "everything"])
def test_secrets_are_in_secrets_only(title: str) -> None:
    made = release(title)
    outside = json.dumps([one for one in made if one["kind"] != "Secret"])
    assert "planted" not in outside
    assert "planted" in json.dumps(RELEASES[title])
    assert len(of_kind(made, "Secret")) == (3 if title == "created-secrets" else 1)


# What each pod may see: keys of Secrets, by their names.
_S3 = {f"advgrpo-s3/{key}" for key in S3_KEYS}
_MLFLOW = {f"advgrpo-mlflow/{key}" for key in MLFLOW_KEYS}
_WEBHOOK_KEY = "/ADVGRPO_WEBHOOK_SECRET"
_FERNET_KEY = "fernet/MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY"

SECRETS: dict[str, dict[str, set[str]]] = {
    "created-secrets": {
        "doctor": _S3 | _MLFLOW,
        "janitor": set(),
        "mlflow": _S3 | {_FERNET_KEY},
        "reconciler": _MLFLOW,
        "upload": set(),
        "webhook": _MLFLOW | {f"advgrpo-webhook{_WEBHOOK_KEY}"},
    },
    "everything": {
        "doctor": _S3 | _MLFLOW,
        "janitor": set(),
        "mlflow": _S3 | {_FERNET_KEY, "postgres/MLFLOW_BACKEND_STORE_URI"},
        "reconciler": _MLFLOW,
        "webhook": _MLFLOW | {f"hmac{_WEBHOOK_KEY}"},
    },
}
TOKENS = {"doctor": {"API server", "Pipelines"}, "janitor": {"API server"}}
"""Audiences of the tokens of each pod."""


def _secrets_of(spec: Object) -> set[str]:
    """Return the keys of Secrets that a pod's containers get; a whole Secret is `name/*`."""
    seen = {f"{s['secret']['secretName']}/*" for s in spec["volumes"] if "secret" in s}
    for volume in spec["volumes"]:
        for source in volume.get("projected", {}).get("sources", []):
            seen |= {f"{source['secret']['name']}/*"} if "secret" in source else set()
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        for source in container.get("envFrom") or []:
            seen |= {f"{source['secretRef']['name']}/*"} if source.get("secretRef") else set()
        for entry in container["env"]:
            if reference := (entry.get("valueFrom") or {}).get("secretKeyRef"):
                seen.add(f"{reference['name']}/{reference['key']}")
    return seen


def _tokens_of(spec: Object) -> set[str]:
    projected = [
        source["serviceAccountToken"]["audience"]
        for volume in spec["volumes"]
        for source in volume.get("projected", {}).get("sources", [])
    ]
    assert set(projected) <= {"pipelines.kubeflow.org"}
    of_api = {"API server"} if spec["automountServiceAccountToken"] else set()
    return of_api | ({"Pipelines"} if projected else set())


@pytest.mark.parametrize("title", SECRETS)
def test_a_pod_gets_the_secrets_that_it_needs_and_no_other(title: str) -> None:
    seen = {
        pod["metadata"]["labels"]["app.kubernetes.io/component"]: _secrets_of(pod["spec"])
        for _, pod in pods(release(title))
    }
    assert seen == SECRETS[title]


def test_a_whole_secret_in_the_environment_is_found() -> None:
    container = {"env": [], "envFrom": [{"secretRef": {"name": "a"}}]}
    volumes = [
        {"secret": {"secretName": "b"}},
        {"projected": {"sources": [{"secret": {"name": "c"}}]}},
    ]
    assert _secrets_of({"containers": [container], "volumes": volumes}) == {"a/*", "b/*", "c/*"}


@pytest.mark.parametrize("title", RELEASES)
def test_jobs_get_the_keys_of_s3_and_mlflow_and_no_other_secret(title: str) -> None:
    (settings,) = of_kind(release(title), "ConfigMap").values()
    read = parse_cluster_settings(settings["data"]["ADVGRPO_CLUSTER"])
    expected = {f"{read.s3_secret}/{key}" for key in S3_KEYS}
    expected |= {f"{read.mlflow_secret}/{key}" for key in MLFLOW_KEYS}
    for pod in _job_pods(title):
        assert _secrets_of(pod["spec"]) == expected


def test_tasks_get_the_keys_of_s3_and_mlflow_and_no_other_secret() -> None:
    expected = {f"advgrpo-s3/{key}" for key in S3_KEYS}
    expected |= {f"advgrpo-mlflow/{key}" for key in MLFLOW_KEYS}
    for executor in _executors():
        seen = {
            f"{secret['secretName']}/{key['secretKey']}"
            for secret in executor["secretAsEnv"]
            for key in secret["keyToEnv"]
        }
        assert seen == expected
        assert not {"secretAsVolume", "imagePullSecret"} & executor.keys()


def test_a_pod_mounts_the_tokens_that_it_needs_and_no_other() -> None:
    starting = {"webhook": {"Pipelines"}, "reconciler": {"Pipelines"}}
    for title, further in (
        ("created-secrets", {"upload": {"Pipelines"}}),
        ("everything", starting),
    ):
        for _, pod in pods(release(title)):
            component = pod["metadata"]["labels"]["app.kubernetes.io/component"]
            expected = {**TOKENS, **further}.get(component, set())
            assert _tokens_of(pod["spec"]) == expected, component


def test_promotion_gets_the_keys_of_s3_only_if_mlflow_does_not_proxy_artifacts() -> None:
    promotion = {**CREATED_SECRETS["promotion"], "s3Access": True}
    values = {**CREATED_SECRETS, "promotion": promotion}
    seen = {
        pod["metadata"]["labels"]["app.kubernetes.io/component"]: _secrets_of(pod["spec"])
        for _, pod in pods(objects(values))
    }
    for component in ("webhook", "reconciler"):
        assert seen[component] >= _S3
        assert Network(values).goes_out(component, 9000, namespace="storage")
        assert not Network(CREATED_SECRETS).goes_out(component, 9000, namespace="storage")


# --- Network policies -----------------------------------------------------------------------------


class Network:
    """Connections that the policies of a release allow."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._policies = of_kind(objects(values), "NetworkPolicy").values()

    def goes_out(self, pods_of: str, port: int, /, *, protocol: str = "TCP", **peer: str) -> bool:
        """Return whether pods of a component may open a connection to a peer."""
        return self._allowed("egress", "to", pods_of, port, protocol, peer)

    def comes_in(self, pods_of: str, port: int, /, **peer: str) -> bool:
        """Return whether a peer may open a connection to pods of a component."""
        return self._allowed("ingress", "from", pods_of, port, "TCP", peer)

    def _allowed(
        self, way: str, end: str, component: str, port: int, protocol: str, peer: Mapping[str, str]
    ) -> bool:
        pod = {"app.kubernetes.io/part-of": "advgrpo", "app.kubernetes.io/component": component}
        mine = [one["spec"] for one in self._policies if _selects(one["spec"]["podSelector"], pod)]
        assert mine
        assert all(set(spec["policyTypes"]) == {"Ingress", "Egress"} for spec in mine)
        return any(
            _has_port(rule, port, protocol) and _has_peer(rule.get(end), peer)
            for spec in mine
            for rule in spec.get(way, [])
        )


def _selects(selector: Object, labels: Mapping[str, str]) -> bool:
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels[one["key"]] in one["values"] for one in selector.get("matchExpressions", [])
    )


def _has_port(rule: Object, port: int, protocol: str) -> bool:
    wanted = {"protocol": protocol, "port": port}
    return "ports" not in rule or wanted in rule["ports"]


def _has_peer(peers: list[Object] | None, peer: Mapping[str, str]) -> bool:
    if peers is None:
        return True
    for one in peers:
        match one:
            case {"podSelector": selector}:
                part = peer.get("component")
                found = part is not None and _selects(
                    selector,
                    {"app.kubernetes.io/part-of": "advgrpo", "app.kubernetes.io/component": part},
                )
            case {"namespaceSelector": selector}:
                found = _selects(
                    selector, {"kubernetes.io/metadata.name": peer.get("namespace", "")}
                )
            case {"ipBlock": block}:
                found = "address" in peer and ipaddress.ip_address(
                    peer["address"]
                ) in ipaddress.ip_network(block["cidr"])
        if found:
            return True
    return False


def test_jobs_reach_each_other_names_s3_and_mlflow_and_nothing_else() -> None:
    network = Network(EVERYTHING)
    assert network.goes_out("job", 29500, component="job")
    assert network.comes_in("job", 29500, component="job")
    assert network.goes_out("job", 53, protocol="UDP", namespace="kube-system")
    assert network.goes_out("job", 9000, namespace="storage")
    assert network.goes_out("job", 5000, component="mlflow")
    assert network.goes_out("job", 443, address="192.0.2.1"), "networkPolicies.jobs"
    assert not network.goes_out("job", 443, address="10.0.0.1"), "the API server"
    assert not network.goes_out("job", 80, namespace="elsewhere")
    assert not network.goes_out("job", 8888, namespace="kubeflow")
    assert not network.comes_in("job", 29500, component="task")
    assert not network.comes_in("job", 29500, namespace="elsewhere")


@pytest.mark.parametrize("component", ["task", "doctor"])
def test_tasks_reach_the_api_server_pipelines_s3_and_mlflow(component: str) -> None:
    network = Network(EVERYTHING)
    assert network.goes_out(component, 6443, address="10.0.0.1")
    assert network.goes_out(component, 8887, namespace="kubeflow")
    assert network.goes_out(component, 9000, namespace="storage")
    assert network.goes_out(component, 5000, component="mlflow")
    assert network.goes_out(component, 80, namespace="istio-system"), "networkPolicies.tasks"
    assert not network.goes_out(component, 80, namespace="elsewhere")
    assert not network.goes_out(component, 29500, component="job")
    assert not network.comes_in(component, 80, namespace="kubeflow")


# A release with all that there is, and every connection that it needs.
WHOLE: Mapping[str, Any] = {
    **CREATED_SECRETS,
    "mlflow": {
        "server": {
            "enabled": True,
            "database": {"existingSecret": "postgres"},
            "webhooks": {"existingSecret": "fernet"},
            "from": {"namespaces": ["istio-system"]},
        }
    },
    "promotion": {**CREATED_SECRETS["promotion"], "onPromotion": {"pipeline": "roll-out"}},
    "networkPolicies": {
        "s3": {"namespaces": ["storage"]},
        "apiServer": {"cidrs": ["10.0.0.1/32"]},
        "database": {"namespaces": ["databases"]},
        "pushGateway": {"namespaces": ["monitoring"]},
    },
}
PLACES: dict[str, tuple[int, dict[str, str]]] = {
    "names": (53, {"namespace": "kube-system"}),
    "API server": (443, {"address": "10.0.0.1"}),
    "Pipelines": (8888, {"namespace": "kubeflow"}),
    "S3": (9000, {"namespace": "storage"}),
    "database": (5432, {"namespace": "databases"}),
    "Pushgateway": (9091, {"namespace": "monitoring"}),
    "MLflow": (5000, {"component": "mlflow"}),
    "webhook": (8080, {"component": "webhook"}),
    "ranks": (29500, {"component": "job"}),
    "metrics": (9095, {"component": "task"}),
    "the internet": (443, {"address": "203.0.113.1"}),
    "another port of S3's namespace": (22, {"namespace": "storage"}),
    "another port of MLflow": (22, {"component": "mlflow"}),
}
OUT = {
    "job": {"names", "S3", "MLflow", "ranks"},
    "task": {"names", "S3", "MLflow", "API server", "Pipelines"},
    "doctor": {"names", "S3", "MLflow", "API server", "Pipelines"},
    "janitor": {"names", "API server", "Pushgateway"},
    "upload": {"names", "Pipelines"},
    "webhook": {"names", "MLflow", "Pipelines"},
    "reconciler": {"names", "MLflow", "Pipelines"},
    "mlflow": {"names", "S3", "database", "webhook"},
}
"""The destinations of `PLACES` that pods of each component may connect to."""

PORTS = (22, 5000, 8080, 9095, 29500)
IN = {
    # NCCL uses random ports.
    "job": {(port, "job") for port in PORTS},
    "task": {(9095, "Prometheus")},
    "webhook": {(9095, "Prometheus"), (8080, "mlflow")},
    "mlflow": {
        (5000, caller)
        for caller in ("job", "task", "doctor", "webhook", "reconciler", "istio-system")
    },
}
"""Port and callers of the pods of each component that serves anything."""


@cache
def _whole() -> Network:
    return Network(WHOLE)


@pytest.mark.parametrize("component", OUT)
def test_a_pod_may_connect_to_what_it_needs_and_nothing_else(component: str) -> None:
    network = _whole()
    reached = {
        name for name, (port, peer) in PLACES.items() if network.goes_out(component, port, **peer)
    }
    assert reached == OUT[component]
    assert network.goes_out(component, 53, protocol="UDP", namespace="kube-system")


@pytest.mark.parametrize("component", OUT)
def test_only_the_pods_that_need_a_server_may_connect_to_it(component: str) -> None:
    network = _whole()
    callers: dict[str, dict[str, str]] = {one: {"component": one} for one in OUT}
    callers |= {"Prometheus": {"namespace": "monitoring"}}
    callers |= {name: {"namespace": name} for name in ("istio-system", "elsewhere", "kubeflow")}
    found = {
        (port, name)
        for port in PORTS
        for name, peer in callers.items()
        if network.comes_in(component, port, **peer)
    }
    assert found == IN.get(component, set())


def test_egress_between_pods_has_the_matching_ingress() -> None:
    network = _whole()
    calls = [
        (caller, *PLACES[place])
        for caller, places in OUT.items()
        for place in places
        if "component" in PLACES[place][1]
    ]
    assert len(calls) == 7
    for caller, port, peer in calls:
        assert network.comes_in(peer["component"], port, component=caller), (caller, peer)


def test_every_component_has_its_connections_listed() -> None:
    assert {
        pod["metadata"]["labels"]["app.kubernetes.io/component"] for _, pod in pods(objects(WHOLE))
    } | {"job", "task"} == OUT.keys()


def test_promotion_may_connect_to_pipelines_only_if_it_starts_runs() -> None:
    for component in ("webhook", "reconciler"):
        assert Network(EVERYTHING).goes_out(component, 8888, namespace="kubeflow")
        assert not Network(CREATED_SECRETS).goes_out(component, 8888, namespace="kubeflow")
        assert not Network(EVERYTHING).goes_out(component, 443, address="10.0.0.1")


def test_the_webhook_is_called_by_the_mlflow_server_only() -> None:
    network = Network(CREATED_SECRETS)
    assert network.comes_in("webhook", 8080, component="mlflow")
    assert network.goes_out("mlflow", 8080, component="webhook")
    assert not network.comes_in("webhook", 8080, component="job")
    assert not network.comes_in("webhook", 8080, namespace="tracking")
    webhook = {"enabled": True, "existingSecret": "a", "from": {"namespaces": ["tracking"]}}
    elsewhere = Network({**MINIMAL, "promotion": {"webhook": webhook}})
    assert elsewhere.comes_in("webhook", 8080, namespace="tracking")
    assert not elsewhere.comes_in("webhook", 8080, component="mlflow")


def test_the_mlflow_server_admits_advgrpos_pods_and_the_configured_peers() -> None:
    network = Network(EVERYTHING)
    for component in ("job", "task", "doctor", "webhook", "reconciler"):
        assert network.comes_in("mlflow", 5000, component=component)
        assert network.goes_out(component, 5000, component="mlflow")
    assert network.comes_in("mlflow", 5000, namespace="istio-system")
    assert network.comes_in("mlflow", 5000, address="10.1.2.3")
    assert not network.comes_in("mlflow", 5000, component="janitor")
    assert not network.comes_in("mlflow", 5000, namespace="elsewhere")
    assert network.goes_out("mlflow", 5432, namespace="databases")
    assert not Network(CREATED_SECRETS).goes_out("mlflow", 5432, namespace="databases")


@pytest.mark.parametrize(
    ("endpoint", "port"),
    [
        ("", 443),
        ("https://s3.example.org", 443),
        ("http://s3.example.org", 80),
        ("https://s3.example.org:8443", 8443),
        ("http://[fd00::1]:9000", 9000),
    ],
)
def test_the_port_of_s3_is_that_of_its_endpoint(endpoint: str, port: int) -> None:
    network = Network({**MINIMAL, "s3": {**MINIMAL["s3"], "endpoint": endpoint}})
    assert network.goes_out("job", port, address="10.0.0.1")
    assert not network.goes_out("job", 22, address="10.0.0.1")


def test_every_component_of_a_release_has_a_policy() -> None:
    for title in RELEASES:
        policies = of_kind(release(title), "NetworkPolicy").values()
        named = {
            component
            for policy in policies
            for expression in policy["spec"]["podSelector"].get("matchExpressions", [])
            for component in expression["values"]
        }
        labels = [pod["metadata"]["labels"] for _, pod in pods(release(title))]
        assert {one["app.kubernetes.io/component"] for one in labels} <= named
        assert {one["app.kubernetes.io/part-of"] for one in labels} == {"advgrpo"}


def _executors() -> list[Object]:
    """Return the Kubernetes settings of each task of the compiled pipeline."""
    pipeline = Path(__file__).parents[2] / "pipelines" / "adversarial_grpo.yaml"
    _, platform = yaml.safe_load_all(pipeline.read_text(encoding="utf-8"))
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values()
    assert executors
    return list(executors)


def test_tasks_have_the_label_that_policies_select() -> None:
    for executor in _executors():
        assert executor["podMetadata"]["labels"] == {
            "app.kubernetes.io/component": "task",
            "app.kubernetes.io/part-of": "advgrpo",
        }


def test_jobs_have_the_label_that_policies_select() -> None:
    for pod in _job_pods("4x8"):
        labels = pod["metadata"]["labels"]
        assert labels["app.kubernetes.io/component"] == "job"
        assert labels["app.kubernetes.io/part-of"] == "advgrpo"


def test_policies_can_be_disabled() -> None:
    made = objects({**MINIMAL, **OFFLINE, "networkPolicies": {"enabled": False}})
    assert not of_kind(made, "NetworkPolicy")
