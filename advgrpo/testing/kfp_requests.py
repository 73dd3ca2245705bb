"""Requests to the fake Kubeflow Pipelines server, and the parts of its answers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from email.policy import HTTP
from typing import Any, Literal
from urllib.parse import unquote_plus

import yaml

KfpFault = Literal["drop", "lose_answer", "page", "slow"] | int
"""A request's fault: the connection breaks before or after the work, a log-in page is sent, the
answer is late, or the server answers with this status."""


@dataclass(frozen=True)
class KfpRequest:
    """A request as the server received it."""

    method: str
    path: str
    """Path below `/apis/v2beta1`."""

    query: Mapping[str, str]
    headers: Mapping[str, str]
    """Values by lower-case name."""

    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        """The body, which is a JSON object."""
        read: dict[str, Any] = json.loads(self.body)
        return read


class RefusalError(Exception):
    """A refusal: HTTP status and message of the answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def select(among: Mapping[str, Mapping[str, Any]], request: KfpRequest) -> list[Mapping[str, Any]]:
    """Return the entries that a request's filter and parameters select."""
    # The real server decodes the filter as a form value, so a plus sign becomes a space.
    body = json.loads(unquote_plus(request.query.get("filter") or "{}"))
    found = list(among.values())
    for predicate in body.get("predicates", []):
        wanted = predicate.get("stringValue", predicate.get("string_value"))
        found = [entry for entry in found if entry.get(predicate["key"]) == wanted]
    for key in ("namespace", "experiment_id"):
        if key in request.query:
            found = [entry for entry in found if entry.get(key) == request.query[key]]
    return found


def page(name: str, entries: Sequence[Mapping[str, Any]], request: KfpRequest) -> dict[str, Any]:
    """Return a page of a list; like the real server, omit the list when it is empty."""
    ordered = list(entries)
    if request.query.get("sort_by") == "created_at desc":
        ordered.reverse()
    start = int(request.query.get("page_token") or 0)
    # The small default makes clients that ignore page tokens fail.
    end = start + int(request.query.get("page_size") or 10)
    body = {name: ordered[start:end], "total_size": len(ordered)} if ordered else {}
    return {**body, "next_page_token": str(end)} if end < len(ordered) else body


def read_upload(request: KfpRequest) -> dict[str, Any]:
    """Parse a pipeline from a form with one file."""
    # The email parser reads multipart forms if it gets the header.
    head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
    form = message_from_bytes(head + request.body, policy=HTTP)
    part = next(iter(form.walk() if not form.is_multipart() else form.iter_parts()))
    assert isinstance(part, Message)
    documents = list(yaml.load_all(part.get_payload(decode=True), yaml.CSafeLoader))  # type: ignore[arg-type]
    if len(documents) == 1:
        return dict(documents[0])
    specification, platform = documents
    return {
        "pipelineInfo": specification["pipelineInfo"],
        "pipeline_spec": specification,
        "platform_spec": platform,
    }


def error_body(status: int, message: str) -> dict[str, Any]:
    """Return the body of an error answer."""
    return {"error": message, "message": message, "code": status, "details": []}
