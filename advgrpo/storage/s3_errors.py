"""Errors of S3 access: which are transient, and what they mean."""

import botocore.exceptions as faults
import urllib3.exceptions
from botocore.parsers import ResponseParserError

from advgrpo.errors import (
    StorageError,
    StorageFullError,
    StorageNotFoundError,
    StorageUnavailableError,
)
from advgrpo.storage.checksums import DamagedError
from advgrpo.storage.credentials import S3_REQUIRED_KEYS
from advgrpo.storage.deadlines import DeadlineExceededError

# HEAD answers have no body, so botocore reports the status as code.
MISSING = frozenset({"NoSuchKey", "NoSuchBucket", "404", "NotFound"})
"""Error codes for a missing object or bucket."""

_NO_ROOM = {"InsufficientStorage", "XMinioStorageFull", "QuotaExceeded"}
# BadDigest and IncompleteBody are corruption on the way, which botocore does not retry.
_LATE = {"SlowDown", "RequestTimeout", "BadDigest", "IncompleteBody", "NoSuchUpload"}
_BUSY_STATUS = 429
_NO_ROOM_STATUS = 507
_SERVER_FAULT = 500
_CHECK = "check that the server runs and that AWS_ENDPOINT_URL_S3 is its address, then run again"
_KEYS = " and ".join(S3_REQUIRED_KEYS)

FAULTS = (
    faults.BotoCoreError,
    faults.ClientError,
    urllib3.exceptions.HTTPError,
    ResponseParserError,
    DamagedError,
    DeadlineExceededError,
)
"""Exceptions of a failed request."""


def is_transient(error: Exception) -> bool:
    """Return whether a retry may succeed, for errors that botocore does not retry itself."""
    if isinstance(error, faults.ClientError):
        return error.response.get("Error", {}).get("Code") in _LATE
    return isinstance(
        error,
        faults.ResponseStreamingError
        | faults.IncompleteReadError
        | faults.ReadTimeoutError
        | urllib3.exceptions.HTTPError
        | DamagedError,
    )


def describe_error(error: Exception, action: str) -> StorageError:
    """Return a storage error with the failed action, its cause and a repair.

    Args:
        error: One of `FAULTS`.
        action: The failed action, as in "cannot read s3://...".
    """
    if isinstance(error, faults.ClientError):
        return _describe_answer(error, action)
    if isinstance(error, faults.NoCredentialsError | faults.PartialCredentialsError):
        return StorageError(f"{action}: no credentials", repair=f"set {_KEYS}")
    if isinstance(error, faults.ParamValidationError):
        return StorageError(f"{action}: {error}", repair="write s3://bucket/folder/name")
    if isinstance(error, faults.SSLError):
        return StorageError(
            f"{action}: {error}",
            repair="set AWS_CA_BUNDLE to the file with the certificates of the server's authority; "
            "if the server uses plain HTTP, set AWS_ENDPOINT_URL_S3 to http://...",
        )
    if isinstance(error, DamagedError):
        return StorageError(
            f"{action}: {error}",
            repair="the content changes on the network or on the server's disk: use https, check "
            "proxies and disks, then run again; if the error persists, write the object again",
        )
    return StorageUnavailableError(f"{action}: {error}", repair=_CHECK)


def _describe_answer(error: faults.ClientError, action: str) -> StorageError:
    code = error.response.get("Error", {}).get("Code", "")
    text = error.response.get("Error", {}).get("Message", "") or code
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    message = f"{action}: the server answers {status} {code}: {text}"
    # Servers report a full disk in different ways, SeaweedFS only in the text.
    if status == _NO_ROOM_STATUS or code in _NO_ROOM or "no space left" in text.lower():
        return StorageFullError(message, repair="free space on the server, then run again")
    if code in MISSING:
        return StorageNotFoundError(message, repair="use the bucket and name of an existing object")
    if status >= _SERVER_FAULT or status == _BUSY_STATUS or code in _LATE:
        return StorageUnavailableError(
            message, repair="check the server's log and its disk, then run again"
        )
    return StorageError(
        message,
        repair=f"check {_KEYS}, with AWS_SESSION_TOKEN if they are temporary, and the permissions "
        "of their owner",
    )
