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
from advgrpo.storage.checksums import OPAQUE_ETAGS, DamagedError
from advgrpo.storage.credentials import S3_KEYS, S3_REQUIRED_KEYS
from advgrpo.storage.deadlines import DeadlineExceededError
from advgrpo.storage.s3_answers import REGION_HEADER, NotS3Error
from advgrpo.storage.s3_listing import ListingError

# HEAD answers have no body, so botocore reports the status as code.
MISSING = frozenset({"NoSuchKey", "NoSuchBucket", "404", "NotFound"})
"""Error codes for a missing object or bucket."""

_NO_ROOM = {"InsufficientStorage", "XMinioStorageFull", "QuotaExceeded"}
# BadDigest and IncompleteBody are corruption on the way, which botocore does not retry.
_LATE = {"SlowDown", "RequestTimeout", "BadDigest", "IncompleteBody", "NoSuchUpload"}
_BUSY_STATUSES = {408, 429}
_NO_ROOM_STATUS = 507
_SERVER_FAULT = 500
_REFUSALS = {401, 403}
_CHECK = "check that the server runs and that AWS_ENDPOINT_URL_S3 is its address, then run again"
_KEYS = " and ".join(S3_REQUIRED_KEYS)
_API = (
    "set AWS_ENDPOINT_URL_S3 to the address of the server's S3 API, not of its web console or of a "
    "log-in page, and check the proxies between"
)
_LOG = "check the server's log, and that AWS_ENDPOINT_URL_S3 is the address of an S3 server"
_REGION = "the bucket's region, and AWS_ENDPOINT_URL_S3 to the server's address in that region"
_CLOCK = "synchronize the clocks of this machine and of the server, for instance by NTP"
_RENEW = "get new temporary credentials and set all of " + ", ".join(S3_KEYS)
_SMALLER = (
    "raise the size limit of the server or of the proxy in front of it to more than 64 MiB (in "
    "nginx, client_max_body_size)"
)
_UNSUPPORTED = (
    "use an S3 server that supports this operation, and check that AWS_ENDPOINT_URL_S3 is its "
    "address"
)
_ARCHIVED = "restore the object from its archive, then run again"
_NAME = "use the name of an existing bucket: 3 to 63 small letters, digits, dots and hyphens"
_SHORTER = "use a shorter location: S3 allows 1024 bytes after the bucket's name"
_ENCRYPTION = "check the key that encrypts the bucket, and the permissions to use it"
_LISTING = "upgrade the S3 server, whose listings of many files are incomplete, or use another one"
_REGION_CODES = {
    "AuthorizationHeaderMalformed",
    "IllegalLocationConstraintException",
    "PermanentRedirect",
    "TemporaryRedirect",
    "301",
    "307",
}
_REPAIRS = {
    "RequestTimeTooSkewed": _CLOCK,
    "RequestExpired": _CLOCK,
    "ExpiredToken": _RENEW,
    "ExpiredTokenException": _RENEW,
    "TokenRefreshRequired": _RENEW,
    "InvalidToken": _RENEW,
    "EntityTooLarge": _SMALLER,
    "MaxMessageLengthExceeded": _SMALLER,
    "413": _SMALLER,
    "NotImplemented": _UNSUPPORTED,
    "MethodNotAllowed": _UNSUPPORTED,
    "501": _UNSUPPORTED,
    "405": _UNSUPPORTED,
    "InvalidObjectState": _ARCHIVED,
    "InvalidBucketName": _NAME,
    "KeyTooLongError": _SHORTER,
}
"""Repair by the code of S3's error, or by the HTTP status if there is none."""
_REPAIRS_BY_CLASS: dict[type[Exception], str] = {
    faults.ParamValidationError: "write s3://bucket/folder/name",
    faults.SSLError: "set AWS_CA_BUNDLE to the file with the certificates of the server's "
    "authority; if the server uses plain HTTP, set AWS_ENDPOINT_URL_S3 to http://...",
    NotS3Error: _API,
    ListingError: _LISTING,
    faults.PaginationError: _LISTING,
    DamagedError: "the content changes on the network or on the server's disk: use https, check "
    "proxies and disks, then run again; if the error persists, write the object again, or, for a "
    f"server whose ETags are not MD5 digests, set {OPAQUE_ETAGS}=true",
}

FAULTS = (
    faults.BotoCoreError,
    faults.ClientError,
    urllib3.exceptions.HTTPError,
    ResponseParserError,
    DamagedError,
    DeadlineExceededError,
    NotS3Error,
    ListingError,
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
        | DamagedError
        # Another process may delete the files that were announced.
        | ListingError,
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
    for kind, repair in _REPAIRS_BY_CLASS.items():
        if isinstance(error, kind):
            return StorageError(f"{action}: {error}", repair=repair)
    return StorageUnavailableError(f"{action}: {error}", repair=_CHECK)


def _describe_answer(error: faults.ClientError, action: str) -> StorageError:
    details = error.response.get("Error", {})
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    code = details.get("Code") or str(status)
    text = details.get("Message") or ""
    # An answer without a body has its status as code.
    answer = " ".join(dict.fromkeys((str(status), code)))
    message = f"{action}: the server answers {answer}{text and f': {text}'}"
    # Servers report a full disk in different ways, SeaweedFS only in the text.
    if status == _NO_ROOM_STATUS or code in _NO_ROOM or "no space left" in text.lower():
        return StorageFullError(message, repair="free space on the server, then run again")
    if code == "NoSuchBucket":
        return StorageNotFoundError(
            message, repair="create the bucket, or use the name of an existing one"
        )
    if code in MISSING:
        return StorageNotFoundError(message, repair="use the bucket and name of an existing object")
    if repair := _repair(error, code, str(status), text):
        return StorageError(message, repair=repair)
    if status >= _SERVER_FAULT or status in _BUSY_STATUSES or code in _LATE:
        return StorageUnavailableError(
            message, repair="check the server's log and its disk, then run again"
        )
    return StorageError(
        message,
        repair=f"check {_KEYS}, with AWS_SESSION_TOKEN if they are temporary, and the permissions "
        "of their owner"
        if status in _REFUSALS
        else _LOG,
    )


def _repair(error: faults.ClientError, code: str, status: str, text: str) -> str:
    """Return the repair of an error that is not about keys; empty if none is known."""
    # MinIO's web console; the code differs between versions.
    if "api port" in text.lower():
        return _API
    if code in _REGION_CODES:
        headers = error.response["ResponseMetadata"]["HTTPHeaders"]
        region = error.response["Error"].get("Region") or headers.get(REGION_HEADER)
        return (
            f"set AWS_REGION to {region}, {_REGION}" if region else f"set AWS_REGION to {_REGION}"
        )
    # A signed request that is too old or from the future; AWS uses its code for wrong keys too.
    if "not yet current" in text or "expired:" in text.lower():
        return _CLOCK
    if code.startswith("KMS."):
        return _ENCRYPTION
    return _REPAIRS.get(code) or _REPAIRS.get(status, "")
