"""Look at a cluster for what jobs need, before one is started.

It asks with as few rights as can be: what may not be read is said to be unknown.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from advgrpo.cluster.api_queries import AbsentError, Questions
from advgrpo.cluster.pod_template import MLFLOW_KEYS
from advgrpo.cluster.roles import LAUNCHER_RULES, Rule
from advgrpo.cluster.settings import CLUSTER, ClusterSettings, parse_cluster_settings
from advgrpo.errors import ClusterError, ClusterUnavailableError, ConfigError
from advgrpo.storage.credentials import S3_REQUIRED_KEYS

DOCTOR_RULES: tuple[Rule, ...] = (
    {"apiGroups": [""], "resources": ["configmaps", "serviceaccounts"], "verbs": ["get"]},
    {"apiGroups": [""], "resources": ["persistentvolumeclaims"], "verbs": ["get"]},
    {"apiGroups": ["kueue.x-k8s.io"], "resources": ["localqueues"], "verbs": ["get"]},
)
"""What is asked for besides the launcher's rights; what is refused is left out. Secrets, nodes and
the namespace are asked for as well, but need no right: in a pod, its own environment tells."""

_PULL_REASONS = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")


@dataclass(frozen=True)
class Check:
    """What was looked at, and what was found."""

    name: str
    state: Literal["OK", "FAIL", "SKIP"]
    found: str
    repair: str = ""


def examine(
    *, namespace: str = "", service_account: str = "", config_map: str = "advgrpo"
) -> Iterator[Check]:
    """Look at a cluster, most basic things first.

    Args:
        namespace: Where jobs run; empty for the pod's own, or that of the kubeconfig's context.
        service_account: Whose rights to look at; empty for those of who asks.
        config_map: ConfigMap with the chart's settings, read where the environment lacks them.
    """
    text = os.environ.get(CLUSTER, "")
    try:
        questions = Questions(namespace)
        version = questions.get("/version").get("gitVersion", "unknown")
    except ClusterError as error:
        yield Check("Kubernetes API server", "FAIL", error.message, error.repair)
        yield _settings(text)[0]
        return
    examination = _Examination(questions)
    yield Check("Kubernetes API server", "OK", f"{questions.address}, version {version}")
    yield examination.namespace()
    check, found = examination.config_map(config_map)
    yield check
    check, settings = _settings(text or found)
    yield check
    yield examination.kind("kubeflow.org/v1", "pytorchjobs", "the training operator (1.9)")
    yield examination.kind("argoproj.io/v1alpha1", "workflows", "Kubeflow Pipelines")
    yield examination.rights(service_account)
    if settings is not None:
        yield from examination.settings(settings)
    questions.close()


def require_ready(settings: ClusterSettings) -> None:
    """Refuse to start a run whose jobs could not be started.

    Args:
        settings: Those of the chart.

    Raises:
        ClusterUnavailableError: If the API server does not answer.
        ClusterError: If PyTorchJobs are not known or may not be created, or an object that they
            need is missing.
    """
    questions = Questions()
    questions.get("/version")
    examination = _Examination(questions)
    checks = (
        examination.kind("kubeflow.org/v1", "pytorchjobs", "the training operator (1.9)"),
        examination.rights(""),
        examination.config_map(settings.config_map)[0],
        *examination.needed(settings),
    )
    questions.close()
    for check in checks:
        if check.state == "FAIL":
            raise ClusterError(f"{check.name}: {check.found}", repair=check.repair)


def _settings(text: str) -> tuple[Check, ClusterSettings | None]:
    name = f"settings {CLUSTER}"
    if not text:
        return Check(name, "SKIP", "not known here"), None
    try:
        settings = parse_cluster_settings(text)
    except ConfigError as error:
        return Check(name, "FAIL", error.message, error.repair), None
    each = settings.processes_per_node or settings.gpus_per_node or 1
    return Check(name, "OK", f"{each} processes a node"), settings


class _Examination:
    """Looks at one namespace."""

    def __init__(self, questions: Questions) -> None:
        self._questions = questions

    def namespace(self) -> Check:
        asked = self._questions
        name = f"namespace {asked.namespace}"
        if asked.in_pod and asked.namespace == asked.own_namespace:
            return Check(name, "OK", "this pod is in it")
        return self._exists(name, f"/api/v1/namespaces/{asked.namespace}", "create it")

    def config_map(self, config_map: str) -> tuple[Check, str]:
        """Look for the chart's settings; give them too."""
        name = f"ConfigMap {config_map}"
        data: dict[str, str] = {}

        def look() -> Check:
            data.update(self._questions.named("configmaps", config_map).get("data") or {})
            missing = [key for key in (CLUSTER, "MLFLOW_TRACKING_URI") if not data.get(key)]
            if missing:
                repair = "upgrade the release of the chart"
                return Check(name, "FAIL", f"lacks {', '.join(missing)}", repair)
            return Check(name, "OK", f"has {', '.join(sorted(data))}")

        check = _looked(name, look, "install the chart into the namespace")
        return check, data.get(CLUSTER, "")

    def kind(self, group_version: str, plural: str, part: str) -> Check:
        name = f"kind {plural}.{group_version}"

        def look() -> Check:
            known = self._questions.get(f"/apis/{group_version}").get("resources", [])
            if plural in {entry["name"] for entry in known}:
                return Check(name, "OK", "known")
            raise AbsentError(plural)

        return _looked(name, look, f"install {part}", absent="the cluster does not know it")

    def rights(self, service_account: str) -> Check:
        name = f"rights of {service_account or 'who asks'}"
        where = self._questions.namespace

        def look() -> Check:
            denied = [
                what
                for what, asked in _asked(LAUNCHER_RULES)
                if not self._questions.may(asked, service_account=service_account)
            ]
            if not denied:
                return Check(name, "OK", f"all that the launcher needs in {where}")
            repair = "bind the role that the chart defines for the launcher to the account"
            if not (self._questions.in_pod or service_account):
                repair += "; to look at the tasks' account, give --service-account"
            return Check(name, "FAIL", f"may not {', '.join(denied)} in {where}", repair)

        return _looked(name, look)

    def settings(self, settings: ClusterSettings) -> Iterator[Check]:
        """Look for what the chart's settings name."""
        yield self._secret(settings.s3_secret, S3_REQUIRED_KEYS, all_of_them=True)
        yield self._secret(settings.mlflow_secret, MLFLOW_KEYS, all_of_them=False)
        yield from self.needed(settings)
        yield self._image(settings.image)
        yield self._gpus(settings)

    def needed(self, settings: ClusterSettings) -> Iterator[Check]:
        """Look for the objects without which no pod of a job would start."""
        core = f"/api/v1/namespaces/{self._questions.namespace}"
        account = settings.service_account
        yield self._exists(
            f"service account {account}",
            f"{core}/serviceaccounts/{account}",
            "upgrade the release of the chart",
        )
        for secret in settings.image_pull_secrets:
            repair = "create it with: kubectl create secret docker-registry"
            yield self._exists(f"pull secret {secret}", f"{core}/secrets/{secret}", repair)
        if claim := settings.cache_claim:
            path = f"{core}/persistentvolumeclaims/{claim}"
            repair = "create it, or set cache.enabled to false in the chart's values"
            yield self._exists(f"cache claim {claim}", path, repair)
        yield self._queue(settings.queue)

    def _secret(self, secret: str, keys: tuple[str, ...], *, all_of_them: bool) -> Check:
        name = f"Secret {secret}"

        def look() -> Check:
            data = set(self._questions.named("secrets", secret).get("data") or {})
            if all_of_them and not set(keys) <= data:
                lacking = ", ".join(sorted(set(keys) - data))
                found = f"lacks {lacking}; it has {', '.join(sorted(data)) or 'nothing'}"
                return Check(name, "FAIL", found, f"give it the keys {' and '.join(keys)}")
            if not set(keys) & data:
                found = f"has {', '.join(sorted(data)) or 'nothing'}, which nothing reads"
                return Check(name, "FAIL", found, f"use some of the keys {', '.join(keys)}")
            return Check(name, "OK", f"has {', '.join(sorted(data))}")

        here = [key for key in keys if os.environ.get(key)]
        if all_of_them:
            repair = f"create it with the keys {' and '.join(keys)}"
            check = _looked(name, look, repair)
            # Where S3 knows the service accounts, there is none and none is needed.
            if check.state == "FAIL" and os.environ.get("AWS_WEB_IDENTITY_TOKEN_FILE"):
                return Check(name, "SKIP", "the service account has an identity that S3 knows")
        else:
            check = _looked(name, look, absent="there is none: MLflow is used without a login")
        if check.state == "SKIP" and self._questions.in_pod and here:
            return Check(name, "OK", f"this pod has {', '.join(here)}")
        return check

    def _image(self, image: str) -> Check:
        """Look for pods of the namespace that could not pull the image lately."""
        name = f"image {image}"

        def look() -> Check:
            for event in self._questions.named("events").get("items", []):
                message, reason = str(event.get("message", "")), str(event.get("reason", ""))
                refused = reason in _PULL_REASONS or (reason == "Failed" and "pull" in message)
                if refused and image in message:
                    repair = "correct images.trainer or images.pullSecrets in the chart's values"
                    return Check(name, "FAIL", f"a pod could not pull it: {message}", repair)
            return Check(name, "SKIP", "no failed pull is known; only a pod that uses it can tell")

        return _looked(name, look)

    def _gpus(self, settings: ClusterSettings) -> Check:
        """Look for a node with enough GPUs, among those that jobs may use."""
        wanted, resource = settings.gpus_per_node, settings.gpu_resource
        name = f"nodes with {wanted} {resource}"
        if wanted == 0:
            return Check(name, "SKIP", "processes run on CPU (cluster.gpus_per_node is 0)")
        selector = ",".join(f"{key}={value}" for key, value in settings.node_selector.items())
        chosen = f" with {selector}" if selector else ""

        def look() -> Check:
            nodes = self._questions.get("/api/v1/nodes", labelSelector=selector).get("items", [])
            counts = [
                int((node.get("status") or {}).get("allocatable", {}).get(resource, 0))
                for node in nodes
            ]
            fitting = sum(count >= wanted for count in counts)
            if fitting:
                return Check(name, "OK", f"{fitting} of {len(counts)} nodes{chosen}")
            return Check(
                name,
                "FAIL",
                f"none of {len(counts)} nodes{chosen}; the most that one has is "
                f"{max(counts, default=0)} (an autoscaler may add others when they are asked for)",
                "correct gpu_resource, gpus_per_node or node_selector under `cluster` in the "
                "chart's values",
            )

        return _looked(name, look)

    def _queue(self, queue: str | None) -> Check:
        name = f"queue {queue or '(none)'}"
        if not queue:
            return Check(name, "SKIP", "scheduling is left to Kubernetes")

        def look() -> Check:
            group = self._questions.get("/apis/kueue.x-k8s.io")
            version = group["preferredVersion"]["groupVersion"]
            where = f"/apis/{version}/namespaces/{self._questions.namespace}"
            repair = "create the LocalQueue, or correct cluster.queue in the chart's values"
            return self._exists(name, f"{where}/localqueues/{queue}", repair)

        return _looked(name, look, "install Kueue", absent="the cluster does not have Kueue")

    def _exists(self, name: str, path: str, repair: str) -> Check:
        def look() -> Check:
            self._questions.get(path)
            return Check(name, "OK", "there")

        return _looked(name, look, repair)


def _looked(
    name: str, look: Callable[[], Check], repair: str = "", *, absent: str = "there is none"
) -> Check:
    """Look; say what it means that something is absent, or may not be seen.

    Args:
        name: What is looked at.
        look: Looks.
        repair: What to do if it is absent; if empty, its absence is no failure.
        absent: What to call its absence.
    """
    try:
        return look()
    except AbsentError:
        return Check(name, "FAIL" if repair else "SKIP", absent, repair)
    except ClusterUnavailableError as error:
        return Check(name, "FAIL", error.message, error.repair)
    except ClusterError as error:
        return Check(name, "SKIP", f"may not be seen: {error.message}")


def _asked(rules: tuple[Rule, ...]) -> Iterator[tuple[str, Mapping[str, str]]]:
    for rule in rules:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                plural, _, sub = resource.partition("/")
                for verb in rule["verbs"]:
                    asked = {"verb": verb, "group": group, "resource": plural, "subresource": sub}
                    yield f"{verb} {resource}", asked
