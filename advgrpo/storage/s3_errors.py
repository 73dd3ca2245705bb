"""What failures of S3 access mean."""

import botocore.exceptions as faults
import urllib3.exceptions
from botocore.parsers import ResponseParserError

from advgrpo.errors import (
    StorageError,
    StorageFullError,
    StorageNotFoundError,
    StorageUnavailableError,
)
from advgrpo.storage.deadlines import DeadlineExceededError

MISSING = frozenset({"NoSuchKey", "NoSuchBucket", "404", "NotFound"})
"""Codes of answers that say that there is no such object."""

_NO_ROOM = {"InsufficientStorage", "XMinioStorageFull", "QuotaExceeded"}
_LATE = {"SlowDown", "RequestTimeout", "BadDigest", "IncompleteBody", "NoSuchUpload"}
_BUSY_STATUS = 429
_NO_ROOM_STATUS = 507
_SERVER_FAULT = 500
_CHECK = "check that the server runs and that AWS_ENDPOINT_URL_S3 is right, then run again"


class DamagedError(Exception):
    """Content is not what was written, or an answer cannot be understood."""


FAULTS = (
    faults.BotoCoreError,
    faults.ClientError,
    urllib3.exceptions.HTTPError,
    ResponseParserError,
    DamagedError,
    DeadlineExceededError,
)
"""What a failed request raises."""


def may_pass(error: Exception) -> bool:
    """Tell whether the same once more may succeed, of what botocore does not try again itself."""
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


def explained(error: Exception, what: str) -> StorageError:
    """Say what was attempted, why it failed and what to do.

    Args:
        error: One of `FAULTS`.
        what: What was attempted, as in "cannot read s3://...".
    """
    if isinstance(error, faults.ClientError):
        return _explained_answer(error, what)
    if isinstance(error, faults.NoCredentialsError | faults.PartialCredentialsError):
        return StorageError(
            f"{what}: no credentials", repair="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if isinstance(error, faults.ParamValidationError):
        return StorageError(f"{what}: {error}", repair="check the location")
    if isinstance(error, faults.SSLError):
        return StorageError(
            f"{what}: {error}",
            repair="name the file with the certificates of the server's authority in "
            "AWS_CA_BUNDLE; if the server speaks plain HTTP, begin AWS_ENDPOINT_URL_S3 with "
            "http://",
        )
    if isinstance(error, DamagedError):
        return StorageError(
            f"{what}: {error}",
            repair="something between here and the server's disk changes bytes: use https, look "
            "at proxies and disks, then run again; if it stays, write the object anew",
        )
    return StorageUnavailableError(f"{what}: {error}", repair=_CHECK)


def _explained_answer(error: faults.ClientError, what: str) -> StorageError:
    code = error.response.get("Error", {}).get("Code", "")
    text = error.response.get("Error", {}).get("Message", "") or code
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    message = f"{what}: the server answers {status} {code}: {text}"
    if status == _NO_ROOM_STATUS or code in _NO_ROOM or "no space left" in text.lower():
        return StorageFullError(message, repair="free space on the server, then run again")
    if code in MISSING:
        return StorageNotFoundError(message, repair="check bucket and name")
    if status >= _SERVER_FAULT or status == _BUSY_STATUS or code in _LATE:
        return StorageUnavailableError(
            message, repair="read the server's log (its disk may be full), then run again"
        )
    return StorageError(
        message,
        repair="check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and what their owner may do",
    )
