"""Messages of MLflow's webhook: signatures, replay protection and content."""

import base64
import binascii
import hashlib
import hmac
import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from http import HTTPStatus

from advgrpo.redaction import hide
from advgrpo.registry.reconciliation import REQUEST_TAG

TOLERANCE_SECONDS = 300

_MAX_REMEMBERED = 10000
_SIGNATURE_VERSION = "v1"
_MAX_DIGITS = 18


class RefusedError(Exception):
    """A refused message, with the HTTP status of the answer."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class MessageVerifier:
    """Accepts each message once, and only with a valid signature.

    Args:
        secret: Secret shared with MLflow.
        clock: Returns seconds since 1970.

    Source:
        MLflow 3.17, `mlflow/webhooks/delivery.py`.
    """

    def __init__(self, secret: str, clock: Callable[[], float] = time.time) -> None:
        # From now on, logs and errors never contain it.
        hide(secret)
        self._secret = secret.encode()
        self._clock = clock
        self._seen: OrderedDict[str, float] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, headers: Mapping[str, str], body: bytes) -> None:
        """Check signature and timestamp of a message, and that it is not a replay.

        Raises:
            RefusedError: If one of them is wrong.
        """
        # Names of HTTP headers are case-insensitive, and proxies change their case.
        values = {name.lower(): value for name, value in headers.items()}
        delivery = values.get("x-mlflow-delivery-id", "")
        timestamp = values.get("x-mlflow-timestamp", "")
        signature = values.get("x-mlflow-signature", "")
        signed = f"{delivery}.{timestamp}.".encode() + body
        digest = hmac.new(self._secret, signed, hashlib.sha256).digest()
        # In constant time, so that the answer does not leak how much of it matches.
        if not delivery or not hmac.compare_digest(_signature(signature), digest):
            raise RefusedError(HTTPStatus.UNAUTHORIZED, "the signature is wrong")
        # After the signature: an unsigned timestamp means nothing.
        if not is_count(timestamp) or abs(self._clock() - int(timestamp)) > TOLERANCE_SECONDS:
            raise RefusedError(
                HTTPStatus.UNAUTHORIZED,
                f"the timestamp {timestamp!r} is more than {TOLERANCE_SECONDS} s from now",
            )
        with self._lock:
            # Requests are handled in several threads.
            self._forget_old()
            if delivery in self._seen:
                raise RefusedError(HTTPStatus.CONFLICT, f"delivery {delivery} is a replay")
            # Forgetting instead would allow replays.
            if len(self._seen) >= _MAX_REMEMBERED:
                raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "too many messages")
            self._seen[delivery] = self._clock()

    def _forget_old(self) -> None:
        # A replay of these is refused for its timestamp.
        while (
            self._seen and next(iter(self._seen.values())) < self._clock() - 2 * TOLERANCE_SECONDS
        ):
            self._seen.popitem(last=False)


def changed_model(body: bytes) -> str:
    """Return the registered model that a message is about.

    Returns:
        Its name; empty if the change is irrelevant.

    Raises:
        RefusedError: If the body is not a message of MLflow.
    """
    try:
        message = json.loads(body)
        entity, data = str(message["entity"]), message["data"]
        name = data["name"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RefusedError(HTTPStatus.BAD_REQUEST, "the body is not a message of MLflow") from error
    if not isinstance(name, str) or not name:
        raise RefusedError(HTTPStatus.BAD_REQUEST, "the message has no registered model")
    # Decisions are tags, too: without this, each decision would trigger a reconciliation.
    if entity == "model_version_tag" and data.get("key") != REQUEST_TAG:
        return ""
    return name


def is_count(text: str) -> bool:
    """Return whether a text is a non-negative integer of reasonable length."""
    # int() refuses thousands of digits with a ValueError.
    return text.isdecimal() and len(text) <= _MAX_DIGITS


def _signature(header: str) -> bytes:
    version, _, encoded = header.partition(",")
    if version != _SIGNATURE_VERSION:
        # Never equal to a digest, so the message is refused like one with a wrong signature.
        return b""
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return b""
