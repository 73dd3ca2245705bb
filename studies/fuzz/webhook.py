"""Fuzzed messages and HTTP requests of the webhook, with valid and invalid signatures."""

import base64
import hashlib
import hmac
import io
import re
from collections.abc import Mapping
from contextlib import suppress
from http.client import parse_headers

from advgrpo.registry.webhook import _Handler
from advgrpo.registry.webhook_messages import MessageVerifier, RefusedError, changed_model

NOW = 1_700_000_000
SECRET = "a secret"

_STATUS = re.compile(rb"HTTP/1\.\d (\d{3}) ")
_OF_OURS = re.compile(rb"20[02]|4\d\d|50[135]")
_HEADERS = ("X-MLflow-Delivery-Id", "X-MLflow-Timestamp")


def message(data: bytes) -> None:
    """Body of a signed message."""
    with suppress(RefusedError):
        assert isinstance(changed_model(data), str)


def signature(delivery: str, time: str, body: bytes) -> str:
    """Return the signature that MLflow would send."""
    digest = hmac.new(SECRET.encode(), f"{delivery}.{time}.".encode() + body, hashlib.sha256)
    return "v1," + base64.b64encode(digest.digest()).decode()


def accepts_headers(headers: Mapping[str, str], body: bytes, *, signed: bool) -> bool:
    """Return whether the verifier accepts a message.

    Args:
        headers: Headers of the request.
        body: Body of the request.
        signed: Whether to replace the signature by a valid one.
    """
    if signed:
        delivery, time = (headers.get(name, "") for name in _HEADERS)
        headers = {**headers, "x-mlflow-signature": signature(delivery, time, body)}
    try:
        MessageVerifier(SECRET, clock=lambda: NOW).check(headers, body)
    except RefusedError:
        return False
    return True


def request(data: bytes) -> None:
    """An HTTP request; only a signed one may cause a notification."""
    notified: list[str] = []
    kind = type(
        "Handler",
        (_Handler,),
        {
            "verifier": MessageVerifier(SECRET, clock=lambda: NOW),
            "notify": staticmethod(notified.append),
        },
    )
    wire = _Wire(data)
    kind(wire, ("127.0.0.1", 0), None)
    # HTTP/0.9 has no status line.
    status = _STATUS.match(wire.answer)
    assert status is None or _OF_OURS.fullmatch(status[1]), wire.answer[:200]
    assert not notified or _is_signed(data)


def _is_signed(data: bytes) -> bool:
    stream = io.BytesIO(data)
    stream.readline()
    headers = parse_headers(stream)
    body = stream.read(int(headers["Content-Length"]))
    # Of repeated headers, the last one counts.
    last = {name.lower(): value for name, value in headers.items()}
    delivery, time = (last[name.lower()] for name in _HEADERS)
    right = signature(delivery, time, body)
    given = last["x-mlflow-signature"].removeprefix("v1,")
    return base64.b64decode(given) == base64.b64decode(right.removeprefix("v1,"))


class _Wire:
    """A socket with a received request, as `BaseHTTPRequestHandler` uses it."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.answer = b""

    def settimeout(self, seconds: float) -> None:
        """Accept and ignore the timeout."""

    def makefile(self, *_: object) -> io.BytesIO:
        """Return the request."""
        return io.BytesIO(self._data)

    def sendall(self, data: bytes) -> None:
        """Record the response."""
        self.answer += data


def sign_request(data: bytes) -> bytes:
    """Return a request with the length and signature that match its content."""
    head, _, body = data.partition(b"\r\n\r\n")
    given = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])
    }
    delivery, time = (given.get(name.lower().encode(), b"").decode("latin-1") for name in _HEADERS)
    right = {
        b"Content-Length": str(len(body)).encode(),
        b"X-MLflow-Signature": signature(delivery, time, body).encode(),
    }
    lines = [
        line
        for line in head.split(b"\r\n")
        if line.partition(b":")[0].strip().lower() not in {name.lower() for name in right}
    ]
    lines += [name + b": " + value for name, value in right.items()]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body
