"""Objects that the chart renders from values."""

import importlib.util
import json
import re
from functools import cache
from pathlib import Path
from types import ModuleType

import kubernetes_validate
import pytest
import yaml

from advgrpo import __version__
from advgrpo.cluster.backends.pytorchjob import PyTorchJobs
from advgrpo.cluster.backends.registry import BACKENDS
from advgrpo.cluster.credentials import MLFLOW_LOGINS, S3_LOGINS, missing_keys
from advgrpo.cluster.job_request import JobRequest
from advgrpo.cluster.resources import Resource
from advgrpo.cluster.settings import ClusterSettings, parse_cluster_settings
from advgrpo.errors import ConfigError
from advgrpo.storage import WRITE_PREFIX
from advgrpo.storage.write_guard import check_may_write
from components import cluster as task_settings
from helm.chart import CHART, EXAMPLES, OFFLINE, Values, lint
from tests.helm.releases import (
    CREATED_SECRETS,
    EVERYTHING,
    MINIMAL,
    RELEASES,
    containers,
    notes,
    objects,
    of_kind,
    pods,
    release,
)

KUBERNETES = "1.37"
OLDEST_KUBERNETES = "1.27"  # Of the chart's `kubeVersion`.


@pytest.mark.parametrize("title", RELEASES)
def test_a_release_passes_the_linter(title: str) -> None:
    assert lint(RELEASES[title]) == []


def test_the_linter_finds_a_wrong_value() -> None:
    assert "s3/bucket" in lint({**MINIMAL, "s3": {"bucket": 1}})[0]


@pytest.mark.parametrize(
    ("title", "version"),
    [*((title, KUBERNETES) for title in RELEASES), ("everything", OLDEST_KUBERNETES)],
)
def test_every_object_fits_the_schema_of_kubernetes(title: str, version: str) -> None:
    for one in release(title):
        kubernetes_validate.validate(one, version, strict=True)


def test_the_schema_finds_a_wrong_field() -> None:
    job = of_kind(release("minimal"), "Job")["advgrpo-upload"]
    wrong = job | {"spec": job["spec"] | {"backofLimit": 1}}
    with pytest.raises(kubernetes_validate.ValidationError, match="backofLimit"):
        kubernetes_validate.validate(wrong, KUBERNETES, strict=True)


