"""Redaction of secrets in errors, logs and what goes to MLflow.

Secrets are the values of environment variables with names such as `*_TOKEN`, and texts that were
passed to `hide`. They are replaced in plain text, in base64 and percent-encoded, and so are users,
passwords and signatures in URLs.
"""

import base64
import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable
from types import TracebackType
from urllib.parse import quote, quote_plus

MARK = "***"
"""Replacement of a secret."""

# At the end of a name only: MLFLOW_TRACKING_TOKEN is secret, TOKENIZERS_PARALLELISM is not.
_NAME = re.compile(
    r"(TOKEN|PASSWORD|PASSWD|SECRET|SECRET_KEY|COOKIES?|ACCESS_KEY|ACCESS_KEY_ID|AUTH_KEY|"
    r"API_KEY|ENCRYPTION_KEY|CREDENTIALS?)$"
)
# These name a secret but are none: servers log the id of a key, and errors name the Secrets of
# Kubernetes and what has their names, such as the MLflow server of the chart.
_IDENTIFIERS = ("ACCESS_KEY_ID", "ADVGRPO_S3_SECRET", "ADVGRPO_MLFLOW_SECRET")
# The user too: some services put a token there.
_USER_IN_ADDRESS = re.compile(r"(?<=://)[^/\s@'\"<>]+@")
# A pre-signed URL is a credential until it expires.
_SIGNED = re.compile(
    r"(?i)([?&](?:x-amz-(?:signature|credential|security-token)|awsaccesskeyid|sig|signature|"
    r"token|access_token|api_key|password|secret)=)[^&\s'\"<>]+"
)
# Shorter secrets occur in ordinary words.
_MIN_LENGTH = 6

ExceptHook = Callable[[type[BaseException], BaseException, TracebackType | None], None]
"""A function for `sys.excepthook`."""

# Of this process alone: a child redacts only what its own environment holds.
_hidden: set[str] = set()


def is_secret_name(name: str) -> bool:
    """Return whether an environment variable of this name holds a secret or a part of a login."""
    return _NAME.search(name.upper()) is not None


def hide(secret: str) -> None:
    """Treat a text as a secret from now on, for instance one from an option or a file."""
    if len(secret) >= _MIN_LENGTH:
        _hidden.add(secret)


def redact(text: str) -> str:
    """Return a text with all secrets replaced."""
    # By pattern as well: a URL may hold secrets that no variable of this process has.
    text = _SIGNED.sub(rf"\1{MARK}", _USER_IN_ADDRESS.sub(f"{MARK}@", text))
    for form in _forms():
        text = text.replace(form, MARK)
    return text


class RedactingFormatter(logging.Formatter):
    """Formats a record, its traceback included, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def redacted_traceback(error: BaseException) -> str:
    """Return an exception's traceback, with all chained exceptions, without secrets."""
    return redact("".join(traceback.format_exception(error)))


def redact_tracebacks(report: ExceptHook | None = None) -> None:
    """Redact the tracebacks of exceptions that Python prints, in all threads.

    Args:
        report: Reports the exception that ends the process, without secrets; None prints its
            traceback.
    """
    # A hook that another program installed stays.
    if sys.excepthook in {sys.__excepthook__, _print_redacted}:
        sys.excepthook = report or _print_redacted
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = _print_redacted_of_thread


def _print_redacted(
    _kind: type[BaseException], error: BaseException, _trace: TracebackType | None
) -> None:
    sys.stderr.write(redacted_traceback(error))


def _print_redacted_of_thread(fault: threading.ExceptHookArgs) -> None:
    # As the default hook does: SystemExit ends a thread silently.
    if fault.exc_value is not None and not issubclass(fault.exc_type, SystemExit):
        name = fault.thread.name if fault.thread else "which is gone"
        sys.stderr.write(f"Exception in thread {name}:\n")
        _print_redacted(fault.exc_type, fault.exc_value, fault.exc_traceback)


def _forms() -> list[str]:
    secrets = set(_hidden)
    # Read each time, because the environment changes while a process runs.
    for name in os.environ:
        # Not `items()`, which fails if another thread removes a variable meanwhile.
        value = os.environ.get(name, "")
        is_identifier = name.upper().endswith(_IDENTIFIERS)
        if len(value) >= _MIN_LENGTH and is_secret_name(name) and not is_identifier:
            secrets.add(value)
    user = os.environ.get("MLFLOW_TRACKING_USERNAME")
    password = os.environ.get("MLFLOW_TRACKING_PASSWORD")
    if user and password:
        # The value of the header of HTTP basic authentication.
        secrets.add(base64.b64encode(f"{user}:{password}".encode()).decode())
    forms: set[str] = set()
    for secret in secrets:
        data = secret.encode()
        # The last form is that of a repr, with its escapes.
        forms |= {secret, quote(secret, safe=""), quote_plus(secret), repr(secret)[1:-1]}
        # With and without padding, which some programs strip.
        for coded in (base64.b64encode(data), base64.urlsafe_b64encode(data)):
            forms |= {coded.decode(), coded.decode().rstrip("=")}
    # Longest first: if a secret contains another one, no part of it may remain.
    return sorted((form for form in forms if len(form) >= _MIN_LENGTH), key=len, reverse=True)
