"""The object store of the fake API server, with Kubernetes' semantics of deletion and patches."""

import copy
import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """The resource or object that a request addresses."""

    group: str
    """API group; empty for the core."""

    version: str
    resource: str
    """Plural name, for instance `pods`."""

    namespace: str = ""
    name: str = ""
    subresource: str = ""

    @property
    def api_version(self) -> str:
        """Group and version, as in an object's `apiVersion`."""
        return f"{self.group}/{self.version}" if self.group else self.version


class RefusedError(Exception):
    """A refusal, answered with a Kubernetes `Status`."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.body: Json = {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "message": message,
            "reason": reason,
            "code": code,
        }


def timestamp(seconds: float | int, digits: int = 0) -> str:
    """Format a timestamp as Kubernetes does.

    Args:
        seconds: Since 1970, UTC.
        digits: Digits of the fraction: none in objects, nine in logs.
    """
    whole = datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%S")
    fraction = f"{seconds % 1:.{digits}f}"[1:] if digits else ""
    return f"{whole}{fraction}Z"


def matches(selector: str, labels: Mapping[str, str]) -> bool:
    """Return whether labels match a selector of `key=value`, `key!=value`, `key` and `!key`."""
    return all(_matches_part(part.strip(), labels) for part in selector.split(",") if part.strip())


def _matches_part(part: str, labels: Mapping[str, str]) -> bool:
    if "!=" in part:
        key, _, value = part.partition("!=")
        return labels.get(key.strip()) != value.strip()
    if "=" in part:
        key, _, value = part.replace("==", "=").partition("=")
        return labels.get(key.strip()) == value.strip()
    return part[1:] not in labels if part.startswith("!") else part in labels


def merge(old: object, patch: object) -> object:
    """Apply a merge patch (RFC 7386)."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result


