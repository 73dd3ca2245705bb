"""Access reviews: whether Kubernetes allows an account what rules say."""

from collections.abc import Iterable, Iterator

from advgrpo.cluster.api import Api, Json
from advgrpo.cluster.resources import Resource
from advgrpo.cluster.roles import Rule

_GROUP, _VERSION = "authorization.k8s.io", "v1"
_OWN = Resource(_GROUP, _VERSION, "selfsubjectaccessreviews", namespaced=False)
_OTHER = Resource(_GROUP, _VERSION, "localsubjectaccessreviews")


def find_denied(api: Api, rules: Iterable[Rule], service_account: str = "") -> list[str]:
    """Return what an account may not do in the namespace, for instance `create pods`.

    Args:
        api: Client of the API server.
        rules: What to check.
        service_account: The account; empty for the one that sends the requests.

    Raises:
        ClusterError: If the API server refuses the review.
    """
    return [
        f"{attributes['verb']} {resource}"
        for resource, attributes in _attributes(rules)
        if not _is_allowed(api, attributes, service_account)
    ]


def _is_allowed(api: Api, attributes: Json, service_account: str) -> bool:
    # Every authenticated user may review their own permissions; a review of another account needs a
    # permission of its own.
    resource, kind, metadata = _OWN, "SelfSubjectAccessReview", {}
    spec: Json = {"resourceAttributes": {**attributes, "namespace": api.namespace}}
    if service_account:
        resource, kind = _OTHER, "LocalSubjectAccessReview"
        metadata = {"namespace": api.namespace}
        # A review takes the groups as given; bindings to them only count if they are listed.
        spec["user"] = f"system:serviceaccount:{api.namespace}:{service_account}"
        spec["groups"] = [
            "system:serviceaccounts",
            f"system:serviceaccounts:{api.namespace}",
            "system:authenticated",
        ]
    body = {
        "apiVersion": f"{_GROUP}/{_VERSION}",
        "kind": kind,
        "metadata": metadata,
        "spec": spec,
    }
    return bool(api.create(resource, body)["status"].get("allowed", False))


def _attributes(rules: Iterable[Rule]) -> Iterator[tuple[str, Json]]:
    for rule in rules:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                # Roles write `pods/log`; a review has a field for each part.
                plural, _, subresource = resource.partition("/")
                for verb in rule["verbs"]:
                    yield (
                        resource,
                        {
                            "verb": verb,
                            "group": group,
                            "resource": plural,
                            "subresource": subresource,
                        },
                    )
