"""Keep secrets out of what is said: errors, logs and what goes to MLflow pass here.

A secret is the value of an environment variable whose name says so, or what `hide` was told. It is
found as it is, in base64 and with percent signs, and in addresses that carry a user, a password or
a signature.
"""

import base64
import logging
import os
import re
import sys
import threading
import traceback
from types import TracebackType
from urllib.parse import quote, quote_plus

MARK = "***"
"""What stands in a secret's place."""

_NAME = re.compile(
    r"(TOKEN|PASSWORD|PASSWD|SECRET|SECRET_KEY|COOKIES?|ACCESS_KEY|ACCESS_KEY_ID|AUTH_KEY|"
    r"API_KEY|ENCRYPTION_KEY|CREDENTIALS?)$"
)
_USER_IN_ADDRESS = re.compile(r"(?<=://)[^/\s@'\"<>]+@")
_SIGNED = re.compile(
    r"(?i)([?&](?:x-amz-(?:signature|credential|security-token)|awsaccesskeyid|sig|signature|"
    r"token|access_token|api_key|password|secret)=)[^&\s'\"<>]+"
)
# Shorter ones would blot out words.
_SHORTEST = 6

_told: set[str] = set()


def is_secret_name(name: str) -> bool:
    """Tell whether an environment variable of this name holds a secret."""
    return _NAME.search(name.upper()) is not None


def hide(secret: str) -> None:
    """Treat a text as a secret from now on, as one that came by an option or a file."""
    if len(secret) >= _SHORTEST:
        _told.add(secret)


def redact(text: str) -> str:
    """Replace all secrets in a text."""
    text = _SIGNED.sub(rf"\1{MARK}", _USER_IN_ADDRESS.sub(f"{MARK}@", text))
    for form in _forms():
        text = text.replace(form, MARK)
    return text


class RedactingFormatter(logging.Formatter):
    """Formats a record, its traceback included, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def redact_tracebacks() -> None:
    """Have what Python says of an error that nobody handled pass here, too."""
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _say
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = _say_of_thread


def _say(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace))))


def _say_of_thread(fault: threading.ExceptHookArgs) -> None:
    # A thread may end itself by this one, in silence.
    if fault.exc_value is not None and not issubclass(fault.exc_type, SystemExit):
        name = fault.thread.name if fault.thread else "which is gone"
        sys.stderr.write(f"Exception in thread {name}:\n")
        _say(fault.exc_type, fault.exc_value, fault.exc_traceback)


def _forms() -> list[str]:
    secrets = set(_told)
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and is_secret_name(name):
            secrets.add(value)
    user = os.environ.get("MLFLOW_TRACKING_USERNAME")
    password = os.environ.get("MLFLOW_TRACKING_PASSWORD")
    if user and password:
        # As it stands in the header of a request.
        secrets.add(base64.b64encode(f"{user}:{password}".encode()).decode())
    forms: set[str] = set()
    for secret in secrets:
        data = secret.encode()
        forms |= {secret, quote(secret, safe=""), quote_plus(secret), repr(secret)[1:-1]}
        for coded in (base64.b64encode(data), base64.urlsafe_b64encode(data)):
            forms |= {coded.decode(), coded.decode().rstrip("=")}
    # The longer ones first: one may hold another.
    return sorted((form for form in forms if len(form) >= _SHORTEST), key=len, reverse=True)
