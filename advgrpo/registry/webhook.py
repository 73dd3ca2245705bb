"""Hear from MLflow that somebody changed its registry.

What MLflow says is only a hint at which model to look; who is champion is decided by
`promotion.reconcile` from what the registry holds. So a message that comes twice, late or never
does no harm, the last because all models are looked at from time to time.
"""

import base64
import binascii
import hashlib
import hmac
import json
import logging
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from advgrpo.errors import AdvGrpoError, ConfigError, TrackingError
from advgrpo.redaction import hide
from advgrpo.registry.promotion import REQUEST_TAG, Announce, reconcile
from advgrpo.telemetry.logging import event, machine_event
from advgrpo.telemetry.prometheus import DECISIONS, LAST_RECONCILIATION, MESSAGES, RECONCILIATIONS
from advgrpo.tracking.connection import FAULTS, connect

SECRET_VARIABLE = "ADVGRPO_WEBHOOK_SECRET"
"""Environment variable with the secret that was given to MLflow with the webhook."""

EVENTS: Final = (
    "model_version_alias.created",
    "model_version_alias.deleted",
    "model_version_tag.set",
)
"""What MLflow is asked to tell of."""

PATH = "/webhook"
MAX_BODY_BYTES = 65536
TOLERANCE_SECONDS = 300

_WEBHOOK = "advgrpo-promotion"
_REMEMBERED = 10000
_SIGNATURE_VERSION = "v1"
_REQUEST_TIMEOUT_SECONDS = 10
_DIGITS = 18

logger = logging.getLogger(__name__)