@pytest.mark.parametrize("title", RELEASES)
def test_no_two_objects_have_one_name(title: str) -> None:
    names = [(one["kind"], one["metadata"]["name"]) for one in release(title)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("title", RELEASES)
def test_every_object_is_in_the_namespace_of_the_release_and_labelled(title: str) -> None:
    for one in release(title):
        assert one["metadata"]["namespace"] == "research"
        labels = one["metadata"]["labels"]
        assert labels["app.kubernetes.io/part-of"] == "advgrpo"
        assert labels["app.kubernetes.io/instance"] == "advgrpo"
        assert labels["app.kubernetes.io/version"] == __version__
        assert labels["app.kubernetes.io/managed-by"] == "Helm"
        assert {"app.kubernetes.io/name", "app.kubernetes.io/component", "helm.sh/chart"} <= set(
            labels
        )


def test_the_chart_is_of_this_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    assert chart["appVersion"] == __version__
    images = {image["tag"] for image in values["images"].values() if isinstance(image, dict)}
    assert images == {__version__}


@pytest.mark.parametrize("title", RELEASES)
def test_every_container_has_requests_and_limits(title: str) -> None:
    for name, container in containers(release(title)):
        for kind in ("requests", "limits"):
            assert set(container["resources"][kind]) == {"cpu", "memory", "ephemeral-storage"}, name


@pytest.mark.parametrize("title", RELEASES)
def test_selectors_find_the_pods_of_their_object_only(title: str) -> None:
    labelled = {name: pod["metadata"]["labels"] for name, pod in pods(release(title))}
    for kind in ("Deployment", "Service"):
        for name, one in of_kind(release(title), kind).items():
            selector = one["spec"]["selector"].get("matchLabels", one["spec"]["selector"])
            found = [pod for pod, labels in labelled.items() if selector.items() <= labels.items()]
            assert found == [f"Deployment {name}"]


@pytest.mark.parametrize("title", RELEASES)
def test_a_pod_refers_to_objects_of_the_release_or_of_its_values(title: str) -> None:
    made = release(title)
    given = json.dumps(dict(RELEASES[title]))
    for name, pod in pods(made):
        assert pod["spec"]["serviceAccountName"] in of_kind(made, "ServiceAccount"), name
        for volume in pod["spec"]["volumes"]:
            if claim := volume.get("persistentVolumeClaim"):
                assert claim["claimName"] in of_kind(made, "PersistentVolumeClaim")
    for name, container in containers(made):
        for source in container.get("envFrom", []):
            assert source["configMapRef"]["name"] in of_kind(made, "ConfigMap"), name
        for entry in container["env"]:
            secret = entry.get("valueFrom", {}).get("secretKeyRef")
            if secret and not secret.get("optional"):
                data = of_kind(made, "Secret").get(secret["name"], {}).get("data", {})
                assert secret["key"] in data or f'"{secret["name"]}"' in given, name
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        volumes = next(pod for n, pod in pods(made) if name.startswith(n + ":"))["spec"]["volumes"]
        assert mounted == {volume["name"] for volume in volumes}, name


def test_names_are_those_that_the_pipeline_was_compiled_with() -> None:
    made = release("created-secrets")
    assert list(of_kind(made, "ConfigMap")) == [task_settings.CONFIG_MAP]
    assert set(of_kind(made, "Secret")) == {
        task_settings.S3_SECRET,
        task_settings.MLFLOW_SECRET,
        "advgrpo-webhook",
    }
    assert _image("upload", MINIMAL) == task_settings.LAUNCHER
    assert _settings(MINIMAL).image == task_settings.TRAINER


def test_settings_have_the_keys_that_tasks_read() -> None:
    settings = of_kind(release("created-secrets"), "ConfigMap")["advgrpo"]["data"]
    assert sorted(settings) == sorted(task_settings.CONFIG_KEYS)


def test_secrets_have_the_keys_that_tasks_read() -> None:
    made = of_kind(release("created-secrets"), "Secret")
    assert tuple(made["advgrpo-s3"]["data"]) in S3_LOGINS
    by_token = of_kind(release("everything"), "Secret")
    for secrets in (made, by_token):
        assert missing_keys(secrets["advgrpo-mlflow"]["data"], MLFLOW_LOGINS) == ()


@pytest.mark.parametrize(
    ("s3", "below", "inside", "outside"),
    [
        ({}, "s3://research/advgrpo", "s3://research/advgrpo/run", "s3://research/other/run"),
        ({"prefix": ""}, "s3://research", "s3://research/other", "s3://research2/run"),
        (
            {"prefix": "team/a", "writePrefix": "s3://research/team"},
            "s3://research/team",
            "s3://research/team/b/run",
            "s3://research/teams",
        ),
        ({"writePrefix": "s3://"}, "s3://", "s3://other/run", None),
    ],
)
def test_runs_write_below_the_workspace_unless_a_prefix_is_set(
    s3: dict[str, str],
    below: str,
    inside: str,
    outside: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (settings,) = of_kind(objects({**MINIMAL, "s3": {**MINIMAL["s3"], **s3}}), "ConfigMap").values()
    assert settings["data"][WRITE_PREFIX] == below
    monkeypatch.setenv(WRITE_PREFIX, below)
    check_may_write(inside)
    if outside:
        with pytest.raises(ConfigError, match=WRITE_PREFIX):
            check_may_write(outside)


def test_every_pod_that_writes_to_the_workspace_has_the_prefix() -> None:
    made = release("created-secrets")
    (settings,) = of_kind(made, "ConfigMap")
    reading = {
        name.rpartition(" ")[2]
        for name, container in containers(made)
        if {"configMapRef": {"name": settings}} in container.get("envFrom", [])
    }
    assert reading == {"doctor", "webhook", "reconciler"}
    work = JobRequest(task="train", run_key="run", command=("python",), processes=8)
    job = PyTorchJobs().manifest(work, _settings(CREATED_SECRETS))
    for replicas in job["spec"]["pytorchReplicaSpecs"].values():
        (container,) = replicas["template"]["spec"]["containers"]
        assert {"configMapRef": {"name": settings}} in container["envFrom"]


def test_the_chart_knows_the_job_backends_of_the_code() -> None:
    text = (CHART / "templates" / "_names.tpl").read_text(encoding="utf-8")
    block = text.partition('define "advgrpo.backends" -}}')[2].partition("{{- end }}")[0]
    expected = {name: backend.resource for name, backend in BACKENDS.items()}
    found = {
        name: Resource(one["group"], one["version"], one["plural"], installed_by=one["installedBy"])
        for name, one in yaml.safe_load(block).items()
    }
    assert found == expected


def test_without_an_endpoint_requests_go_to_aws() -> None:
    assert "AWS_ENDPOINT_URL" not in of_kind(release("minimal"), "ConfigMap")["advgrpo"]["data"]


def test_the_region_reaches_boto3_in_mlflows_server() -> None:
    keys = {
        variable["name"]: variable["valueFrom"]["configMapKeyRef"]["key"]
        for name, container in containers(objects(CREATED_SECRETS))
        for variable in container.get("env", [])
        if "advgrpo-mlflow" in name and variable["name"].endswith("_REGION")
    }
    assert keys == {"AWS_REGION": "AWS_REGION", "AWS_DEFAULT_REGION": "AWS_REGION"}


def _settings(values: Values, *, name: str = "advgrpo") -> ClusterSettings:
    (found,) = of_kind(objects(values, name=name), "ConfigMap").values()
    return parse_cluster_settings(found["data"]["ADVGRPO_CLUSTER"])


def test_default_settings_of_jobs_are_those_of_the_code() -> None:
    assert _settings(MINIMAL) == ClusterSettings(image=task_settings.TRAINER)


def test_settings_of_jobs_follow_the_values() -> None:
    settings = _settings(EVERYTHING)
    expected = ClusterSettings.model_validate(
        EVERYTHING["cluster"]
        | {
            "image": "registry.example.org/research/advgrpo-trainer-python:0.1.0",
            "imagePullSecrets": ["registry"],
            "serviceAccount": "grpo-training",
            "trainingRuntime": "grpo",
            "configMap": "grpo-settings",
            "cacheClaim": "grpo-cache",
            "cacheSize": "500Gi",
        }
    )
    assert settings == expected


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_settings_of_jobs_of_an_example_can_be_read(path: Path) -> None:
    given = yaml.safe_load(path.read_text(encoding="utf-8"))
    settings = _settings(given | OFFLINE)
    assert settings.gpus_per_node == given["cluster"]["gpusPerNode"]
    assert settings.queue == given["cluster"].get("queue")


def test_a_default_that_is_removed_by_null_is_not_replaced_by_the_codes() -> None:
    removed = {"runAsUser": None, "annotations": None}
    settings = _settings({**MINIMAL, "cluster": removed})
    assert (settings.run_as_user, settings.annotations) == (None, {})


def test_a_cluster_without_gpus_keeps_its_zero() -> None:
    settings = _settings({**MINIMAL, "cluster": {"gpusPerNode": 0, "processesPerNode": 2}})
    assert (settings.gpus_per_node, settings.processes_per_node) == (0, 2)


def test_large_integers_are_rendered_as_integers() -> None:
    user, seconds = 1000660000, 2592000
    toleration = {"key": "a", "operator": "Exists", "tolerationSeconds": seconds}
    cluster = {"runAsUser": user, "deadlineSeconds": seconds, "tolerations": [toleration]}
    values = {**CREATED_SECRETS, "cluster": cluster, "pods": {"tolerations": [toleration]}}
    made = objects(values)
    # Helm reads numbers as floats, and templates print large ones as 2.592e+06.
    assert not re.search(r"\d[eE]\+\d", yaml.safe_dump_all(made))
    for name, pod in pods(made):
        assert pod["spec"]["securityContext"]["runAsUser"] == user, name
        assert pod["spec"]["tolerations"] == [toleration], name
    settings = _settings(values)
    assert (settings.run_as_user, settings.deadline_seconds) == (user, seconds)


def test_two_releases_differ_in_all_names_but_those_that_tasks_read() -> None:
    one, other = objects(MINIMAL, name="one"), objects(MINIMAL, name="other")
    shared = {f["metadata"]["name"] for f in one} & {f["metadata"]["name"] for f in other}
    assert shared == {task_settings.CONFIG_MAP}
    assert _settings(MINIMAL, name="one").service_account == "one-advgrpo-training"


def test_a_long_release_name_gives_names_that_kubernetes_takes() -> None:
    for one in objects(CREATED_SECRETS, name="a" * 53):
        assert len(one["metadata"]["name"]) <= 52, "a CronJob's limit"


OPERATING = Path(__file__).parents[2] / "docs" / "operating.md"


def _image(component: str, values: Values) -> str:
    (image,) = {
        container["image"]
        for name, container in containers(objects(values))
        if name.endswith(f": {component}")
    }
    return str(image)


@pytest.mark.parametrize(
    ("registry", "image", "reference"),
    [
        ("", {}, "advgrpo-launcher-python:0.1.0"),
        ("r.example:5000/a", {}, "r.example:5000/a/advgrpo-launcher-python:0.1.0"),
        ("r.example", {"repository": "team/mine"}, "r.example/team/mine:0.1.0"),
        ("r.example", {"repository": "other.example/mine"}, "other.example/mine:0.1.0"),
        ("r.example", {"repository": "localhost/mine"}, "localhost/mine:0.1.0"),
        ("", {"digest": "sha256:" + "a" * 64}, "advgrpo-launcher-python@sha256:" + "a" * 64),
    ],
)
def test_an_image_has_its_full_reference(registry: str, image: object, reference: str) -> None:
    values = {**MINIMAL, "images": {"registry": registry, "launcher": image}}
    assert _image("janitor", values) == reference


def test_the_pipeline_is_uploaded_after_each_installation_and_upgrade() -> None:
    job = of_kind(release("minimal"), "Job")["advgrpo-upload"]
    annotations = job["metadata"]["annotations"]
    assert annotations["helm.sh/hook"] == "post-install,post-upgrade"
    # A job's template is immutable, so the previous job must be deleted first. A failed one stays
    # for its log.
    policy = set(annotations["helm.sh/hook-delete-policy"].split(","))
    assert policy == {"before-hook-creation", "hook-succeeded"}
    # `helm install` waits, so only errors that a retry may mend are retried.
    (lasting,) = job["spec"]["podFailurePolicy"]["rules"]
    assert lasting == {
        "action": "FailJob",
        "onExitCodes": {"operator": "In", "values": list(range(1, 128))},
    }


def test_the_upload_has_a_token_for_the_audience_of_pipelines() -> None:
    job = of_kind(release("minimal"), "Job")["advgrpo-upload"]["spec"]["template"]["spec"]
    (container,) = job["containers"]
    assert container["command"] == ["advgrpo", "pipeline", "upload"]
    # Without the API server's token there is no file with the namespace either.
    assert "--namespace=research" in container["args"]
    environment = {entry["name"]: entry.get("value") for entry in container["env"]}
    folder = next(m["mountPath"] for m in container["volumeMounts"] if m["name"] != "temporary")
    assert environment["KF_PIPELINES_SA_TOKEN_PATH"] == f"{folder}/token"
    (projected,) = [v["projected"] for v in job["volumes"] if "projected" in v]
    (source,) = projected["sources"]
    assert source["serviceAccountToken"]["audience"] == "pipelines.kubeflow.org"


def test_the_janitor_cleans_the_namespace_of_the_release() -> None:
    for title, dry in (("minimal", []), ("everything", ["--dry-run"])):
        (job,) = [
            cron
            for name, cron in of_kind(release(title), "CronJob").items()
            if name.endswith("-janitor")
        ]
        assert job["spec"]["concurrencyPolicy"] == "Forbid"
        (container,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
        assert container["command"] == ["advgrpo", "cluster", "janitor"]
        assert container["args"] == ["--namespace=research", *dry]


def _environment(title: str, component: str) -> dict[str, str | None]:
    found = [c for name, c in containers(release(title)) if name.endswith(f": {component}")]
    return {entry["name"]: entry.get("value") for entry in found[0]["env"]}


def test_everything_logs_in_the_format_of_the_values() -> None:
    text = objects({**MINIMAL, "logs": {"format": "text"}})
    for found, expected in ((release("created-secrets"), "json"), (text, "text")):
        (settings,) = of_kind(found, "ConfigMap").values()
        assert settings["data"]["ADVGRPO_LOG_FORMAT"] == expected
        for name, container in containers(found):
            if name.endswith((": janitor", ": upload")):
                environment = {entry["name"]: entry.get("value") for entry in container["env"]}
                assert environment["ADVGRPO_LOG_FORMAT"] == expected, name


def test_annotations_policy_and_variable_agree_on_the_port_of_metrics() -> None:
    made = release("created-secrets")
    (settings,) = of_kind(made, "ConfigMap").values()
    assert settings["data"]["ADVGRPO_METRICS_PORT"] == "9095"
    assert _environment("created-secrets", "upload")["ADVGRPO_METRICS_PORT"] == "9095"
    webhook = of_kind(made, "Deployment")["advgrpo-webhook"]["spec"]["template"]
    annotations = webhook["metadata"]["annotations"]
    assert annotations["prometheus.io/scrape"] == "true"
    assert annotations["prometheus.io/port"] == "9095"
    ports = webhook["spec"]["containers"][0]["ports"]
    assert {"name": "metrics", "containerPort": 9095} in ports
    (rule,) = of_kind(made, "NetworkPolicy")["advgrpo-metrics"]["spec"]["ingress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": 9095}]
    (peer,) = rule["from"]
    assert peer["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "monitoring"}


def test_alerting_rules_become_a_prometheus_rule_if_enabled() -> None:
    wanted = {"enabled": True, "labels": {"release": "prometheus"}}
    (rule,) = of_kind(
        objects({**MINIMAL, "metrics": {"prometheusRule": wanted}}), "PrometheusRule"
    ).values()
    assert rule["apiVersion"] == "monitoring.coreos.com/v1"
    assert rule["metadata"]["labels"]["release"] == "prometheus"
    assert rule["metadata"]["labels"]["app.kubernetes.io/part-of"] == "advgrpo"
    assert rule["spec"] == yaml.safe_load((CHART / "alerts.yaml").read_text(encoding="utf-8"))
    assert not of_kind(release("created-secrets"), "PrometheusRule")


def test_a_pod_monitor_and_a_dashboard_are_created_if_enabled() -> None:
    metrics = {
        "enabled": True,
        "from": {"namespaces": ["monitoring"]},
        "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "dashboard": {"enabled": True},
    }
    made = objects({**MINIMAL, "metrics": metrics})
    (monitor,) = of_kind(made, "PodMonitor").values()
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    selector = monitor["spec"]["selector"]
    assert selector["matchLabels"].items() <= task_settings.LABELS.items()
    (component,) = selector["matchExpressions"]
    assert component["values"] == [task_settings.LABELS[component["key"]], "webhook"]
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["relabelings"][-1]["replacement"] == "$1:9095"
    board = of_kind(made, "ConfigMap")["advgrpo-dashboard"]
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(board["data"]["advgrpo.json"])["title"] == "advgrpo"
    assert not of_kind(release("created-secrets"), "PodMonitor")


def test_the_janitor_pushes_its_metrics_if_a_gateway_is_set() -> None:
    gateway = "http://pushgateway.monitoring:9091"
    name = "ADVGRPO_METRICS_PUSH_GATEWAY"
    assert _environment("created-secrets", "janitor")[name] == gateway
    rules = of_kind(release("created-secrets"), "NetworkPolicy")["advgrpo-janitor"]["spec"]
    assert [{"protocol": "TCP", "port": 9091}] in [rule["ports"] for rule in rules["egress"]]
    assert name not in _environment("minimal", "janitor")


def test_without_metrics_no_object_mentions_them() -> None:
    said = json.dumps(release("minimal"))
    assert "prometheus.io" not in said
    assert "ADVGRPO_METRICS" not in said
    assert "advgrpo-metrics" not in said


def test_promotion_runs_the_registry_commands() -> None:
    found = containers(release("everything"))
    commands = {name.rpartition(" ")[2]: container["command"] for name, container in found}
    assert commands["webhook"] == ["advgrpo", "registry", "serve"]
    assert commands["reconciler"] == ["advgrpo", "registry", "reconcile"]


def test_promotion_starts_runs_if_a_pipeline_is_set() -> None:
    names = {"ADVGRPO_ON_PROMOTION_PIPELINE", "ADVGRPO_ON_PROMOTION_PARAMETERS"}
    for title, starts in (("everything", True), ("created-secrets", False)):
        for name, container in containers(release(title)):
            if not name.endswith((": webhook", ": reconciler")):
                continue
            environment = {entry["name"]: entry.get("value") for entry in container["env"]}
            assert (set(environment) >= names) is starts, name
            assert ("KF_PIPELINES_ENDPOINT" in environment) is starts, name
            if starts:
                parameters = json.loads(environment["ADVGRPO_ON_PROMOTION_PARAMETERS"])
                assert parameters == {"model": "{uri}"}


def test_the_uploaded_pipeline_uses_the_names_of_the_release() -> None:
    values = {
        **MINIMAL,
        "images": {"registry": "registry.example.org"},
        "configMap": {"name": "settings"},
        "s3": {"bucket": "research", "existingSecret": "mine"},
        "mlflow": {**MINIMAL["mlflow"], "existingSecret": "ours"},
    }
    (container,) = [c for name, c in containers(objects(values)) if name.endswith(": upload")]
    environment = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert environment["ADVGRPO_LAUNCHER_IMAGE"] == container["image"]
    assert environment["ADVGRPO_RUN_AS_USER"] == "10001"
    assert environment["ADVGRPO_WORKSPACE"] == "s3://research/advgrpo"
    assert environment["ADVGRPO_CONFIG_MAP"] == "settings"
    assert environment["ADVGRPO_S3_SECRET"] == "mine"
    assert environment["ADVGRPO_MLFLOW_SECRET"] == "ours"


def test_helm_test_runs_the_doctor() -> None:
    pod = of_kind(release("everything"), "Pod")["grpo-doctor"]
    assert pod["spec"]["containers"][0]["args"] == [
        "--namespace=research",
        "--workspace=s3://research",
    ]
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert pod["spec"]["containers"][0]["command"] == ["advgrpo", "doctor"]


def test_a_deployment_is_replaced_when_its_settings_change() -> None:
    def digests(values: Values) -> set[str]:
        return {
            pod["metadata"]["annotations"]["advgrpo/settings-digest"]
            for name, pod in pods(objects(values))
            if name.startswith("Deployment")
        }

    before = digests(CREATED_SECRETS)
    s3 = CREATED_SECRETS["s3"]
    assert digests(CREATED_SECRETS) == before
    assert digests({**CREATED_SECRETS, "s3": {**s3, "region": "eu-west-1"}}) != before
    # A digest would confirm a guessed password.
    assert digests({**CREATED_SECRETS, "s3": {**s3, "secretAccessKey": "another"}}) == before


def test_claims_are_kept_on_uninstall() -> None:
    claims = [
        claim
        for title in ("created-secrets", "everything")
        for claim in of_kind(release(title), "PersistentVolumeClaim").values()
    ]
    assert len(claims) == 2
    for claim in claims:
        assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def _mlflow_arguments(values: Values, name: str) -> dict[str, str]:
    deployment = of_kind(objects(values, name=name), "Deployment")[f"{name}-mlflow"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return dict(argument.partition("=")[::2] for argument in container["args"])


@cache
def _mlflow_security() -> ModuleType:
    # Loaded by path, because importing its package takes seconds.
    package = importlib.util.find_spec("mlflow")
    assert package is not None
    assert package.origin is not None
    file = Path(package.origin).with_name("server") / "security_utils.py"
    spec = importlib.util.spec_from_file_location("security_utils", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_mlflow_server_answers_to_every_name_of_its_service() -> None:
    mlflow = CREATED_SECRETS["mlflow"]
    server = {**mlflow["server"], "allowedHosts": ["mlflow.example.org"]}
    values = {**CREATED_SECRETS, "mlflow": {**mlflow, "server": server}}
    allows = _mlflow_security().is_allowed_host_header
    allowed = _mlflow_arguments(values, "advgrpo-x")["--allowed-hosts"].split(",")
    service = "advgrpo-x-mlflow"
    for host in (
        service,
        f"{service}.research",
        f"{service}.research.svc",
        f"{service}.research.svc.cluster.local",
        "localhost",
        "mlflow.example.org",
    ):
        assert allows(allowed, host)
        assert allows(allowed, f"{host}:5000")
    assert allows(allowed, "localhost:8081"), "a forwarded port"
    assert not allows(allowed, "evil.example.org")
    origins = _mlflow_arguments(values, "advgrpo-x")["--cors-allowed-origins"].split(",")
    blocks = _mlflow_security().should_block_cors_request
    assert not blocks("https://mlflow.example.org", "POST", origins)
    assert blocks("https://evil.example.org", "POST", origins)
    settings = of_kind(objects(values, name="advgrpo-x"), "ConfigMap")["advgrpo"]["data"]
    host = settings["MLFLOW_TRACKING_URI"].removeprefix("http://")
    assert allows(allowed, host)


@pytest.mark.filterwarnings("ignore")
def test_the_mlflow_server_has_the_options_that_the_chart_sets() -> None:
    from mlflow.cli import server

    known = {name for parameter in server.params for name in parameter.opts}
    assert set(_mlflow_arguments(CREATED_SECRETS, "advgrpo")) <= known


def test_the_mlflow_server_has_time_to_start() -> None:
    deployment = of_kind(release("created-secrets"), "Deployment")["advgrpo-mlflow"]
    probe = deployment["spec"]["template"]["spec"]["containers"][0]["startupProbe"]
    assert probe["failureThreshold"] * probe["periodSeconds"] == 600


@pytest.mark.parametrize("title", RELEASES)
def test_notes_list_the_next_commands(title: str) -> None:
    text = notes(RELEASES[title])
    assert "helm test advgrpo --namespace research" in text
    workspace = "s3://research" if title == "everything" else "s3://"
    assert f"advgrpo status {workspace}" in text
    assert "<no value>" not in text
    assert "map[" not in text


def test_notes_list_the_command_that_starts_a_run() -> None:
    submit = "advgrpo submit --namespace research --preset pocket --workspace s3://research/advgrpo"
    text = notes(MINIMAL)
    assert f"{submit} --watch" in text
    assert "kubectl port-forward --namespace kubeflow service/ml-pipeline-ui 8080:80" in text
    own = notes({**MINIMAL, "kubeflow": {"ui": "https://kubeflow.example.org/pipeline"}})
    assert "port-forward" not in own
    assert "export KF_PIPELINES_ENDPOINT=https://kubeflow.example.org/pipeline" in own
    assert 'choose the pipeline "adversarial-grpo"' in text


@pytest.mark.parametrize("title", RELEASES)
def test_notes_list_every_variable_with_which_the_chart_uploads_the_pipeline(title: str) -> None:
    text = notes(RELEASES[title])
    made = [*containers(release(title))]
    # The doctor has them as well, also where the chart uploads nothing.
    (doctor,) = [container for name, container in made if name.endswith(": doctor")]
    exports = dict(re.findall(r'export (ADVGRPO_\w+)="?([^"\n]+)', text))
    assert {"ADVGRPO_LAUNCHER_IMAGE", "ADVGRPO_TRAINER_IMAGE"} <= exports.keys()
    environment = {entry["name"]: entry.get("value") for entry in doctor["env"]}
    assert exports.items() <= environment.items()
    uploads = {
        entry["name"]: entry["value"]
        for name, container in made
        if name.endswith(": upload")
        for entry in container["env"]
        if entry["name"].startswith("ADVGRPO_")
    }
    assert uploads.keys() - exports.keys() <= {"ADVGRPO_CACHE", "ADVGRPO_LOG_FORMAT"}
    assert ("choose the pipeline" in text) is bool(uploads)


def test_what_uninstalling_leaves_is_in_the_notes_and_documented() -> None:
    made = release("created-secrets")
    hooks = {
        one["metadata"]["name"]: one["metadata"]["labels"]
        for one in made
        if "helm.sh/hook" in one["metadata"].get("annotations", {})
    }
    assert hooks.keys() == {"advgrpo-doctor", "advgrpo-upload"}
    text, page = notes(CREATED_SECRETS), OPERATING.read_text(encoding="utf-8")
    selector = "app.kubernetes.io/instance=advgrpo"
    assert f"kubectl delete pod,job --namespace research --selector {selector}" in text
    assert f"kubectl delete pvc --namespace research --selector {selector}" in text
    assert "delete pvc" not in notes(MINIMAL)
    for name, labels in hooks.items():
        assert labels["app.kubernetes.io/instance"] == "advgrpo"
        assert name in page


def test_the_images_that_make_images_builds_are_those_of_the_chart() -> None:
    assert _image("janitor", MINIMAL) == task_settings.LAUNCHER
    assert _settings(MINIMAL).image == task_settings.TRAINER
    # Never pulled from a public registry.
    assert task_settings.LAUNCHER.startswith("localhost/")


def test_notes_register_the_webhook_where_its_secret_is() -> None:
    command = notes(CREATED_SECRETS).partition("deployment/advgrpo-webhook -- \\\n")[2]
    service = "http://advgrpo-webhook.research.svc.cluster.local:8080/webhook"
    assert command.splitlines()[0].split() == ["advgrpo", "registry", "subscribe", service]


def test_notes_warn_about_a_pipelines_of_another_namespace() -> None:
    text = notes(MINIMAL)
    assert "Kubeflow Pipelines is in namespace kubeflow. If it is in single-user mode" in text
    own = notes({**MINIMAL, "kubeflow": {"endpoint": "http://ml-pipeline.research.svc:8888"}})
    elsewhere = notes({**MINIMAL, "kubeflow": {"endpoint": "https://kubeflow.example.org"}})
    assert "single-user" not in own + elsewhere


def test_notes_warn_about_disabled_parts() -> None:
    text = notes({**MINIMAL, "janitor": {"enabled": False}, "networkPolicies": {"enabled": False}})
    assert "The janitor is disabled" in text
    assert "Network policies are disabled" in text
    rdma = {"resource": "rdma/hca", "ipcLock": True}
    assert "IPC_LOCK" in notes({**MINIMAL, "cluster": {"rdma": rdma}})
    assert "IPC_LOCK" not in notes(MINIMAL)
