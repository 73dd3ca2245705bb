"""The receiver of MLflow's webhook, which notifies of changes in the registry.

A message is only a hint at a model; `reconciliation.reconcile` decides about its champion from the
registry. Repeated, late and lost messages are therefore harmless, the last because all models are
also reconciled periodically.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from advgrpo.errors import ConfigError, TrackingError
from advgrpo.registry.webhook_messages import (
    MessageVerifier,
    RefusedError,
    changed_model,
    is_count,
)
from advgrpo.telemetry.logging import event, machine_event
from advgrpo.telemetry.prometheus import MESSAGES
from advgrpo.tracking.connection import FAULTS, connect

SECRET_VARIABLE = "ADVGRPO_WEBHOOK_SECRET"
"""Environment variable with the secret that is shared with MLflow."""

EVENTS: Final = (
    "model_version_alias.created",
    "model_version_alias.deleted",
    "model_version_tag.set",
)
"""Events that the webhook subscribes to."""

PATH = "/webhook"
MAX_BODY_BYTES = 65536

_WEBHOOK = "advgrpo-promotion"
_REQUEST_TIMEOUT_SECONDS = 10

logger = logging.getLogger(__name__)


def subscribe(tracking_uri: str, url: str, *, secret: str) -> None:
    """Register a URL as MLflow's webhook, in place of an earlier one.

    Args:
        tracking_uri: The MLflow server.
        url: URL of the receiver as MLflow reaches it, including the path.
        secret: Secret shared with the receiver.

    Raises:
        ConfigError: If the secret is empty.
        TrackingError: If MLflow is not available, or refuses the URL: by default it accepts only
            https and public addresses.
    """
    _check_secret(secret)
    try:
        client = connect(tracking_uri)
        # Otherwise MLflow would also deliver to the URL of an earlier subscription.
        for webhook in client.list_webhooks(max_results=100):
            if webhook.name == _WEBHOOK:
                client.delete_webhook(webhook.webhook_id)
        client.create_webhook(_WEBHOOK, url, [*EVENTS], secret=secret)
    except FAULTS as error:
        raise TrackingError(
            f"cannot register the webhook {url} on {tracking_uri}: {error}",
            repair="set MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY for the MLflow server, and for an "
            "address inside the cluster MLFLOW_WEBHOOK_ALLOWED_SCHEMES=http,https and "
            "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS=true",
        ) from error


def _check_secret(secret: str) -> None:
    if not secret:
        raise ConfigError(
            f"{SECRET_VARIABLE} is not set, so anyone could send messages",
            repair=f"set {SECRET_VARIABLE} to the same value for `advgrpo registry subscribe` and "
            "`advgrpo registry serve`",
        )


@contextmanager
def receiver(
    host: str, port: int, *, secret: str, notify: Callable[[str], None]
) -> Iterator[ThreadingHTTPServer]:
    """Serve the webhook for the duration of the block.

    `POST /webhook` accepts messages, `GET /healthz` is the health check.

    Args:
        host: Address to listen on.
        port: Port; 0 uses any free one.
        secret: Secret shared with MLflow.
        notify: Callback with the name of each changed registered model; must not block.

    Raises:
        ConfigError: If the secret is empty or the address is not available.
    """
    _check_secret(secret)
    handler = type(
        "Handler",
        (_Handler,),
        {"verifier": MessageVerifier(secret), "notify": staticmethod(notify)},
    )
    try:
        server = ThreadingHTTPServer((host, port), handler)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error}", repair="use another --host or --port"
        ) from error
    # The main thread reconciles, and must not block the answers.
    # The poll interval bounds the time that `shutdown` waits.
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="webhook")
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    verifier: MessageVerifier
    notify: Callable[[str], None]
    # Without it, an idle client occupies a thread for ever.
    timeout = _REQUEST_TIMEOUT_SECONDS
    # The defaults reveal the Python version to unauthenticated clients.
    server_version = "advgrpo"
    sys_version = ""

    def do_GET(self) -> None:
        if self.path == "/healthz":
            self._answer(HTTPStatus.OK, "ok")
        else:
            self._answer(HTTPStatus.NOT_FOUND, f"messages go to POST {PATH}")

    def do_POST(self) -> None:
        try:
            name = self._read_message()
        except RefusedError as error:
            sender, status = self.client_address[0], int(error.status)
            details = event("message_refused", sender=sender, status=status)
            logger.warning("refused a message from %s: %s", sender, error, extra=details)
            self._answer(error.status, str(error))
        else:
            details = machine_event("message_taken", sender=self.client_address[0], model=name)
            logger.info("received a message about %s", name or "no model", extra=details)
            if name:
                self.notify(name)
            self._answer(HTTPStatus.ACCEPTED, f"reconciling {name}" if name else "nothing to do")

    def _read_message(self) -> str:
        if self.path != PATH:
            raise RefusedError(HTTPStatus.NOT_FOUND, f"messages go to POST {PATH}")
        length = self.headers.get("Content-Length", "")
        if not is_count(length):
            raise RefusedError(HTTPStatus.LENGTH_REQUIRED, "the message has no length")
        # Before reading: the signature covers the body, so anyone can send one.
        if int(length) > MAX_BODY_BYTES:
            raise RefusedError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"the message has {length} bytes, more than {MAX_BODY_BYTES}",
            )
        body = self.rfile.read(int(length))
        self.verifier.check(dict(self.headers.items()), body)
        return changed_model(body)

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
        # The default writes each request to stderr, including those of health checks.
        logger.debug(format, *args)