class RefusedError(Exception):
    """A message that is not taken, with the HTTP status to answer."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Gatekeeper:
    """Takes each message once, and only from who knows the secret.

    Args:
        secret: Shared with MLflow.
        clock: Seconds since the epoch.

    Source:
        MLflow 3.17, `mlflow/webhooks/delivery.py`.
    """

    def __init__(self, secret: str, clock: Callable[[], float] = time.time) -> None:
        hide(secret)
        self._secret = secret.encode()
        self._clock = clock
        self._seen: OrderedDict[str, float] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, headers: Mapping[str, str], body: bytes) -> None:
        """Refuse a message with a wrong signature, an old timestamp, or that came before.

        Raises:
            RefusedError: If it is one of these.
        """
        given = {name.lower(): value for name, value in headers.items()}
        delivery = given.get("x-mlflow-delivery-id", "")
        timestamp = given.get("x-mlflow-timestamp", "")
        signature = given.get("x-mlflow-signature", "")
        signed = f"{delivery}.{timestamp}.".encode() + body
        digest = hmac.new(self._secret, signed, hashlib.sha256).digest()
        if not delivery or not hmac.compare_digest(_signature(signature), digest):
            raise RefusedError(HTTPStatus.UNAUTHORIZED, "the signature is wrong")
        # Signed, so it was MLflow that wrote it.
        if not _is_count(timestamp) or abs(self._clock() - int(timestamp)) > TOLERANCE_SECONDS:
            raise RefusedError(
                HTTPStatus.UNAUTHORIZED,
                f"the timestamp {timestamp!r} is more than {TOLERANCE_SECONDS} s from now",
            )
        with self._lock:
            self._forget()
            if delivery in self._seen:
                raise RefusedError(HTTPStatus.CONFLICT, f"delivery {delivery} came before")
            if len(self._seen) >= _REMEMBERED:
                raise RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "too many messages")
            self._seen[delivery] = self._clock()

    def _forget(self) -> None:
        # By then their timestamp is too old.
        while (
            self._seen and next(iter(self._seen.values())) < self._clock() - 2 * TOLERANCE_SECONDS
        ):
            self._seen.popitem(last=False)


class Reconciler:
    """Looks at models that it is told of at once, and at all of them from time to time.

    Args:
        tracking_uri: The MLflow server.
        every_seconds: Time between two looks at all models.
        announce: Told of new champions.
    """

    def __init__(
        self, tracking_uri: str, *, every_seconds: float, announce: Announce | None = None
    ) -> None:
        self._tracking_uri, self._every_seconds = tracking_uri, every_seconds
        self._announce = announce
        self._names: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def wake(self, name: str) -> None:
        """Have a model looked at."""
        self._names.put(name)

    def stop(self) -> None:
        """Let `run` come to its end."""
        self._names.put(None)

    def run(self) -> None:
        """Look until stopped; what goes wrong is logged, and tried again at the next look."""
        name: str | None = ""
        while name is not None:
            try:
                decided = reconcile(self._tracking_uri, name=name, announce=self._announce)
                DECISIONS.inc(len(decided))
                RECONCILIATIONS.labels("done").inc()
                LAST_RECONCILIATION.set_to_current_time()
            except AdvGrpoError as error:
                RECONCILIATIONS.labels("failed").inc()
                logger.warning("%s", error, extra=event("reconciliation_failed", model=name))
            try:
                name = self._names.get(timeout=self._every_seconds)
            except queue.Empty:
                name = ""


def model_to_look_at(body: bytes) -> str:
    """Read which registered model a message is about.

    Returns:
        Its name; empty if the message is about nothing that matters.

    Raises:
        RefusedError: If the message is not one of MLflow's.
    """
    try:
        message = json.loads(body)
        entity, data = str(message["entity"]), message["data"]
        name = data["name"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RefusedError(HTTPStatus.BAD_REQUEST, "the body is no message of MLflow's") from error
    if not isinstance(name, str) or not name:
        raise RefusedError(HTTPStatus.BAD_REQUEST, "the message names no registered model")
    # Decisions are tags, too: what this process writes must not wake it.
    if entity == "model_version_tag" and data.get("key") != REQUEST_TAG:
        return ""
    return name


def subscribe(tracking_uri: str, url: str, *, secret: str) -> None:
    """Have MLflow send its messages to a URL; done again, it replaces what was there.

    Args:
        tracking_uri: The MLflow server.
        url: Where MLflow reaches the receiver, its path included.
        secret: Shared with the receiver.

    Raises:
        ConfigError: If the secret is empty.
        TrackingError: If MLflow is not available, or does not take the URL: by default it takes
            only https and public addresses.
    """
    _check_secret(secret)
    try:
        client = connect(tracking_uri)
        for webhook in client.list_webhooks(max_results=100):
            if webhook.name == _WEBHOOK:
                client.delete_webhook(webhook.webhook_id)
        client.create_webhook(_WEBHOOK, url, [*EVENTS], secret=secret)
    except FAULTS as error:
        raise TrackingError(
            f"cannot have {tracking_uri} send webhooks to {url}: {error}",
            repair="the MLflow server needs MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY, and for an "
            "address inside the cluster MLFLOW_WEBHOOK_ALLOWED_SCHEMES=http,https and "
            "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS=true",
        ) from error


def _check_secret(secret: str) -> None:
    if not secret:
        raise ConfigError(
            "the webhook has no secret, so anybody could send messages",
            repair=f"set {SECRET_VARIABLE}, for MLflow's webhook and the receiver alike",
        )


@contextmanager
def receiver(
    host: str, port: int, *, secret: str, wake: Callable[[str], None]
) -> Iterator[ThreadingHTTPServer]:
    """Serve the webhook while the block runs.

    `POST /webhook` takes messages, `GET /healthz` says that it is there.

    Args:
        host: Address to listen at.
        port: Port; 0 takes any that is free.
        secret: Shared with MLflow.
        wake: Told the name of each registered model to look at; must not take long.

    Raises:
        ConfigError: If the secret is empty or the address cannot be had.
    """
    _check_secret(secret)
    handler = type(
        "Handler", (_Handler,), {"gatekeeper": Gatekeeper(secret), "wake": staticmethod(wake)}
    )
    try:
        server = ThreadingHTTPServer((host, port), handler)
    except OSError as error:
        raise ConfigError(
            f"cannot listen at {host}:{port}: {error}", repair="use another --host or --port"
        ) from error
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="webhook")
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    gatekeeper: Gatekeeper
    wake: Callable[[str], None]
    timeout = _REQUEST_TIMEOUT_SECONDS
    server_version = "advgrpo"
    sys_version = ""

    def do_GET(self) -> None:
        if self.path == "/healthz":
            self._answer(HTTPStatus.OK, "ok")
        else:
            self._answer(HTTPStatus.NOT_FOUND, f"messages go to POST {PATH}")

    def do_POST(self) -> None:
        try:
            name = self._take()
        except RefusedError as error:
            sender, status = self.client_address[0], int(error.status)
            note = event("message_refused", sender=sender, status=status)
            logger.warning("refused a message from %s: %s", sender, error, extra=note)
            self._answer(error.status, str(error))
        else:
            note = machine_event("message_taken", sender=self.client_address[0], model=name)
            logger.info("took a message about %s", name or "nothing that matters", extra=note)
            if name:
                self.wake(name)
            self._answer(HTTPStatus.ACCEPTED, f"looking at {name}" if name else "nothing to do")

    def _take(self) -> str:
        if self.path != PATH:
            raise RefusedError(HTTPStatus.NOT_FOUND, f"messages go to POST {PATH}")
        length = self.headers.get("Content-Length", "")
        if not _is_count(length):
            raise RefusedError(HTTPStatus.LENGTH_REQUIRED, "the message has no length")
        if int(length) > MAX_BODY_BYTES:
            raise RefusedError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"the message has {length} bytes, more than {MAX_BODY_BYTES}",
            )
        body = self.rfile.read(int(length))
        self.gatekeeper.check(dict(self.headers.items()), body)
        return model_to_look_at(body)

    def _answer(self, status: HTTPStatus, text: str) -> None:
        if self.command == "POST":
            MESSAGES.labels(int(status)).inc()
        content = f"{text}\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        logger.debug(format, *args)


def _is_count(text: str) -> bool:
    # Python refuses to read thousands of digits.
    return text.isdecimal() and len(text) <= _DIGITS


def _signature(header: str) -> bytes:
    version, _, encoded = header.partition(",")
    if version != _SIGNATURE_VERSION:
        return b""
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return b""