@dataclass
class ObjectStore:
    """All objects, by resource, namespace and name.

    Args:
        clock: Returns seconds since 1970.
    """

    clock: Callable[[], float]
    deletion_seconds: float | int = 0
    """Grace period of pods and of objects deleted in the foreground."""

    moment: float | None = None
    """Due time of the step being carried out; None uses the clock."""

    _objects: dict[tuple[str, str, str, str], Json] = field(default_factory=dict)
    _deletions: dict[str, float] = field(default_factory=dict)
    _numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    def now(self) -> float:
        """Return the current time, in seconds since 1970."""
        return self.clock() if self.moment is None else self.moment

    def find(self, group: str, resource: str, namespace: str, name: str) -> Json | None:
        """Return an object itself, not a copy, or None."""
        return self._objects.get((group, resource, namespace, name))

    def all(self, group: str, resource: str, namespace: str = "") -> list[Json]:
        """Return all objects of a resource, in one namespace or in all."""
        return [
            found
            for (its_group, its_resource, its_namespace, _), found in self._objects.items()
            if (its_group, its_resource) == (group, resource) and namespace in {"", its_namespace}
        ]

    def create(self, target: Target, body: Json) -> Json:
        """Store a new object.

        Raises:
            RefusedError: If the name exists already, or is missing.
        """
        made = copy.deepcopy(body)
        meta = made.setdefault("metadata", {})
        number = next(self._numbers)
        if not meta.get("name") and meta.get("generateName"):
            meta["name"] = f"{meta['generateName']}{number:05d}"
        name = meta.get("name", "")
        if not name:
            raise RefusedError(422, "Invalid", "metadata.name: Required value")
        key = (target.group, target.resource, target.namespace, name)
        if key in self._objects:
            what = f"{target.resource}.{target.group}".rstrip(".")
            # Clients must wait for the deletion before they create the object again.
            going = "deletionTimestamp" in self._objects[key]["metadata"]
            prefix = "object is being deleted: " if going else ""
            message = f'{prefix}{what} "{name}" already exists'
            raise RefusedError(409, "AlreadyExists", message)
        made.setdefault("apiVersion", target.api_version)
        meta |= {
            # Deterministic, so that failures can be reproduced.
            "uid": f"00000000-0000-4000-8000-{number:012d}",
            "resourceVersion": str(number),
            "creationTimestamp": timestamp(self.now()),
        }
        if target.namespace:
            meta["namespace"] = target.namespace
        self._objects[key] = made
        return made

    def patch(self, target: Target, change: Json) -> Json:
        """Apply a merge patch.

        Raises:
            RefusedError: If the object does not exist.
        """
        found = self.get(target)
        found.update(merge(found, change))  # type: ignore[call-overload]
        self.touch(found)
        return found

    def get(self, target: Target) -> Json:
        """Return an object itself, not a copy.

        Raises:
            RefusedError: If the object does not exist.
        """
        found = self.find(target.group, target.resource, target.namespace, target.name)
        if found is None:
            what = f"{target.resource}.{target.group}".rstrip(".")
            raise RefusedError(404, "NotFound", f'{what} "{target.name}" not found')
        return found

    def touch(self, changed: Json) -> None:
        """Bump the resource version of an object that was changed in place."""
        changed["metadata"]["resourceVersion"] = str(next(self._numbers))

    def delete(self, target: Target, options: Json) -> Json:
        """Delete an object and its dependents, at once or after `deletion_seconds`.

        Raises:
            RefusedError: If the object does not exist, or a precondition fails.
        """
        found = self.get(target)
        meta = found["metadata"]
        for part, wanted in (options.get("preconditions") or {}).items():
            # Preconditions prevent the deletion of a successor of the same name.
            if wanted and meta[part] != wanted:
                message = f"Precondition failed: {part}: {wanted}, object meta: {meta[part]}"
                raise RefusedError(409, "Conflict", message)
        foreground = options.get("propagationPolicy") == "Foreground"
        is_pod = target.resource == "pods" and not target.group
        if (foreground or is_pod) and self.deletion_seconds > 0:
            self._delete_later(found)
            for dependent in self.owned_by(meta["uid"]):
                self._delete_later(dependent)
        else:
            self.remove(found)
        return found

    def owned_by(self, uid: str) -> list[Json]:
        """Return the objects that an owner reference ties to this uid."""
        return [
            one
            for one in self._objects.values()
            if uid in {owner["uid"] for owner in one["metadata"].get("ownerReferences", ())}
        ]

    def remove(self, gone: Json) -> None:
        """Remove an object and the dependents that have no other owner."""
        uid = gone["metadata"]["uid"]
        self._deletions.pop(uid, None)
        self._objects = {key: one for key, one in self._objects.items() if one is not gone}
        present = {one["metadata"]["uid"] for one in self._objects.values()}
        for dependent in self.owned_by(uid):
            owners = {owner["uid"] for owner in dependent["metadata"]["ownerReferences"]}
            # The garbage collector keeps dependents that have another owner.
            if not owners & present:
                self.remove(dependent)

    def collect(self) -> None:
        """Remove the objects whose grace period is over."""
        due = {uid for uid, when in self._deletions.items() if when <= self.now()}
        for one in list(self._objects.values()):
            if one["metadata"]["uid"] in due:
                self.remove(one)

    def clear(self) -> None:
        """Remove everything."""
        self._objects.clear()
        self._deletions.clear()

    def _delete_later(self, deleted: Json) -> None:
        meta = deleted["metadata"]
        if meta["uid"] not in self._deletions:
            meta["deletionTimestamp"] = timestamp(self.now())
            self._deletions[meta["uid"]] = self.now() + self.deletion_seconds
            self.touch(deleted)


def page(found: list[Json], target: Target, parameters: Mapping[str, str]) -> Json:
    """Return one page of a list: the objects that the selectors match, `limit` of them."""
    fields = parameters.get("fieldSelector", "")
    chosen = [
        one
        for one in found
        if matches(parameters.get("labelSelector", ""), one["metadata"].get("labels", {}))
        and matches(fields, {part: _at(one, part) for part in _keys(fields)})
    ]
    start = int(parameters.get("continue") or 0)
    end = start + int(parameters.get("limit") or len(chosen) or 1)
    meta = {"continue": str(end)} if end < len(chosen) else {}
    return {
        "apiVersion": target.api_version,
        "kind": "List",
        "metadata": meta,
        # A copy: the store changes objects in place while the answer is sent.
        "items": json.loads(json.dumps(chosen[start:end])),
    }


def _keys(selector: str) -> list[str]:
    return [part.partition("=")[0].rstrip("!").strip() for part in selector.split(",") if part]


def _at(one: Json, path: str) -> str:
    value: object = one
    for part in path.split("."):
        value = value.get(part, "") if isinstance(value, dict) else ""
    return str(value)
